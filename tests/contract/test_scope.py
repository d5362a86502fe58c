"""Scopes."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from typing import Any

import pytest
from inside import inside
from threads import until

from stateful_executor import Scope, StatefulThreadPoolExecutor


@pytest.fixture(params=[1, 4])
def pool(request: pytest.FixtureRequest) -> StatefulThreadPoolExecutor[None]:
    """A pool of few workers or many."""
    with StatefulThreadPoolExecutor(request.param) as pool:
        yield pool


def fail(error: BaseException) -> None:
    """Raise it."""
    raise error


class TestJoin:
    """The block ends only when every task of the scope has ended."""

    def test_callbacks_have_run(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """A task has ended when its callbacks have run (concurrent.futures.wait returns earlier)."""
        waited, called = threading.Event(), threading.Event()

        def callback(_: object) -> None:
            waited.wait()
            called.set()

        def watch() -> None:
            concurrent.futures.wait([future])
            waited.set()

        with pool.scope() as scope:
            go_on = threading.Event()
            future = scope.submit(go_on.wait)
            future.add_done_callback(callback)
            thread = threading.Thread(target=watch)
            thread.start()
            go_on.set()
        assert called.is_set()
        thread.join()

    def test_only_its_own(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """Tasks outside of the scope, and those of other scopes, are not waited for."""
        if pool._max_workers == 1:
            pytest.skip("one worker has to end one task before the other")
        go_on = threading.Event()
        with pool.scope() as outer:
            slow = [outer.submit(go_on.wait), pool.submit(go_on.wait)]
            with pool.scope() as inner:
                inner.submit(int)
            assert not any(future.done() for future in slow)
            go_on.set()

    def test_many_scopes_at_once(self, pool: StatefulThreadPoolExecutor[None], nervous: None) -> None:
        """Scopes in several threads on one pool: each block ends after its own tasks."""
        errors: list[str] = []

        def use(name: int) -> None:
            for _ in range(50):
                done: list[int] = []
                with pool.scope() as scope:
                    for number in range(10):
                        scope.submit(done.append, number)
                if sorted(done) != list(range(10)):
                    errors.append(f"{name}: {done}")

        threads = [threading.Thread(target=use, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    def test_pool_shut_down_meanwhile(self) -> None:
        """The scope joins what was accepted; what comes later is refused, and the refusal is the body's own error."""
        pool = StatefulThreadPoolExecutor(1)
        with pytest.raises(RuntimeError, match="after shutdown"), pool.scope() as scope:
            future = scope.submit(pow, 2, 3)
            pool.shutdown(wait=False)
            scope.submit(int)
        assert future.done()
        pool.shutdown()

    def test_pool_cancelled_meanwhile(self) -> None:
        """Tasks cancelled by a shutdown have ended."""
        pool = StatefulThreadPoolExecutor(1)
        go_on = threading.Event()
        with pool.scope() as scope:
            until(scope.submit(go_on.wait).running)
            future = scope.submit(int)
            pool.shutdown(wait=False, cancel_futures=True)
            go_on.set()
        assert future.cancelled()
        pool.shutdown()

    def test_submit_from_another_thread_at_the_end(self, pool: StatefulThreadPoolExecutor[None], nervous: None) -> None:
        """A thread that submits while the scope ends gets in and is joined, or is refused: never in between."""
        for _ in range(200):
            start = threading.Barrier(2)
            accepted: list[concurrent.futures.Future[int]] = []

            def submit(scope: Scope, start: threading.Barrier = start, accepted: list = accepted) -> None:
                start.wait()
                try:
                    while len(accepted) < 1_000:  # one that never ends may keep the scope open for ever
                        accepted.append(scope.submit(int))
                except RuntimeError:
                    pass

            with pool.scope() as scope:
                scope.submit(int)
                thread = threading.Thread(target=submit, args=(scope,))
                thread.start()
                start.wait()
                if len(accepted) > 100:
                    scope.cancel()
            scope.cancel()
            thread.join()
            assert all(future.done() for future in accepted)

    def test_keeps_no_finished_future(self) -> None:
        """A finished task leaves no trace in the scope."""
        with StatefulThreadPoolExecutor(1) as pool, pool.scope() as scope:
            for future in [scope.submit(int) for _ in range(1_000)]:
                future.result()
            with pytest.raises(ZeroDivisionError):
                scope.submit(divmod, 1, 0).result()
            pool.submit(int).result()  # the worker has forgotten the one before
            assert not inside(scope).pending
            assert not inside(scope).failures

    def test_map(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """What a map of the scope has submitted is joined, though nobody iterates."""
        done: list[int] = []
        with pool.scope() as scope:
            scope.map(done.append, range(20), chunksize=3)
        assert sorted(done) == list(range(20))


class TestErrors:
    """Who gets the errors of tasks."""

    def test_group_of_those_not_taken(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """An error that somebody took from its future is theirs; the others are raised together."""
        with pytest.raises(ExceptionGroup, match=r"2 tasks of <Scope of .*> failed") as caught, pool.scope() as scope:
            taken = [scope.submit(fail, ValueError(n)) for n in range(2)]
            with pytest.raises(ValueError, match="0"):
                taken[0].result()
            assert isinstance(taken[1].exception(), ValueError)
            scope.submit(fail, KeyError("left"))
            scope.submit(fail, OSError("left too"))
        assert {type(error) for error in caught.value.exceptions} == {KeyError, OSError}

    def test_base_exceptions(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """One that is no `Exception` makes it a `BaseExceptionGroup`."""
        with pytest.raises(BaseExceptionGroup) as caught, pool.scope() as scope:
            scope.submit(fail, SystemExit(3))
        assert not isinstance(caught.value, ExceptionGroup)

    def test_all_taken(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """Nothing is raised when every error was taken, by a callback for instance."""
        with pool.scope() as scope:
            go_on = threading.Event()
            future = scope.submit(lambda: (go_on.wait(), 1 / 0))
            future.add_done_callback(lambda future: future.exception())
            go_on.set()
        assert isinstance(future.exception(), ZeroDivisionError)

    def test_body_error_with_note(
        self, pool: StatefulThreadPoolExecutor[None], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The body's exception goes on, the same object, with a note; errors of tasks are logged."""
        error = LookupError("body")
        with pytest.raises(LookupError) as caught, pool.scope() as scope:
            concurrent.futures.wait([scope.submit(fail, ValueError("task"))])
            raise error
        assert caught.value is error
        assert len(error.__notes__) == 1
        assert "1 task of <Scope" in error.__notes__[0]
        assert [(record.name, record.levelno) for record in caplog.records] == [("stateful_executor", logging.ERROR)]
        assert "fail" in caplog.text
        assert "ValueError: task" in caplog.text

    def test_body_error_cancels_what_has_not_begun(self) -> None:
        """What runs is joined, what has not begun is cancelled, no note without failures."""
        begun, go_on = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            with pytest.raises(LookupError) as caught, pool.scope() as scope:
                running = scope.submit(lambda: (begun.set(), go_on.wait()))
                waiting = [scope.submit(int) for _ in range(5)]
                outside = pool.submit(int)
                begun.wait()
                waiting[-1].add_done_callback(lambda _: go_on.set())
                raise LookupError
            assert running.done()
            assert not running.cancelled()
            assert all(future.cancelled() for future in waiting)
            assert outside.result() == 0
            assert not hasattr(caught.value, "__notes__")

    def test_failing_teardown_of_its_own_state(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """It is raised with the tasks' errors."""
        with pytest.raises(ExceptionGroup, match="1 task and 1 teardown of") as caught, pool.scope() as scope:
            scope.with_state(list, finalizer=lambda _: fail(OSError("teardown"))).submit(len)
            scope.submit(fail, ValueError("task"))
        assert {str(error) for error in caught.value.exceptions} == {"teardown", "task"}


class TestCancel:
    """`scope.cancel()`."""

    def test_by_hand(self) -> None:
        """What has not begun is cancelled, running tasks see `cancelled`, later submits are refused."""
        begun, seen = threading.Event(), threading.Event()

        def task() -> bool:
            begun.set()
            while not scope.cancelled:
                pass
            seen.wait(20)  # else the only worker could begin the other one before that is cancelled
            return scope.cancelled

        with StatefulThreadPoolExecutor(1) as pool:
            with pool.scope() as scope:
                running = scope.submit(task)
                waiting = scope.submit(int)
                begun.wait()
                assert not scope.cancelled
                scope.cancel()
                assert waiting.cancelled()
                seen.set()
                with pytest.raises(RuntimeError, match="was cancelled and takes no more tasks"):
                    scope.submit(int)
            assert running.result() is True
            assert pool.submit(int).result() == 0

    @pytest.mark.parametrize("ending", ["refusal", "cancelled"])
    def test_a_body_that_ends_with_it_has_not_failed(self, ending: str) -> None:
        """The scope's refusal, or the CancelledError of a task that it cancelled, is not the body's error."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            with pool.scope() as scope:
                until(scope.submit(go_on.wait).running)
                waiting = scope.submit(int)
                scope.cancel()
                go_on.set()
                if ending == "refusal":
                    scope.submit(int)
                waiting.result()
            with pytest.raises(ExceptionGroup), pool.scope() as scope:
                concurrent.futures.wait([scope.submit(fail, ValueError("task"))])
                scope.cancel()
                scope.submit(int)

    def test_cancelled_by_others(self) -> None:
        """A CancelledError that is not the scope's doing is an error of the body."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            with pytest.raises(concurrent.futures.CancelledError), pool.scope() as scope:
                scope.submit(go_on.wait)
                waiting = scope.submit(int)
                waiting.cancel()
                go_on.set()
                waiting.result()

    def test_from_a_task(self) -> None:
        """A task may cancel its own scope."""
        with StatefulThreadPoolExecutor(1) as pool:
            go_on = threading.Event()
            with pool.scope() as scope:
                scope.submit(go_on.wait)
                scope.submit(scope.cancel)
                waiting = [scope.submit(int) for _ in range(3)]
                go_on.set()
            assert all(future.cancelled() for future in waiting)

    def test_while_a_submit_takes_its_place(self) -> None:
        """A cancel that comes between a submit's entry and its place in the backlog loses no place."""
        with StatefulThreadPoolExecutor(1, max_backlog=2) as pool:
            registry = inside(pool)
            assert registry.free_permits is not None

            class Places(list[None]):
                def __delitem__(self, index: Any) -> None:
                    scope.cancel()
                    super().__delitem__(index)

            with pool.scope() as scope:
                registry.free_permits = Places(registry.free_permits)
                with pytest.raises(RuntimeError, match="was cancelled"):
                    scope.submit(int)
            assert pool.submit(int).result() == 0
        assert len(registry.free_permits) == 2


class TestOwnStates:
    """`scope.with_state(initializer)`: torn down before the block ends."""

    def test_torn_down_by_idle_workers(self, pool: StatefulThreadPoolExecutor[None]) -> None:
        """Each in the thread that made it, before the block ends; the next scope makes new ones."""
        made: dict[int, int] = {}
        torn_down: dict[int, int] = {}

        def make() -> int:
            made[len(made)] = threading.get_ident()
            return len(made) - 1

        for _ in range(3):
            with pool.scope() as scope:
                view = scope.with_state(make, finalizer=lambda n: torn_down.update({n: threading.get_ident()}))
                for _ in range(20):
                    view.submit(int)
            assert torn_down == made

    def test_waits_for_a_busy_worker(self) -> None:
        """A worker that holds one tears it down when what it runs has ended, be it another scope's."""
        log: list[str] = []
        begun, go_on = threading.Event(), threading.Event()

        def other() -> None:
            begun.set()
            go_on.wait()
            log.append("other ends")

        with StatefulThreadPoolExecutor(1) as pool:
            with pool.scope() as scope:
                scope.with_state(list, finalizer=lambda _: log.append("teardown")).submit(len).result()
                pool.submit(other)
                begun.wait()
                worker = inside(next(iter(inside(pool).workers)))
                ask = worker.ask
                worker.ask = lambda request: (ask(request), go_on.set())  # type: ignore[func-returns-value]
            log.append("block ends")
        assert log == ["other ends", "teardown", "block ends"]

    def test_two_scopes_do_not_wait_for_each_other(self) -> None:
        """Two tasks, each in the worker that holds the other one's scope's state, end their scopes at the same time."""
        with StatefulThreadPoolExecutor(2) as pool:
            both = threading.Barrier(2)
            log: list[str] = []

            def task(name: str) -> None:
                with pool.scope() as scope:
                    view = scope.with_state(list, (name,), finalizer=lambda state: log.append("".join(state)))
                    for _ in range(2):  # one for each worker, if the other comes to wait as well
                        view.submit(len)
                    both.wait()
                log.append(name.upper())

            for future in [pool.submit(task, name) for name in "ab"]:
                future.result()
        assert {"A", "B"} <= set(log)

    def test_held_by_a_worker_that_waits(self) -> None:
        """A worker that waits for another task tears a state down meanwhile."""
        with StatefulThreadPoolExecutor(2) as pool:
            log: list[str] = []
            slow_begun, go_on = threading.Event(), threading.Event()
            with pool.scope() as scope:
                view = scope.with_state(list, finalizer=lambda _: log.append("teardown"))
                first = view.submit(lambda _: threading.get_ident()).result()

                def slow() -> None:
                    slow_begun.set()
                    go_on.wait()

                def wait_for_slow() -> int:
                    future = pool.submit(slow)
                    slow_begun.wait()
                    future.result()
                    return threading.get_ident()

                waiting = pool.submit(wait_for_slow)
                slow_begun.wait()
            assert log == ["teardown"]  # though both workers are still in their tasks
            go_on.set()
            assert waiting.result() == first

    def test_holder_ends_meanwhile(self) -> None:
        """A worker that ends with the pool has torn everything down, and the scope does not wait for it."""
        log: list[str] = []
        pool = StatefulThreadPoolExecutor(1)
        with pool.scope() as scope:
            scope.with_state(list, finalizer=lambda _: log.append("teardown")).submit(len).result()
            pool.shutdown()
            assert log == ["teardown"]
        assert log == ["teardown"]

    def test_holder_ends_while_its_teardown_waits(self) -> None:
        """A teardown under way, which waits for another pool's task, is waited for; its error is raised."""
        go_on, tearing = threading.Event(), threading.Event()

        def tear_down(_: object) -> None:
            flushed = other.submit(go_on.wait)
            tearing.set()
            flushed.result()
            raise OSError("teardown")

        with StatefulThreadPoolExecutor(1) as other:
            pool = StatefulThreadPoolExecutor(1)
            with pytest.raises(ExceptionGroup, match="1 teardown") as caught, pool.scope() as scope:
                scope.with_state(list, finalizer=tear_down).submit(len).result()
                pool.shutdown(wait=False)
                tearing.wait()
                worker = inside(next(iter(inside(pool).workers)))
                ask = worker.ask
                worker.ask = lambda request: (ask(request), threading.Timer(0.05, go_on.set).start())  # type: ignore[func-returns-value]
            assert [str(error) for error in caught.value.exceptions] == ["teardown"]
            pool.shutdown()

    def test_two_views_of_one_scope_share(self) -> None:
        """Views with equal arguments of one scope share a state; those of two scopes do not."""
        with StatefulThreadPoolExecutor(1) as pool, pool.scope() as first, pool.scope() as second:
            ids = [scope.with_state(list).submit(id).result() for scope in (first, first, second)]
            assert ids[0] == ids[1] != ids[2]


class TestUse:
    """Wrong use is told what is right."""

    def test_outside_of_the_block(self) -> None:
        """Before and after the block a scope takes no tasks, and it is entered only once."""
        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            with pytest.raises(RuntimeError, match="only inside its `with` block"):
                scope.submit(int)
            with scope:
                scope.submit(int)
            with pytest.raises(RuntimeError, match="open a new scope"):
                scope.submit(int)
            with pytest.raises(RuntimeError, match="entered before"), scope:
                pass

    def test_repr(self) -> None:
        """The repr says whose scope it is and how much is in it."""
        with StatefulThreadPoolExecutor(1, "loader") as pool:
            go_on = threading.Event()
            with pool.scope() as scope:
                scope.submit(go_on.wait)
                scope.submit(int)
                assert repr(scope) == "<Scope of loader, 2 tasks>"
                go_on.set()
            assert repr(scope) == "<Scope of loader, closed>"
