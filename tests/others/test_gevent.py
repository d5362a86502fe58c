"""gevent patches modules so that threads are greenlets, before this package is imported or after that.

Workers are greenlets then, and whoever waits has to let the others go on. A task that calls `take_turns` ends only if
they do.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest
from child import FORKS, PRELUDE, needs_fork, run_well

# On 3.13 earlier ones hang at exit when a pool has an idle worker, the standard library's pool included.
pytest.importorskip("gevent", "26.8", reason="gevent 26.8 is not installed: there are no free-threaded wheels of it")

PATCH = """
from gevent import monkey
monkey.patch_all()
"""

TASKS = """
import gevent
from concurrent.futures import as_completed, wait

main = threading.get_ident()


def take_turns(*values):
    # In a task: return when a greenlet that is begun here has run.
    assert threading.get_ident() != main
    turn = threading.Event()
    gevent.spawn(turn.set)
    turn.wait()
    return values[-1] if values else None
"""

Run = Callable[..., list[str]]


@pytest.fixture(params=["before", "after"])
def run_patched(request: pytest.FixtureRequest) -> Run:
    """What runs a script in an interpreter of its own, patched before, or after, the import of this package."""
    start = PATCH + PRELUDE if request.param == "before" else PRELUDE + PATCH
    return lambda script: run_well(dedent(script), start + TASKS)


def test_who_waits_lets_others_go_on(run_patched: Run) -> None:
    """Each call that waits, in the main greenlet."""
    run_patched("""
        with StatefulThreadPoolExecutor(2) as pool:
            futures = [pool.submit(take_turns, n) for n in range(5)]
            assert [future.result() for future in futures] == [*range(5)]
            assert pool.submit(take_turns).exception() is None
            assert [*pool.map(take_turns, range(5))] == [*range(5)]
            assert [*pool.map(take_turns, range(5), buffersize=2)] == [*range(5)]
            assert sorted(pool.map_unordered(take_turns, range(5))) == [*range(5)]
            assert len(wait([pool.submit(take_turns) for _ in range(5)]).done) == 5
            assert len([*as_completed([pool.submit(take_turns) for _ in range(5)])]) == 5
            with pool.scope() as scope:
                futures = [scope.submit(take_turns) for _ in range(5)]
            assert all(future.done() for future in futures)
            futures = [pool.submit(take_turns) for _ in range(5)]
            pool.shutdown()
            assert all(future.done() for future in futures)
        with StatefulThreadPoolExecutor(2) as pool:
            futures = [pool.submit(take_turns) for _ in range(5)]
        assert all(future.done() for future in futures)
    """)


def test_many_greenlets_submit(run_patched: Run) -> None:
    """They wait for places, and each gets its own results; those that give up there leave no trace."""
    run_patched("""
        results = []
        with StatefulThreadPoolExecutor(3, max_backlog=2) as pool:
            greenlets = [
                gevent.spawn(lambda n=n: results.append(pool.submit(take_turns, n).result())) for n in range(50)
            ]
            gevent.joinall(greenlets, raise_error=True)
            assert sorted(results) == [*range(50)]

            go_on = threading.Event()
            running = [pool.submit(go_on.wait) for _ in range(3)]
            until(lambda: pool.stats().running == 3)
            waiting = [pool.submit(int) for _ in range(2)]
            killed = gevent.spawn(pool.submit, int)
            until(lambda: pool.stats().blocked_submitters)
            killed.kill()
            assert gevent.with_timeout(0.001, pool.submit, int, timeout_value="late") == "late"
            assert (pool.stats().blocked_submitters, pool.stats().backlog) == (0, 2)
            go_on.set()
            assert [future.result() for future in running + waiting] == [True] * 3 + [0] * 2
            assert pool.submit(take_turns, 7).result() == 7
    """)


def test_timeouts(run_patched: Run) -> None:
    """Ours and gevent's, in a result; of a scope; and of an idle worker."""
    lines = run_patched("""
        with StatefulThreadPoolExecutor(1, idle_timeout=0.001) as pool:
            go_on = threading.Event()
            future = pool.submit(go_on.wait)
            for timeout in 0, 0.001:
                try:
                    future.result(timeout)
                except TimeoutError:
                    say("in time")
            with gevent.Timeout(0.001, False):
                future.result()
            go_on.set()
            assert future.result()
            try:
                with pool.scope(timeout=0.001) as scope:
                    until(lambda: scope.cancelled)
            except TimeoutError:
                say("in time")
            until(lambda: not pool.stats().workers)
            assert pool.submit(take_turns, 7).result() == 7
    """)
    assert lines == ["in time"] * 3


def test_greenlets_are_told_apart(run_patched: Run) -> None:
    """Only a worker's greenlet is a worker: not the main one, another one, or one that a task spawns."""
    run_patched("""
        def outside():
            try:
                view.get()
            except RuntimeError:
                return True

        def task(state):
            assert view.get() is state
            assert gevent.spawn(outside).get()
            assert view.get() is state
            take_turns()
            assert view.get() is state
            # Not by this worker, which would run it in place.
            return gevent.spawn(pool.submit, threading.get_ident)

        with StatefulThreadPoolExecutor(2, initializer=object, max_backlog=1) as pool:
            view = pool.with_state()
            tasks = [view.submit(task) for _ in range(10)]
            assert outside() and gevent.spawn(outside).get()
            for future in tasks:
                assert future.result().get().result() in {thread.ident for thread in pool._threads}
    """)


def test_tasks_that_wait_for_tasks(run_patched: Run) -> None:
    """One worker runs them in place, and what it submits to its own full backlog too."""
    run_patched("""
        def deep(depth):
            return take_turns(depth and pool.submit(deep, depth - 1).result() + 1)

        def wide():
            return [future.result() for future in [pool.submit(take_turns, n) for n in range(5)]]

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            assert pool.submit(deep, 20).result() == 20
            assert pool.submit(wide).result() == [*range(5)]
    """)


def test_states(run_patched: Run) -> None:
    """Made, lent and torn down in their worker's greenlet: a pool's, a scope's, and those of one that nobody keeps."""
    lines = run_patched("""
        def task(state):
            assert take_turns(state) == threading.get_ident()
            return state

        pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
        view = pool.with_state()
        assert len({future.result() for future in [view.submit(task) for _ in range(6)]}) == 2
        with pool.scope() as scope:
            scope.with_state(make, finalizer=tear_down).submit(task)
        say("scope ended")
        assert len([future.result() for future in pool.broadcast(take_turns)]) == 2
        del pool, scope, view
        gc.collect()
        until(lambda: threading.active_count() == 1)
        say("pool ended")
    """)
    torn_down = "torn down in its thread"
    assert lines == [torn_down, "scope ended", torn_down, torn_down, "pool ended"]


def test_cancel(run_patched: Run) -> None:
    """By hand, by a scope that fails, and by a shutdown; running tasks are waited for."""
    lines = run_patched("""
        pool = StatefulThreadPoolExecutor(1)
        go_on = threading.Event()
        running, waiting = pool.submit(go_on.wait), pool.submit(take_turns)
        gevent.spawn(waiting.cancel)
        raised(waiting.result)
        try:
            with pool.scope(fail_fast=True) as scope:
                scope.submit(divmod, 1, 0)
                waiting = scope.submit(take_turns)
                go_on.set()
        except ExceptionGroup:
            assert waiting.cancelled()
        go_on.clear()
        running, waiting = pool.submit(go_on.wait), pool.submit(take_turns)
        gevent.spawn_later(0.001, go_on.set)
        pool.shutdown(cancel_futures=True)
        assert running.done() and waiting.cancelled()
    """)
    assert lines == ["CancelledError"]


@pytest.mark.parametrize("ending", ["pass", "del pool", "sys.exit()"])
def test_exit(run_patched: Run, ending: str) -> None:
    """The exit of the interpreter runs what is queued, and tears down."""
    lines = run_patched(f"""
        pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
        for n in range(6):
            pool.submit(lambda: (take_turns(), say("ran")))
        {ending}
    """)
    assert sorted(lines) == ["ran"] * 6 + ["torn down in its thread"] * 2


def test_exit_with_an_idle_pool(run_patched: Run) -> None:
    """Its workers sleep, and are woken."""
    lines = run_patched("""
        pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
        pool.submit(take_turns).result()
    """)
    assert lines == ["torn down in its thread"]


def test_a_pool_made_before_the_patch() -> None:
    """One that stands in a module, say, and has not been used: the standard library's pools hang there."""
    made = "pool = StatefulThreadPoolExecutor(1, max_backlog=1)\n"
    script = """
        def deep(depth):
            return take_turns(depth and pool.submit(deep, depth - 1).result() + 1)

        with pool:
            assert [*pool.map(take_turns, range(5))] == [*range(5)]
            assert pool.submit(deep, 20).result() == 20
    """
    run_well(script, PRELUDE + made + PATCH + TASKS)


@needs_fork
def test_fork(run_patched: Run) -> None:
    """The child is refused, and may have a pool of its own; the parent goes on."""
    lines = run_patched(
        FORKS
        + dedent("""
        # That of gevent 26.9 waits for ever for one child in some thousand, which has ended, without a pool as well.
        os.waitpid = monkey.get_original("os", "waitpid")

        def child():
            raised(pool.submit, take_turns)
            with StatefulThreadPoolExecutor(1) as own:
                assert own.submit(take_turns, 7).result() == 7

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(take_turns).result()
            fork(child)
            assert pool.submit(take_turns, 7).result() == 7
        """)
    )
    assert lines == ["BrokenThreadPool"]
