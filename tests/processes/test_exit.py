"""How whole processes end: interpreter exit, Ctrl-C and fork, each in an interpreter of its own."""

import pytest
from child import (
    ENTRY_POINT_NAMES,
    ENTRY_POINTS,
    INTERRUPTS,
    PRELUDE,
    TOO_LATE,
    needs_fork,
    needs_signals,
    run,
    run_forks,
    run_well,
)

# Exit


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        pytest.param("pass", 0, None, id="pool-kept"),
        pytest.param("del pool", 0, None, id="pool-dropped"),
        pytest.param("pool.me = pool; del pool", 0, None, id="pool-in-a-cycle"),
        pytest.param("pool.shutdown(wait=False)", 0, None, id="shutdown-not-waited-for"),
        pytest.param("sys.exit(3)", 3, None, id="sys.exit"),
        pytest.param("raise LookupError", 1, "LookupError", id="error"),
    ],
)
def test_exit_finishes_what_is_queued(ending: str, code: int, error: str | None) -> None:
    """The main thread ends with tasks queued: all of them run, and each state is torn down in its thread."""
    script = f"""
        def first():
            both_there.wait()
            until_main_sleeps()

        both_there = threading.Barrier(3)
        pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
        for _ in range(2):
            pool.submit(first)
        for number in range(10):
            pool.submit(say, "ran")
        both_there.wait()
        ready.set()
        {ending}
    """
    returncode, lines, errors = run(script)
    assert sorted(lines) == ["ran"] * 10 + ["torn down in its thread"] * 2
    assert returncode == code
    assert errors.count("Traceback") == (error is not None)
    assert errors.strip().endswith(error or "")
    assert error or not errors


@pytest.mark.parametrize("use", ["pass", "pool.submit(make).result()", "list(pool.map(say, 'abc')); pool.shutdown()"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_exit_with_an_idle_pool(use: str, kept: bool) -> None:
    """A pool never used, one with a sleeping worker, and one that was shut down hold up nothing."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        {use}
        {"" if kept else "del pool"}
    """)
    assert lines == [line for line in "abc" if "map" in use] + ["torn down in its thread"] * (use != "pass")


def test_exit_tears_down_every_kind_of_state() -> None:
    """Generators, states of views and of an open scope, the last made first."""
    lines = run_well("""
        def generator(name):
            try:
                yield name
            finally:
                say("end of", name)

        pool = StatefulThreadPoolExecutor(1, initializer=generator, initargs=("own",))
        scope = pool.scope().__enter__()
        for view in pool.with_state(generator, ("view's",)), scope.with_state(generator, ("scope's",)):
            view.submit(say).result()
    """)
    assert lines == ["view's", "scope's", "end of scope's", "end of view's", "end of own"]


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "non-daemon"])
def test_exit_wakes_a_blocked_submit(daemon: bool) -> None:
    """A thread blocked in `submit` gets the error of the standard library; what was accepted runs."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)
        refused = threading.Event()
        pool.submit(refused.wait)
        pool.submit(say, "ran")

        def blocked():
            raised(pool.submit, say, "never")
            refused.set()

        threading.Thread(target=blocked, daemon={daemon}).start()
        until(lambda: inside(pool).waiters)
    """)
    assert lines == [TOO_LATE, "ran", "torn down in its thread"]


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "non-daemon"])
@pytest.mark.parametrize("late", [True, False], ids=["submits-late", "ends"])
def test_exit_with_an_open_scope(daemon: bool, late: bool) -> None:
    """A scope in another thread joins its tasks as ever; a task that comes too late is refused."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        inside, left = threading.Event(), threading.Event()

        def thread():
            with pool.scope() as scope:
                scope.submit(until_main_sleeps)
                scope.submit(say, "ran")
                inside.set()
                until_main_sleeps()
                if {late}:
                    raised(scope.submit, say, "never")
            say("left the scope")
            left.set()

        other = StatefulThreadPoolExecutor(1)
        other.submit(left.wait)  # so that a daemon lives long enough to tell
        threading.Thread(target=thread, daemon={daemon}).start()
        inside.wait()
        ready.set()
    """)
    assert [line for line in lines if line != TOO_LATE and "torn" not in line] == ["ran", "left the scope"]
    assert lines.count(TOO_LATE) == late
    assert lines.count("torn down in its thread") == 1


def test_submit_while_exiting() -> None:
    """A task that submits while the interpreter joins its worker is refused, and its error is its future's."""
    lines = run_well("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)

        def task():
            until_main_sleeps()
            raised(pool.submit, say, "never")
            with suppress(RuntimeError):
                StatefulThreadPoolExecutor(1).submit(say, "never")

        pool.submit(task)
        ready.set()
    """)
    assert lines == [TOO_LATE, "torn down in its thread"]


@pytest.mark.parametrize("made", ["before", "in the handler"])
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_submit_in_an_atexit_handler(made: str, used: bool) -> None:
    """Handlers run when the workers have gone: `submit` raises, of old pools and of new ones."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1)
        if {used}:
            pool.submit(say, "ran").result()

        @atexit.register
        def handler():
            target = pool if {made!r} == "before" else StatefulThreadPoolExecutor(1)
            raised(target.submit, say, "never")
            raised(target.map, say, "never")
            target.shutdown()
    """)
    assert lines == ["ran"] * used + [TOO_LATE] * 2


def test_sys_exit_in_a_task() -> None:
    """It ends the task, not the process nor the worker."""
    code, lines, errors = run("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        say(repr(pool.submit(sys.exit, 5).exception()))
        pool.submit(say, "ran")
        pool.submit(sys.exit, 6)
    """)
    assert lines == ["SystemExit(5)", "ran", "torn down in its thread"]
    assert code == 0
    assert errors == "lost error: task exit failed, and nobody took the error from its future\nSystemExit: 6\n"


@pytest.mark.parametrize("where", ["task", "main"])
def test_os_exit(where: str) -> None:
    """`os._exit` ends the process at once, from anywhere; nothing is torn down."""
    code, lines, errors = run(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        begun = threading.Event()
        pool.submit(begun.set).result()
        if {where!r} == "main":
            os._exit(7)
        pool.submit(os._exit, 7).result()
    """)
    assert (code, lines, errors) == (7, [], "")


def test_exit_beside_the_standard_librarys_pool() -> None:
    """Both pools finish what they have, also when a task of the one waits for a task of the other."""
    lines = run_well("""
        from concurrent.futures import ThreadPoolExecutor
        theirs, ours = ThreadPoolExecutor(1), StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        last = theirs.submit(until_main_sleeps)
        theirs.submit(say, "theirs ran")
        ours.submit(last.result)
        ours.submit(say, "ours ran")
        ready.set()
    """)
    assert sorted(lines) == ["ours ran", "theirs ran", "torn down in its thread"]


# Ctrl-C


def interrupted(body: str, *, joined_by_exit: bool = False, error: str = "KeyboardInterrupt") -> list[str]:
    """Run `body`, which Ctrl-C ends, in an interpreter of its own; its lines. There is exactly one traceback.

    Parameters:
        error: What the handler of the signal raises.
    """
    code, lines, errors = run(body, PRELUDE + INTERRUPTS.replace("raise KeyboardInterrupt", f"raise {error}"))
    assert error.partition("(")[0] in errors
    chained = errors.count("During handling of the above exception")
    assert errors.count("Traceback") - chained == 1, errors
    assert errors.count("ignored") == joined_by_exit, errors
    assert code == (0 if joined_by_exit else -2)
    assert lines.count("torn down in its thread") == 1
    assert sum("torn" in line for line in lines) == 1
    return lines


@needs_signals
def test_interrupt_in_the_body_of_a_pool() -> None:
    """What runs is joined, what has not begun is cancelled."""
    lines = interrupted("""
        begun, go_on = threading.Event(), threading.Event()

        def task():
            begun.set()
            go_on.wait()
            say("task ended")

        try:
            with open_pool() as pool:
                pool.submit(task)
                queued = pool.submit(say, "never")
                queued.add_done_callback(lambda _: go_on.set())
                begun.wait()
                signal.raise_signal(signal.SIGINT)
        finally:
            say("left,", "cancelled" if queued.cancelled() else "not cancelled")
    """)
    assert lines == ["task ended", "torn down in its thread", "left, cancelled"]


@needs_signals
@pytest.mark.parametrize("wait", ["result", "exception"])
def test_interrupt_in_result(wait: str) -> None:
    """A `with` block that Ctrl-C leaves cancels what is queued."""
    lines = interrupted(f"""
        try:
            with open_pool() as pool:
                running = pool.submit(interrupting, 1)
                queued.append(pool.submit(say, "never"))
                ready.set()
                running.{wait}()
        finally:
            say("left")
    """)
    assert lines == ["queued tasks were cancelled: True", "torn down in its thread", "left"]


@needs_signals
def test_interrupt_outside_of_a_with_block() -> None:
    """Ctrl-C in the main thread is no word about the pool: exit finishes what is queued, as in the standard library."""
    lines = interrupted("""
        pool = open_pool()
        running = pool.submit(interrupt)
        pool.submit(say, "ran")
        ready.set()
        running.result()
    """)
    assert lines == ["ran", "torn down in its thread"]


@needs_signals
@pytest.mark.parametrize("own_state", [True, False], ids=["scope-state", "pool-state"])
def test_interrupt_in_the_body_of_a_scope(own_state: bool) -> None:
    """The scope cancels, joins and tears down its own states before the block ends."""
    lines = interrupted(f"""
        begun, go_on = threading.Event(), threading.Event()

        def task(state):
            begun.set()
            go_on.wait()
            say("task ended")

        with open_pool() as pool:
            try:
                with pool.scope() as scope:
                    own = (lambda: None, (), ), dict(finalizer=lambda state: say("scope's state went"))
                    view = scope.with_state(*own[0], **own[1]) if {own_state} else scope.with_state()
                    view.submit(task)
                    view.submit(say, "never").add_done_callback(lambda _: go_on.set())
                    begun.wait()
                    signal.raise_signal(signal.SIGINT)
            finally:
                say("left")
    """)
    assert lines == ["task ended"] + ["scope's state went"] * own_state + ["left", "torn down in its thread"]


@needs_signals
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("raises", [True, False], ids=["task-raises", "task-returns"])
def test_interrupt_at_the_end_of_a_scope(times: int, raises: bool) -> None:
    """However often: no task of the scope runs after its block."""
    lines = interrupted(f"""
        def task():
            interrupting({times})
            if {raises}:
                import logging
                logging.disable()
                raise LookupError

        with open_pool() as pool:
            try:
                with pool.scope() as scope:
                    scope.submit(task)
                    queued += [scope.submit(say, "never") for _ in range(3)]
                    ready.set()
            finally:
                say("left")
    """)
    assert lines == ["queued tasks were cancelled: True True True", "left", "torn down in its thread"]


@needs_signals
@pytest.mark.parametrize("times", [1, 2, 3])
def test_interrupt_in_the_exit_of_a_pool(times: int) -> None:
    """The first one cancels what has not begun and joins on; the second leaves; exit joins nevertheless."""
    lines = interrupted(
        f"""
        try:
            with open_pool() as pool:
                pool.submit(interrupting, {times})
                queued.append(pool.submit(say, "never"))
                if {times} > 1:
                    left.clear()
                ready.set()
        {"except KeyboardInterrupt" if times == 3 else "finally"}:
            say("left")
            left.set()
    """,
        joined_by_exit=times == 3,
    )
    cancelled, torn = "queued tasks were cancelled: True", "torn down in its thread"
    assert lines == ([cancelled, torn, "left"] if times == 1 else ["left", cancelled, torn])


# What a handler may raise, in place of KeyboardInterrupt: to stop a service, as a time limit, and what it likes.
RAISED = ["KeyboardInterrupt", "SystemExit(3)", "TimeoutError('too long')", "BaseException('stop')"]


@needs_signals
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("pools", [1, 3])
@pytest.mark.parametrize("error", RAISED)
def test_interrupt_while_the_interpreter_joins(error: str, times: int, pools: int) -> None:
    """However often: all queues are cancelled, what runs is joined, states are torn down; then it is raised."""
    lines = interrupted(
        f"""
        others = [StatefulThreadPoolExecutor(1) for _ in range({pools} - 1)]
        pool = open_pool()
        running = pool.submit(interrupting, {times})
        for other in others:
            until(other.submit(running.exception).running)
        queued += [each.submit(say, "never") for each in [pool, *others] for _ in range(2)]
        ready.set()
    """,
        joined_by_exit=True,
        error=error,
    )
    assert lines == ["queued tasks were cancelled:" + " True" * 2 * pools, "torn down in its thread"]


@needs_signals
def test_interrupt_while_exit_cancels() -> None:
    """A second Ctrl-C, in the callback of a task that the first one cancelled: the others are cancelled, too."""
    lines = interrupted(
        """
        pool = open_pool()
        go_on = threading.Event()

        def task():
            interrupt()
            go_on.wait()

        def again(future):
            say("cancelled", future.cancelled())
            signal.raise_signal(signal.SIGINT)

        def last(future):
            say("cancelled", future.cancelled())
            go_on.set()

        pool.submit(task)
        pool.submit(say, "never").add_done_callback(again)
        pool.submit(say, "ran all the same").add_done_callback(last)
        ready.set()
    """,
        joined_by_exit=True,
    )
    assert lines == ["cancelled True", "cancelled True", "torn down in its thread"]


@pytest.mark.timeout(240)
@needs_signals
@pytest.mark.parametrize("hangs", [True, False], ids=["one-hangs", "none-hangs"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "TimeoutError", "BaseException"])
def test_interrupt_at_every_point_of_the_exit(error: str, hangs: bool) -> None:
    """Wherever Ctrl-C lands while the interpreter closes and joins pools: all tasks end, all states are torn down.

    But those of a pool that hangs for longer than its `exit_timeout`, which is logged once. And what was raised there
    is raised in the end, but for an `Exception` while a task's function is asked for its name (see `_naming`) or while
    `logging` asks `multiprocessing/process.py` for the name of the process, which swallows it.
    """
    lines = run_well(
        f"""
        import logging

        error = {error}
        logged = []
        logging.getLogger("stateful_executor").addFilter(lambda record: logged.append(record.getMessage()[:18]))

        from interrupts import Interrupt
        from inside import finish_all, forget_exit

        def attempt(number):
            gc.collect()  # queues of earlier attempts, whose number is one of points
            torn_down = []
            pools = [StatefulThreadPoolExecutor(1, initializer=list, finalizer=torn_down.append) for _ in range(2)]
            threads, futures = [], []
            go_on = threading.Event()
            if {hangs}:
                hung = StatefulThreadPoolExecutor(1, "hung", exit_timeout=0)
                waiting = hung.submit(go_on.wait)
                until(waiting.running)
                futures += [hung.submit(int) for _ in range(3)]
            for pool in pools:
                futures += [pool.submit(int) for _ in range(3)]
                threads += pool._threads
            point = Interrupt(number, error=error)
            raised = False
            try:
                with point:
                    finish_all()
            except error:
                raised = True
            over = sum(not thread.is_alive() for thread in threads)
            forget_exit()
            if {hangs}:
                if logged != ["hung has not ended"] and not raised:
                    say(point.where, "logged", logged)
                logged.clear()
                go_on.set()
                hung.shutdown()
            swallowed = any(where.startswith(("_naming.py:", "process.py:")) for where in point.where)
            if raised != bool(point.where) and not swallowed:
                say(point.where, "raised", raised)
            if "_finish_all RESUME" in "".join(point.where):
                pass  # its entry, which is the interpreter's own affair
            elif over != 2 or len(torn_down) != 2 or not all(future.done() for future in futures):
                say(point.where, raised, "ended", over, "torn down", len(torn_down))
                finish_all()
                forget_exit()
                logged.clear()
            return point

        number, points = 1, 0
        while number:
            point = attempt(number)
            if not point.fresh:
                points += bool(point.where)
                number = point.next[0]
        say("points:", "enough" if points > 20 else points)
    """,
        patience=200,  # some hundred points, and as many pools for each
    )
    assert lines == ["points: enough"]


# Fork


@needs_fork
@pytest.mark.parametrize("backlog", [None, 1])
@pytest.mark.parametrize("parent", ["unused", "idle", "busy", "full", "shut down"])
def test_forked_child_is_refused(parent: str, backlog: int | None) -> None:
    """Each way into a pool of the parent's raises at once in the child, whatever the pool was at; it goes on there."""
    if parent == "full" and backlog is None:
        pytest.skip("never full")
    lines = run_forks(
        f"""
        pool = StatefulThreadPoolExecutor(1, max_backlog={backlog})
        go_on = threading.Event()
        threads = []
        if {parent!r} in ("idle", "shut down"):
            pool.submit(int).result()
        if {parent!r} in ("busy", "full"):
            begun = threading.Event()
            pool.submit(lambda: (begun.set(), go_on.wait()))
            begun.wait()
        if {parent!r} == "full":
            threads = [threading.Thread(target=pool.submit, args=(int,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            until(lambda: len(inside(pool).waiters) == 2)
        if {parent!r} == "shut down":
            pool.shutdown()
        fork(lambda: try_entry_points(pool))
        go_on.set()
        for thread in threads:
            thread.join()
        if {parent!r} != "shut down":
            say("parent:", pool.submit(len, "abc").result())
    """,
        ENTRY_POINTS,
    )
    assert lines == ENTRY_POINT_NAMES + ["parent: 3"] * (parent != "shut down")


@needs_fork
def test_futures_in_a_forked_child() -> None:
    """What had ended is known there; what had not will never be, and asking for it raises at once."""
    lines = run_forks("""
        pool = StatefulThreadPoolExecutor(1)
        go_on, begun = threading.Event(), threading.Event()
        returned, failed, cancelled = pool.submit(len, "abc"), pool.submit(divmod, 1, 0), pool.submit(int)
        failed.exception()
        running, cancelled, queued = pool.submit(lambda: begun.set() or go_on.wait()), *[pool.submit(int)] * 2
        cancelled = pool.submit(int)
        cancelled.cancel()
        results = pool.map(len, ["abc"])
        begun.wait()

        def child():
            for future in returned, failed, cancelled, running, queued:
                raised(future.result)
            raised(running.result, 0)
            raised(queued.exception)
            raised(next, results)
            say(queued.cancel(), running.cancel())

        fork(child)
        go_on.set()
        say("parent:", running.result(), queued.result())
    """)
    broken = ["BrokenThreadPool"]
    assert lines == [
        "returned 3", "ZeroDivisionError", "CancelledError", *broken * 5, "True False", "parent: True 0",
    ]  # fmt: skip


STATES = """
def as_generator():
    try:
        yield threading.get_ident()
    finally:
        tear_down(threading.get_ident())


class Closing:
    def __del__(self):
        tear_down(threading.get_ident())


pools = [
    StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down),
    StatefulThreadPoolExecutor(1, initializer=as_generator, exit_timeout=PATIENCE),
    StatefulThreadPoolExecutor(1, initializer=Closing),
]
for pool in pools:
    pool.submit(int).result()
"""


@needs_fork
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize(
    "ending",
    [
        "os._exit(0)",
        "sys.exit(0)",
        "for pool in pools: pool.shutdown(wait=True)",
        "for pool in pools: pool.shutdown(cancel_futures=True)",
        "del pool; pools.clear(); gc.collect()",
    ],
)
def test_states_in_a_forked_child(ending: str, busy: bool) -> None:
    """They are the parent's: left alone in the child, however it ends; torn down in the parent."""
    lines = run_forks(
        f"""
        go_on = threading.Event()
        if {busy}:
            for pool in pools:
                pool.submit(go_on.wait)
        pid = forked()
        if pid == 0:
            {ending}
            sys.exit(0)
        join(pid)
        go_on.set()
        for pool in pools:
            pool.shutdown()
        say("parent ended")
        pool = pools = None
    """,
        STATES,
    )
    assert lines[:3] == ["torn down in its thread"] * 3
    assert lines[3:] == ["parent ended"]


@needs_fork
def test_a_new_pool_in_a_forked_child() -> None:
    """It works as ever, is finished when the child exits, and tears down its own states only."""
    lines = run_forks("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        pool.submit(int).result()
        pid = forked()
        if pid == 0:
            pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=5)
            with pool.scope() as scope:
                say("child's task:", scope.submit(len, "abc").result())
            pool.submit(until_main_sleeps)
            pool.submit(say, "ran when the child ended")
            ready.set()
            sys.exit()
        join(pid)
        say("parent's task:", pool.submit(len, "abc").result())
    """)
    assert lines == [
        "child's task: 3",
        "ran when the child ended",
        "torn down in its thread of the child",
        "parent's task: 3",
        "torn down in its thread",
    ]


@needs_fork
@pytest.mark.parametrize("ending", ["return", "os._exit(0)", "sys.exit(0)"])
def test_fork_in_a_task(ending: str) -> None:
    """The child is a copy of the worker's thread: the pool is refused there, too, and nothing is torn down."""
    lines = run_forks(
        f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)

        def task(state):
            pid = forked()
            if pid == 0:
                try_entry_points(pool)
                raised(queued.result)
                raised(queued.cancel)
                with StatefulThreadPoolExecutor(1) as new:
                    say("new pool:", new.submit(len, "abc").result())
                {ending}
            else:
                join(pid)
                say("parent")

        queued = None
        view = pool.with_state()
        first = pool.submit(until_main_sleeps)
        future = view.submit(task)
        queued = pool.submit(say, "queued ran")
        ready.set()
        future.result()
        pool.shutdown()
    """.replace("max_backlog=1", "max_backlog=2"),
        ENTRY_POINTS,
    )
    in_child = [*ENTRY_POINT_NAMES, "BrokenThreadPool", "returned True", "new pool: 3"]
    assert lines == [*in_child, "parent", "queued ran", "torn down in its thread"]


@needs_fork
@pytest.mark.parametrize("backlog", [None, 3])
@pytest.mark.parametrize("workers", [1, 4])
def test_fork_while_others_submit(backlog: int | None, workers: int) -> None:
    """Whatever other threads were in the middle of: the child is refused at once, and the parent loses nothing."""
    lines = run_forks(f"""
        pool = StatefulThreadPoolExecutor({workers}, max_backlog={backlog})
        stop = threading.Event()
        counts = [0, 0, 0]

        def submit_on(index):
            while not stop.is_set():
                if pool.submit(int).result() == 0:
                    counts[index] += 1
                pool.submit(int).cancel()

        def child():
            raised(pool.submit, int)
            with StatefulThreadPoolExecutor(1) as new:
                assert new.submit(int).result() == 0
            pool.shutdown()

        threads = [threading.Thread(target=submit_on, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            before = list(counts)
            fork(child)
            until(lambda: all(now > then for now, then in zip(counts, before)))
        stop.set()
        for thread in threads:
            thread.join()
        pool.shutdown()
    """)
    assert lines == ["BrokenThreadPool"] * 10


@needs_fork
@pytest.mark.parametrize("ending", ["pass", "sys.exit()", "raise LookupError", "raise KeyboardInterrupt"])
def test_a_scope_left_in_a_forked_child(ending: str) -> None:
    """Its tasks are the parent's: the child does not wait for them, and the body's own error goes on."""
    lines = run_forks(f"""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1) as pool, pool.scope() as scope:
            scope.submit(go_on.wait)

            def child():
                try:
                    with scope_again(scope):
                        {ending}
                except BaseException as exc:
                    say(type(exc).__name__)

            @contextmanager
            def scope_again(scope):
                # The end of the same block, as it would be reached in the child.
                try:
                    yield
                except BaseException as exc:
                    if not scope.__exit__(type(exc), exc, exc.__traceback__):
                        raise
                else:
                    scope.__exit__(None, None, None)

            fork(child)
            go_on.set()
        say("parent left")
    """)
    own = {"pass": "BrokenThreadPool", "sys.exit()": "SystemExit"}.get(ending) or ending.partition(" ")[2]
    assert lines == [own, "parent left"]


@needs_fork
def test_multiprocessing_by_fork() -> None:
    """A process of `multiprocessing` started beside a pool, and from a task, makes its own pool."""
    lines = run_forks("""
        import multiprocessing

        def process(queue):
            with StatefulThreadPoolExecutor(1) as new:
                queue.put(new.submit(len, "abc").result())

        def start():
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            process_ = context.Process(target=process, args=(queue,))
            process_.start()
            process_.join()
            return process_.exitcode, queue.get()

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            say(start(), pool.submit(start).result())
    """)
    assert lines == ["(0, 3) (0, 3)"]


def test_subprocess_in_a_task() -> None:
    """A program started by a task is no child that could meet the pool."""
    lines = run_well("""
        with StatefulThreadPoolExecutor(2) as pool:
            command = [sys.executable, "-c", "print(6 * 7)"]
            print(*pool.map(lambda _: subprocess.check_output(command, text=True).strip(), range(2)))
            print(pool.submit(len, "abc").result())
    """)
    assert lines == ["42 42", "3"]
