"""How scopes end: by the first failure, by a deadline, in an event loop, and with states of their own."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from inside import inside
from threads import settle, until

from stateful_executor import BacklogFull, InitializerError, Scope, StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[None]
SOON = 0.4  # seconds: after what each test does before, however busy the machine is


@pytest.fixture(params=[1, 4])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of few workers or many."""
    with StatefulThreadPoolExecutor(request.param) as pool:
        yield pool


@pytest.fixture
def single() -> Iterator[Pool]:
    """A pool of one worker, so that a task behind another one has not begun."""
    with StatefulThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        yield pool


def fail(error: BaseException) -> None:
    """Raise it."""
    raise error


def hold_until_cancelled(scope: Scope, begun: threading.Event | None = None) -> bool:
    """A long task that looks at `scope.cancelled` now and then; it ends when what waits behind it was cancelled."""
    if begun is not None:
        begun.set()
    until(lambda: scope.cancelled and not inside(scope).backlog())
    return scope.cancelled


class TestFailFast:
    """`scope(fail_fast=True)`: the first failure cancels the scope."""

    def test_cancels_what_has_not_begun(self) -> None:
        """What runs sees it and is joined, what has not begun is cancelled, the error is raised in a group."""
        with StatefulThreadPoolExecutor(2) as pool:
            begun, go_on = threading.Event(), threading.Event()
            with pytest.raises(ExceptionGroup, match="1 task of") as caught, pool.scope(fail_fast=True) as scope:
                running = scope.submit(hold_until_cancelled, scope, begun)
                scope.submit(lambda: (begun.wait(), go_on.wait(), fail(ValueError("first"))))
                waiting = [scope.submit(int) for _ in range(3)]
                outside = pool.submit(int)
                assert not scope.cancelled
                go_on.set()
            assert [str(error) for error in caught.value.exceptions] == ["first"]
            assert running.result() is True
            assert all(future.cancelled() for future in waiting)
            assert outside.result() == 0

    def test_off_by_default(self, single: Pool) -> None:
        """Without it the others run."""
        with pytest.raises(ExceptionGroup), single.scope() as scope:
            scope.submit(fail, ValueError())
            others = [scope.submit(int) for _ in range(3)]
        assert not scope.cancelled
        assert [future.result() for future in others] == [0] * 3

    def test_success_cancels_nothing(self, pool: Pool) -> None:
        """A scope without a failure ends as any other."""
        with pool.scope(fail_fast=True) as scope:
            futures = [scope.submit(int) for _ in range(10)]
        assert not scope.cancelled
        assert [future.result() for future in futures] == [0] * 10

    def test_body_that_ends_with_the_refusal(self, pool: Pool) -> None:
        """As soon as the failure is known submits raise; a body that ends so has not failed itself."""
        with pytest.raises(ExceptionGroup) as caught, pool.scope(fail_fast=True) as scope:
            concurrent.futures.wait([scope.submit(fail, ValueError("task"))])
            assert scope.cancelled
            scope.submit(int)
        assert [str(error) for error in caught.value.exceptions] == ["task"]
        assert caught.value.__suppress_context__

    def test_refusal_says_why(self, pool: Pool) -> None:
        """The refusal is a RuntimeError, which the body may take."""
        with pytest.raises(ExceptionGroup), pool.scope(fail_fast=True) as scope:
            concurrent.futures.wait([scope.submit(fail, ValueError("task"))])
            with pytest.raises(RuntimeError, match="was cancelled and takes no more tasks"):
                scope.submit(int)

    def test_body_that_ends_with_a_cancelled_task(self, single: Pool) -> None:
        """So it is with the CancelledError of a task that the scope cancelled, even when all errors were taken."""
        go_on = threading.Event()
        with single.scope(fail_fast=True) as scope:
            failing = scope.submit(lambda: (go_on.wait(), fail(ValueError("task"))))
            failing.add_done_callback(lambda future: future.exception())
            waiting = scope.submit(int)
            go_on.set()
            waiting.result()
        assert waiting.cancelled()

    def test_error_taken(self, pool: Pool) -> None:
        """An error that the body has taken cancels the scope all the same, and is not raised again."""
        with pool.scope(fail_fast=True) as scope:
            assert isinstance(scope.submit(fail, ValueError("task")).exception(), ValueError)
            scope.submit(int)
            pytest.fail("it was accepted")
        assert scope.cancelled

    def test_body_error(self, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
        """The body's own error goes on, the same object, with a note; the task's is logged."""
        error = LookupError("body")
        with pytest.raises(LookupError) as caught, pool.scope(fail_fast=True) as scope:
            concurrent.futures.wait([scope.submit(fail, ValueError("task"))])
            raise error
        assert caught.value is error
        assert len(error.__notes__) == 1
        assert "1 task of <Scope" in error.__notes__[0]
        assert [(record.name, record.levelno) for record in caplog.records] == [("stateful_executor", logging.ERROR)]
        assert "ValueError: task" in caplog.text

    def test_every_failure_is_in_the_group(self) -> None:
        """Those that ran already and fail later, too."""
        with StatefulThreadPoolExecutor(2) as pool:
            begun = threading.Event()
            with pytest.raises(ExceptionGroup, match="2 tasks of") as caught, pool.scope(fail_fast=True) as scope:
                scope.submit(lambda: (hold_until_cancelled(scope, begun), fail(KeyError("late"))))
                begun.wait()
                scope.submit(fail, ValueError("first"))
            assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}

    def test_state_that_cannot_be_made(self, single: Pool) -> None:
        """A task that gets no state has failed like any other."""
        go_on = threading.Event()
        with pytest.raises(ExceptionGroup) as caught, single.scope(fail_fast=True) as scope:
            scope.submit(go_on.wait)
            scope.with_state(fail, (OSError("no route"),)).submit(print)
            waiting = scope.submit(int)
            go_on.set()
        assert [type(error) for error in caught.value.exceptions] == [InitializerError]
        assert waiting.cancelled()

    def test_in_a_worker(self, single: Pool) -> None:
        """Where the end of the block runs the tasks in place, it stops with the one that fails."""
        ran: list[int] = []

        def outer() -> list[bool]:
            with pytest.raises(ExceptionGroup), single.scope(fail_fast=True) as scope:
                futures = [scope.submit(ran.append, 0), scope.submit(fail, ValueError()), scope.submit(ran.append, 2)]
            return [future.cancelled() for future in futures]

        assert single.submit(outer).result() == [False, False, True]
        assert ran == [0]

    def test_finished_by_hand(self, single: Pool) -> None:
        """A task that another party finishes with an error has failed, too."""
        go_on = threading.Event()
        with pytest.raises(ExceptionGroup) as caught, single.scope(fail_fast=True) as scope:
            until(scope.submit(go_on.wait).running)
            by_hand, waiting = scope.submit(int), scope.submit(int)
            by_hand.set_exception(ValueError("by hand"))
            assert waiting.cancelled()
            go_on.set()
        assert [str(error) for error in caught.value.exceptions] == ["by hand"]

    def test_stress(self, pool: Pool, nervous: None) -> None:
        """Tasks fail all over the place while two threads submit: each is done at the end, and nothing is left."""

        def submit(scope: Scope, futures: list[concurrent.futures.Future[Any]]) -> None:
            with contextlib.suppress(RuntimeError):
                futures.extend(scope.submit(divmod, 1, number - 20) for number in range(100))

        for _ in range(20):
            futures: list[concurrent.futures.Future[Any]] = []
            with pytest.raises(ExceptionGroup) as caught, pool.scope(fail_fast=True) as scope:
                thread = threading.Thread(target=submit, args=(scope, futures))
                thread.start()
                submit(scope, futures)
                thread.join()
            assert all(future.done() for future in futures)
            failed = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
            assert set(caught.value.exceptions) == set(failed)
        assert pool.submit(int).result() == 0


class TestBlockedSubmit:
    """A submit that waits for a place in the backlog when its scope is cancelled."""

    @pytest.mark.parametrize("by", ["fail_fast", "timeout", "cancel"])
    def test_is_woken(self, by: str) -> None:
        """It raises the scope's refusal, and no place is lost."""
        kwargs: dict[str, Any] = {"fail_fast": {"fail_fast": True}, "timeout": {"timeout": SOON}, "cancel": {}}[by]
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            go_on = threading.Event()

            def hold() -> None:
                if by == "fail_fast":
                    go_on.wait()
                    raise ValueError
                hold_until_cancelled(scope)

            def trigger() -> None:
                if by != "timeout":
                    until(lambda: pool.stats().blocked_submitters)
                    scope.cancel() if by == "cancel" else go_on.set()

            refused = False
            try:
                with pool.scope(**kwargs) as scope:
                    scope.submit(hold)
                    waiting = scope.submit(int)
                    thread = threading.Thread(target=trigger)
                    thread.start()
                    try:
                        scope.submit(pytest.fail)
                    except RuntimeError:
                        refused = True
                        raise
            except (ExceptionGroup, TimeoutError) as exc:
                assert type(exc) is (ExceptionGroup if by == "fail_fast" else TimeoutError)
            else:
                assert by == "cancel"
            assert refused
            assert waiting.cancelled()
            thread.join()
            assert inside(pool).free_permits == [None]
            assert pool.stats().blocked_submitters == 0
            assert pool.submit(int).result() == 0

    def test_several_and_those_of_others(self) -> None:
        """All of the scope's are woken, those of other entry points stay in line and get the places that come free."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            go_on = threading.Event()
            outcomes: list[str] = []

            def submit(entry_point: Any, name: str) -> None:
                try:
                    entry_point.submit(int)
                except RuntimeError:
                    outcomes.append(f"{name} refused")
                else:
                    outcomes.append(f"{name} accepted")

            with pool.scope() as other, pool.scope() as scope:
                pool.submit(go_on.wait)
                until(lambda: not pool.stats().backlog)
                pool.submit(int)
                entry_points = [(scope, "scope"), (pool, "pool"), (scope, "scope"), (other, "other")]
                threads = []
                for count, args in enumerate(entry_points, 1):
                    threads.append(threading.Thread(target=submit, args=args))
                    threads[-1].start()
                    until(lambda count=count: pool.stats().blocked_submitters == count)
                scope.cancel()
                until(lambda: len(outcomes) == 2)
                assert outcomes == ["scope refused"] * 2
                assert pool.stats().blocked_submitters == 2
                go_on.set()
                for thread in threads:
                    thread.join()
            assert sorted(outcomes[2:]) == ["other accepted", "pool accepted"]
        assert inside(pool).free_permits == [None]

    def test_view(self) -> None:
        """So is one of the scope's view."""
        with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=1) as pool:
            with pool.scope() as scope:
                view = scope.with_state()
                scope.submit(hold_until_cancelled, scope)
                until(lambda: not pool.stats().backlog)
                view.submit(len)
                thread = threading.Thread(
                    target=lambda: (until(lambda: pool.stats().blocked_submitters), scope.cancel())
                )
                thread.start()
                with pytest.raises(RuntimeError, match="was cancelled"):
                    view.submit(len)
                thread.join()
        assert inside(pool).free_permits == [None]

    def test_submit_timeout_in_a_scope(self) -> None:
        """A submit that gives up leaves nothing in the scope: the end does not wait for it."""
        with StatefulThreadPoolExecutor(1, max_backlog=1, submit_timeout=0) as pool:
            go_on = threading.Event()
            with pool.scope() as scope:
                scope.submit(go_on.wait)
                until(lambda: not pool.stats().backlog)
                scope.submit(int)
                with pytest.raises(BacklogFull):
                    scope.submit(int)
                assert len(inside(scope).permit_waiters) == 0
                go_on.set()
        assert inside(pool).free_permits == [None]


class TestCallbacks:
    """Callbacks of the tasks that a scope cancels."""

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize("by", ["fail_fast", "timeout", "cancel", "body"])
    def test_that_raise(self, by: str, error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
        """Every task is cancelled, every callback is called, and the block ends; who cancels by hand gets it."""
        kwargs: dict[str, Any] = {"fail_fast": {"fail_fast": True}, "timeout": {"timeout": SOON}}.get(by, {})
        called: list[object] = []
        begun, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            if by == "fail_fast":
                go_on.wait()
                raise LookupError
            hold_until_cancelled(scope)

        def callback(future: object) -> None:
            called.append(future)
            raise error

        own = None if error is ValueError else error  # of the thread that cancels, unless it is only logged
        expected = {
            "fail_fast": ExceptionGroup,
            "timeout": TimeoutError,
            "cancel": own,
            "body": own or LookupError,
        }[by]
        caught: BaseException | None = None
        with StatefulThreadPoolExecutor(1) as pool:
            try:
                with pool.scope(**kwargs) as scope:
                    scope.submit(hold)
                    waiting = [scope.submit(int) for _ in range(3)]
                    for future in waiting:
                        future.add_done_callback(callback)
                    begun.wait()
                    go_on.set()
                    if by in ("fail_fast", "timeout"):  # else the end of the block may be the one that cancels
                        until(lambda: called == waiting)
                    {"cancel": scope.cancel, "body": lambda: fail(LookupError())}.get(by, int)()
            except BaseException as exc:
                caught = exc
            assert (None if caught is None else type(caught)) is expected
            assert called == waiting
            assert all(future.cancelled() for future in waiting)
            assert pool.submit(int).result() == 0
        assert "a bug in stateful_executor" not in caplog.text
        if error is ValueError:
            assert caplog.text.count("exception calling callback for") == 3

    def test_that_submits_to_its_scope(self, single: Pool) -> None:
        """It is refused, as the scope was cancelled before."""
        refused: list[BaseException] = []

        def callback(_: object) -> None:
            try:
                scope.submit(int)
            except RuntimeError as exc:
                refused.append(exc)

        begun = threading.Event()
        with single.scope() as scope:
            scope.submit(hold_until_cancelled, scope, begun)
            scope.submit(int).add_done_callback(callback)
            begun.wait()
            scope.cancel()
        assert len(refused) == 1

    def test_of_tasks_that_end(self, single: Pool) -> None:
        """A callback that exits, on a task that has run, keeps the block from nothing."""
        go_on = threading.Event()
        with single.scope() as scope:
            future = scope.submit(go_on.wait)
            future.add_done_callback(lambda _: fail(SystemExit(3)))
            last = scope.submit(int)
            go_on.set()
        assert last.result() == 0


class TestNested:
    """A scope inside another one's block, or inside another one's task."""

    def test_group_of_the_inner_one(self, pool: Pool) -> None:
        """It is the error of the outer one's body: the same object, with a note; what has not begun is cancelled."""
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as outer:
            concurrent.futures.wait([outer.submit(fail, KeyError("outer"))])
            with pool.scope() as inner:
                inner.submit(fail, ValueError("inner"))
        assert [str(error) for error in caught.value.exceptions] == ["inner"]
        assert len(caught.value.__notes__) == 1
        assert repr(outer) in caught.value.__notes__[0]
        assert outer.cancelled
        assert not inner.cancelled

    @pytest.mark.parametrize("ending", ["refusal", "cancelled"])
    def test_inner_body_ended_by_the_outer_one(self, single: Pool, ending: str) -> None:
        """The outer one's refusal, or cancelled task, goes through the inner one, which it ends, to the outer one."""
        begun = threading.Event()
        with single.scope() as outer:
            outer.submit(hold_until_cancelled, outer, begun)
            waiting = outer.submit(int)
            begun.wait()
            with single.scope() as inner:
                in_inner = inner.submit(int)
                outer.cancel()
                if ending == "refusal":
                    outer.submit(int)
                waiting.result()
            pytest.fail("the error stopped at the inner scope")
        assert inner.cancelled
        assert in_inner.done()

    def test_outer_body_ended_by_the_inner_one(self, pool: Pool) -> None:
        """What an inner scope refuses after its end is an error of the outer one's body."""
        with pytest.raises(RuntimeError, match="open a new scope"), pool.scope():
            with pool.scope() as inner:
                pass
            inner.submit(int)

    def test_scopes_of_tasks_are_their_own(self, single: Pool) -> None:
        """The cancellation of a scope does not reach those that its tasks have opened."""
        begun, go_on = threading.Event(), threading.Event()

        def task() -> list[int]:
            with single.scope() as inner:
                begun.set()
                go_on.wait()
                futures = [inner.submit(int) for _ in range(3)]
            return [future.result() for future in futures]

        with single.scope() as outer:
            future = outer.submit(task)
            begun.wait()
            outer.cancel()
            go_on.set()
        assert future.result() == [0] * 3

    def test_groups_in_groups(self, pool: Pool) -> None:
        """Errors of a tree of scopes come out as the tree of groups."""

        def tree(depth: int) -> None:
            with pool.scope() as scope:
                if depth:
                    scope.submit(tree, depth - 1)
                scope.submit(fail, ValueError(depth))

        with pytest.raises(ExceptionGroup) as caught:
            tree(3)
        depths = []
        group: BaseExceptionGroup | None = caught.value
        while group is not None:
            depths += [error.args[0] for error in group.exceptions if isinstance(error, ValueError)]
            group = next((e for e in group.exceptions if isinstance(e, BaseExceptionGroup)), None)
        assert depths == [3, 2, 1, 0]


class TestTimeout:
    """`scope(timeout=...)`: cancelled at the deadline, and TimeoutError at the end."""

    def test_cancels_what_has_not_begun(self, single: Pool) -> None:
        """What runs sees it and is joined; no error of a task, no cause."""
        with pytest.raises(TimeoutError, match=r"<Scope of .*cancelled.*0\.4 seconds") as caught:
            with single.scope(timeout=SOON) as scope:
                running = scope.submit(hold_until_cancelled, scope)
                waiting = [scope.submit(int) for _ in range(3)]
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert running.result() is True
        assert all(future.cancelled() for future in waiting)
        assert single.submit(int).result() == 0

    def test_cause(self, single: Pool) -> None:
        """The group of the tasks' errors is the cause."""
        with pytest.raises(TimeoutError) as caught, single.scope(timeout=SOON) as scope:
            scope.submit(fail, KeyError("early"))
            scope.submit(lambda: (hold_until_cancelled(scope), fail(ValueError("late"))))
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert [type(error) for error in cause.exceptions] == [KeyError, ValueError]

    @pytest.mark.parametrize("ending", ["running", "waiting", "submit", "join"])
    def test_while_the_body_blocks(self, single: Pool, ending: str) -> None:
        """The timer does it, wherever the body is: also in `result()`, of a task that runs or has not begun."""
        with pytest.raises(TimeoutError) as caught, single.scope(timeout=SOON) as scope:
            running = scope.submit(hold_until_cancelled, scope)
            waiting = scope.submit(int)
            if ending == "running":
                assert running.result() is True
            if ending == "waiting":
                waiting.result()
                pytest.fail("it was not cancelled")
            if ending == "submit":
                while True:
                    scope.submit(int)
        assert caught.value.__cause__ is None

    def test_refusal_says_why(self, single: Pool) -> None:
        """Later submits raise, and name the time."""
        with pytest.raises(TimeoutError), single.scope(timeout=SOON) as scope:
            until(lambda: scope.cancelled)
            with pytest.raises(RuntimeError, match=r"has had its 0\.4 seconds"):
                scope.submit(int)

    def test_body_error(self, single: Pool, caplog: pytest.LogCaptureFixture) -> None:
        """The body's own error goes on unchanged, though the time is up."""
        error = LookupError("body")
        with pytest.raises(LookupError) as caught, single.scope(timeout=SOON) as scope:
            scope.submit(lambda: (hold_until_cancelled(scope), fail(ValueError("task")))).cancelled()
            until(lambda: scope.cancelled)
            raise error
        assert caught.value is error
        assert "1 task of" in error.__notes__[0]
        assert "ValueError: task" in caplog.text

    def test_timeout_of_a_result_is_the_bodys_own(self, single: Pool) -> None:
        """A TimeoutError of `result(timeout)` is not the scope's."""
        go_on = threading.Event()
        with pytest.raises(TimeoutError, match="has not ended after 0") as caught, single.scope(timeout=60) as scope:
            future = scope.submit(go_on.wait)
            try:
                future.result(0)
            finally:
                go_on.set()
        assert not hasattr(caught.value, "__notes__")

    def test_zero_lets_nothing_begin(self, pool: Pool) -> None:
        """With `timeout=0` every submit is refused, or its task cancelled, from the first one on."""
        ran: list[int] = []
        for number in range(100):
            with pytest.raises(TimeoutError) as caught, pool.scope(timeout=0) as scope:
                scope.submit(ran.append, number)
            assert caught.value.__cause__ is None
        assert not ran

    def test_zero_without_tasks(self, pool: Pool) -> None:
        """A scope whose time was up from the beginning says so, tasks or none."""
        for _ in range(50):
            with pytest.raises(TimeoutError), pool.scope(timeout=0) as scope:
                assert scope.cancelled

    @pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
    def test_wrong(self, single: Pool, timeout: float) -> None:
        """No negative time, and none that is no number."""
        with pytest.raises(ValueError, match=f"timeout must be at least 0 seconds, .*not {timeout}"):
            single.scope(timeout=timeout)

    @pytest.mark.parametrize("timeout", [3600, math.inf, threading.TIMEOUT_MAX * 2])
    def test_in_time(self, single: Pool, timeout: float) -> None:
        """A scope that ends in time leaves nothing: no cancellation, no thread, and itself neither."""
        single.submit(int).result()
        threads = _thread._count()
        for _ in range(10):
            scope = single.scope(timeout=timeout)
            assert _thread._count() <= threads  # the time begins with the block
            with scope:
                until(lambda: _thread._count() > threads)
                future = scope.submit(int)
            assert not scope.cancelled
            assert future.result() == 0
            ref = weakref.ref(scope)
            del scope
            until(lambda: _thread._count() <= threads)
            settle()
            assert ref() is None

    def test_no_thread_left(self, single: Pool) -> None:
        """Nor does one that was late."""
        single.submit(int).result()
        threads = _thread._count()
        with pytest.raises(TimeoutError), single.scope(timeout=SOON) as scope:
            scope.submit(hold_until_cancelled, scope)
        until(lambda: _thread._count() <= threads)

    def test_no_thread_left_after_an_error(self, single: Pool) -> None:
        """Nor one whose body raised."""
        single.submit(int).result()
        threads = _thread._count()
        with pytest.raises(LookupError), single.scope(timeout=3600):
            until(lambda: _thread._count() > threads)
            raise LookupError
        until(lambda: _thread._count() <= threads)

    def test_in_a_worker(self, single: Pool) -> None:
        """While tasks are run in place: the one that runs is joined, the others are cancelled."""

        def outer() -> list[bool]:
            with pytest.raises(TimeoutError), single.scope(timeout=SOON) as scope:
                futures = [scope.submit(hold_until_cancelled, scope), *(scope.submit(int) for _ in range(3))]
            return [future.cancelled() for future in futures]

        assert single.submit(outer).result() == [False, True, True, True]

    def test_with_fail_fast(self, single: Pool) -> None:
        """A failure comes before the deadline: the group is raised, not TimeoutError."""
        with pytest.raises(ExceptionGroup), single.scope(timeout=3600, fail_fast=True) as scope:
            scope.submit(fail, ValueError())

    def test_nested(self, single: Pool) -> None:
        """The inner one's TimeoutError is the error of the outer one's body, and has no mark of that one."""
        with pytest.raises(TimeoutError, match=r"0\.4 seconds"), single.scope(timeout=3600) as outer:
            with single.scope(timeout=SOON) as inner:
                inner.submit(hold_until_cancelled, inner)
        assert outer.cancelled

    def test_own_states(self, single: Pool) -> None:
        """The states of a scope that was late are torn down before its block ends."""
        log: list[str] = []
        with pytest.raises(TimeoutError), single.scope(timeout=SOON) as scope:
            view = scope.with_state(list, finalizer=lambda _: log.append("teardown"))
            view.submit(lambda _: hold_until_cancelled(scope))
        assert log == ["teardown"]

    def test_deadline_while_the_end_looks_once_more(self, single: Pool) -> None:
        """The time is up just when the block seems to be over, while another thread gets a task in: it is noticed."""
        passed = threading.Event()
        other = single.submit(int)
        concurrent.futures.wait([other])

        class Pending(dict[Any, Any]):
            looks = 0

            def pop(self, *args: Any) -> Any:
                if args == (None, None):
                    self.looks += 1
                    if self.looks == 2:
                        assert inside(scope).closing == {}
                        passed.wait()
                        self[other] = None  # of a submit in another thread, which has not looked at `_closing` yet
                        threading.Thread(target=inside(scope).ended, args=(other,)).start()
                return super().pop(*args)

        scope = single.scope(timeout=SOON)
        inside(scope).pending = Pending()
        time_out = inside(scope).time_out
        inside(scope).time_out = lambda: (time_out(), passed.set())  # type: ignore[method-assign, assignment, func-returns-value]
        with pytest.raises(TimeoutError), scope:
            pass
        del inside(scope).time_out


def run(main: Callable[[], Any]) -> Any:
    """`asyncio.run`, of a function without arguments."""
    return asyncio.run(main())


class TestAsync:
    """`async with pool.scope()`."""

    def test_joins_without_blocking_the_loop(self, pool: Pool) -> None:
        """While the end waits for a task, the loop runs: here it is what lets the task go on."""
        go_on, log = threading.Event(), []

        async def release() -> None:
            log.append("the loop runs")
            go_on.set()

        async def main() -> None:
            async with pool.scope() as scope:
                futures = [scope.submit(lambda: (go_on.wait(), log.append("task"))) for _ in range(3)]
                releasing = asyncio.create_task(release())  # does not begin before this coroutine waits
                assert not go_on.is_set()
            assert all(future.done() for future in futures)
            await releasing

        run(main)
        assert log == ["the loop runs", "task", "task", "task"]

    def test_callbacks_have_run(self, pool: Pool) -> None:
        """The end waits for callbacks as well."""
        log: list[str] = []

        async def main() -> None:
            async with pool.scope() as scope:
                go_on, end = threading.Event(), threading.Event()
                future = scope.submit(go_on.wait)
                future.add_done_callback(lambda _: (end.wait(), log.append("callback")))
                go_on.set()
                asyncio.get_running_loop().call_soon(end.set)
            log.append("end")

        run(main)
        assert log == ["callback", "end"]

    def test_asubmit(self, pool: Pool) -> None:
        """Its futures are awaited in the body, and joined when they are not."""
        done: list[int] = []

        async def main() -> int:
            async with pool.scope() as scope:
                future = await scope.asubmit(pow, 2, 5)
                result = await future
                for number in range(5):
                    await scope.asubmit(done.append, number)
            return result

        assert run(main) == 32
        assert sorted(done) == list(range(5))

    def test_errors(self, pool: Pool) -> None:
        """Those that nobody took are raised together; one that was awaited is not."""

        async def main() -> None:
            async with pool.scope() as scope:
                with pytest.raises(KeyError):
                    await (await scope.asubmit(fail, KeyError("taken")))
                scope.submit(fail, ValueError("left"))

        with pytest.raises(ExceptionGroup) as caught:
            run(main)
        assert [str(error) for error in caught.value.exceptions] == ["left"]

    def test_body_error(self, single: Pool, caplog: pytest.LogCaptureFixture) -> None:
        """It goes on unchanged, with a note; what has not begun is cancelled, what runs is joined."""
        error = LookupError("body")

        async def main() -> None:
            async with single.scope() as scope:
                begun = threading.Event()
                running = scope.submit(lambda: (hold_until_cancelled(scope, begun), fail(ValueError("task"))))
                waiting = scope.submit(int)
                begun.wait()
                futures.extend([running, waiting])
                raise error

        futures: list[concurrent.futures.Future[Any]] = []
        with pytest.raises(LookupError) as caught:
            run(main)
        assert caught.value is error
        assert "1 task of" in error.__notes__[0]
        assert "ValueError: task" in caplog.text
        assert [future.cancelled() for future in futures] == [False, True]
        assert futures[0].done()

    @pytest.mark.parametrize("moment", ["body", "join"])
    def test_cancelled(self, single: Pool, moment: str) -> None:
        """When the asyncio task is cancelled, what has not begun is, the rest is joined, then CancelledError."""
        begun, go_on = threading.Event(), threading.Event()
        log: list[str] = []
        futures: list[concurrent.futures.Future[Any]] = []

        async def use() -> None:
            try:
                async with single.scope() as scope:
                    futures.append(scope.submit(lambda: (begun.set(), go_on.wait(), log.append("task"))))
                    futures.append(scope.submit(int))
                    if moment == "body":
                        await asyncio.Event().wait()
            finally:
                log.append("end")

        async def main() -> None:
            task = asyncio.create_task(use())
            while not (futures and begun.is_set()):
                await asyncio.sleep(0)
            task.cancel()
            while not futures[1].cancelled():
                await asyncio.sleep(0)
            for _ in range(3):  # however often
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

        run(main)
        assert log == ["task", "end"]

    def test_asyncio_timeout(self, single: Pool) -> None:
        """`asyncio.timeout` around the block works as around any other."""

        async def main() -> None:
            async with asyncio.timeout(SOON):
                async with single.scope() as scope:
                    scope.submit(hold_until_cancelled, scope)

        with pytest.raises(TimeoutError):
            run(main)
        assert single.submit(int).result() == 0

    def test_in_a_task_group(self, single: Pool) -> None:
        """A sibling's error cancels the block, which joins, and the group has that one error only."""
        ended: list[bool] = []

        async def use(begun: asyncio.Event) -> None:
            async with single.scope() as scope:
                future = scope.submit(hold_until_cancelled, scope)
                begun.set()
                await asyncio.wrap_future(future)
            pytest.fail("not cancelled")

        async def main() -> None:
            begun = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(use(begun)).add_done_callback(lambda task: ended.append(task.cancelled()))
                await begun.wait()
                raise LookupError

        with pytest.raises(ExceptionGroup) as caught:
            run(main)
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert ended == [True]

    def test_timeout(self, single: Pool) -> None:
        """TimeoutError, with the group as its cause; the body that awaits a cancelled task has not failed itself."""

        async def main() -> None:
            async with single.scope(timeout=SOON) as scope:
                scope.submit(lambda: (hold_until_cancelled(scope), fail(ValueError("task"))))
                await (await scope.asubmit(int))
                pytest.fail("it was not cancelled")

        with pytest.raises(TimeoutError, match=r"0\.4 seconds") as caught:
            run(main)
        assert isinstance(caught.value.__cause__, ExceptionGroup)

    def test_timeout_zero(self, single: Pool) -> None:
        """Nothing begins."""
        ran: list[int] = []

        async def main() -> None:
            async with single.scope(timeout=0) as scope:
                await scope.asubmit(ran.append, 1)

        for _ in range(50):
            with pytest.raises(TimeoutError):
                run(main)
        assert not ran

    @pytest.mark.parametrize("ending", ["refusal", "cancelled"])
    def test_fail_fast(self, single: Pool, ending: str) -> None:
        """As in a `with` block."""
        go_on = threading.Event()

        async def main() -> None:
            async with single.scope(fail_fast=True) as scope:
                scope.submit(lambda: (go_on.wait(), fail(ValueError("task"))))
                waiting = await scope.asubmit(int)
                go_on.set()
                if ending == "cancelled":
                    await waiting
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await scope.asubmit(int)

        with pytest.raises(ExceptionGroup) as caught:
            run(main)
        assert [str(error) for error in caught.value.exceptions] == ["task"]

    def test_cancelled_by_others(self, single: Pool) -> None:
        """A CancelledError that is not the scope's doing is an error of the body."""
        go_on = threading.Event()

        async def main() -> None:
            async with single.scope() as scope:
                scope.submit(go_on.wait)
                waiting = scope.submit(int)
                waiting.cancel()
                go_on.set()
                await asyncio.wrap_future(waiting)

        with pytest.raises(asyncio.CancelledError):
            run(main)

    @pytest.mark.parametrize("by", ["cancel", "timeout", "fail_fast"])
    def test_blocked_asubmit(self, by: str) -> None:
        """An asubmit that waits for a place is woken when its scope is cancelled, and no place is lost."""
        kwargs: dict[str, Any] = {"fail_fast": {"fail_fast": True}, "timeout": {"timeout": SOON}, "cancel": {}}[by]
        go_on = threading.Event()
        refused: list[BaseException] = []

        def hold(scope: Scope) -> None:
            if by == "fail_fast":
                go_on.wait()
                raise ValueError
            hold_until_cancelled(scope)

        async def trigger(scope: Scope) -> None:
            while by != "timeout" and not pool.stats().blocked_submitters:
                await asyncio.sleep(0)
            if by == "cancel":
                scope.cancel()
            go_on.set()

        async def main() -> None:
            async with pool.scope(**kwargs) as scope:
                scope.submit(hold, scope)
                scope.submit(int)
                triggering = asyncio.create_task(trigger(scope))
                try:
                    await scope.asubmit(int)
                except RuntimeError as exc:
                    refused.append(exc)
                    await triggering
                    raise

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            if by == "cancel":
                run(main)
            else:
                with pytest.raises(TimeoutError if by == "timeout" else ExceptionGroup):
                    run(main)
            assert len(refused) == 1
            assert inside(pool).free_permits == [None]
            assert pool.stats().blocked_submitters == 0

    def test_asyncio_cancels_a_blocked_asubmit(self) -> None:
        """One that was cancelled by asyncio has left nothing in the scope, nor in the line."""
        go_on = threading.Event()

        async def main() -> None:
            async with pool.scope() as scope:
                scope.submit(go_on.wait)
                scope.submit(int)
                task = asyncio.create_task(scope.asubmit(int))
                while not pool.stats().blocked_submitters:
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                go_on.set()

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            run(main)
            assert inside(pool).free_permits == [None]
            assert pool.stats().blocked_submitters == 0

    def test_in_a_worker(self, single: Pool) -> None:
        """A RuntimeError in a worker of the same pool, whose loop would wait for it; in another pool's it works."""

        async def main(pool: Pool) -> int:
            async with pool.scope() as scope:
                future = scope.submit(int)
            return future.result()

        with pytest.raises(RuntimeError, match="use `with` in a worker of the pool"):
            single.submit(lambda: asyncio.run(main(single))).result()
        with StatefulThreadPoolExecutor(1) as other:
            assert other.submit(lambda: asyncio.run(main(single))).result() == 0

    def test_own_states(self, pool: Pool) -> None:
        """They are torn down before the block ends, by the workers that made them, while the loop runs."""
        made: list[int] = []
        torn_down: list[int] = []
        go_on = threading.Event()

        def make() -> None:
            made.append(threading.get_ident())

        def tear_down(_: object) -> None:
            go_on.wait()
            torn_down.append(threading.get_ident())

        async def main() -> None:
            async with pool.scope() as scope:
                view = scope.with_state(make, finalizer=tear_down)
                await asyncio.gather(*[await view.asubmit(id) for _ in range(20)])

                async def release() -> None:
                    while not inside(scope).closed:
                        await asyncio.sleep(0)
                    go_on.set()

                releasing = asyncio.create_task(release())
            assert sorted(torn_down) == sorted(made)
            await releasing

        run(main)
        assert torn_down

    def test_cancelled_while_states_are_torn_down(self, single: Pool) -> None:
        """The block ends after the teardown all the same, then CancelledError."""
        tearing, go_on = threading.Event(), threading.Event()
        log: list[str] = []

        async def use() -> None:
            async with single.scope() as scope:
                view = scope.with_state(list, finalizer=lambda _: (tearing.set(), go_on.wait(), log.append("teardown")))
                await (await view.asubmit(len))

        async def main() -> None:
            task = asyncio.create_task(use())
            while not tearing.is_set():
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main)
        assert log == ["teardown"]

    def test_teardown_errors(self, single: Pool) -> None:
        """They are raised by the block."""

        async def main() -> None:
            async with single.scope() as scope:
                scope.with_state(list, finalizer=lambda _: fail(OSError("teardown"))).submit(len)

        with pytest.raises(ExceptionGroup, match="1 teardown") as caught:
            run(main)
        assert [str(error) for error in caught.value.exceptions] == ["teardown"]

    def test_two_at_once(self, pool: Pool) -> None:
        """Two blocks in one loop join their own tasks, one after the other's."""
        first_ended = threading.Event()
        log: list[str] = []

        async def use(name: str, fn: Callable[[], object]) -> None:
            async with pool.scope() as scope:
                scope.submit(fn)
            log.append(name)
            first_ended.set()

        async def main() -> None:
            if pool._max_workers == 1:
                await use("first", int)
                await use("second", first_ended.wait)
            else:
                await asyncio.gather(use("second", first_ended.wait), use("first", int))

        run(main)
        assert log == ["first", "second"]


class TestTeardownErrors:
    """A scope's own states whose teardown fails."""

    @pytest.mark.parametrize("error", [OSError("teardown"), SystemExit("teardown")])
    def test_raised(self, single: Pool, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
        """By the scope, in a group, and logged, and counted; the worker goes on."""
        with pytest.raises(BaseExceptionGroup, match="1 teardown") as caught, single.scope() as scope:
            scope.with_state(list, finalizer=lambda _: fail(error)).submit(len)
        assert caught.value.exceptions == (error,)
        assert isinstance(caught.value, ExceptionGroup) == isinstance(error, Exception)
        assert [(record.name, record.levelno) for record in caplog.records] == [("stateful_executor", logging.ERROR)]
        assert single.stats().teardown_errors == 1
        assert single.submit(int).result() == 0

    def test_body_error(self, single: Pool) -> None:
        """When the body raised, that goes on, and its note counts the teardown."""
        with pytest.raises(LookupError) as caught, single.scope() as scope:
            scope.with_state(list, finalizer=lambda _: fail(OSError("teardown"))).submit(len).result()
            raise LookupError
        assert len(caught.value.__notes__) == 1
        assert "1 teardown of <Scope" in caught.value.__notes__[0]

    def test_all_of_them(self, single: Pool) -> None:
        """One that fails keeps no other from being torn down."""
        log: list[str] = []

        def tear_down(state: str) -> None:
            log.append(state)
            if state in "ac":
                raise OSError(state)

        with pytest.raises(ExceptionGroup, match="2 teardowns") as caught, single.scope() as scope:
            for name in "abcd":
                scope.with_state(str, (name,), finalizer=tear_down).submit(len)
        assert sorted(log) == ["a", "b", "c", "d"]
        assert {str(error) for error in caught.value.exceptions} == {"a", "c"}

    def test_pools_states_are_not_the_scopes(self, single: Pool, caplog: pytest.LogCaptureFixture) -> None:
        """A state of the pool's that is replaced in a scope, and fails at that, is only logged."""
        view = single.with_state(list, finalizer=lambda _: fail(OSError("teardown")))
        with single.scope() as scope:
            scope.submit(view.bind(lambda _: view.discard()))
        assert "OSError: teardown" in caplog.text
        caplog.clear()


class TestOwnStatesElsewhere:
    """A scope's own states on workers that do something else when the block ends."""

    def test_busy_worker(self, single: Pool) -> None:
        """The end waits for the one task that the worker runs, and for none that is queued after it."""
        log: list[str] = []
        begun, go_on, after = threading.Event(), threading.Event(), threading.Event()

        def other() -> None:
            begun.set()
            go_on.wait()
            log.append("running task ends")

        with single.scope() as scope:
            view = scope.with_state(list, finalizer=lambda _: log.append("teardown"))
            view.submit(len).result()
            single.submit(other)
            begun.wait()
            queued = single.submit(lambda: (after.wait(), log.append("queued task ends")))
            worker = inside(next(iter(inside(single).workers)))
            ask = worker.ask
            worker.ask = lambda request: (ask(request), go_on.set())  # type: ignore[func-returns-value]
        assert log == ["running task ends", "teardown"]
        after.set()
        queued.result()

    def test_worker_at_the_end_of_another_scope(self) -> None:
        """A worker whose task waits for another scope tears down meanwhile: neither waits for the other."""
        with StatefulThreadPoolExecutor(2) as pool:
            log: list[str] = []
            first_ended = threading.Event()
            second_begun = threading.Event()

            def with_a_scope() -> int:
                with pool.scope() as second:
                    begun = threading.Event()
                    second.submit(lambda: (begun.set(), second_begun.set(), first_ended.wait()))
                    begun.wait()
                return threading.get_ident()

            with pool.scope() as first:
                view = first.with_state(list, finalizer=lambda _: log.append("teardown"))
                holder = view.submit(lambda _: threading.get_ident()).result()
                waiting = pool.submit(with_a_scope)  # by the worker that was busy last, which holds the state
                second_begun.wait()
            assert log == ["teardown"]
            first_ended.set()
            assert waiting.result() == holder

    @pytest.mark.parametrize("wait", ["submit", "map", "map_unordered", "exception"])
    def test_worker_that_waits_in_other_ways(self, wait: str) -> None:
        """So it does while it waits for a place in another pool's backlog, or for the next item of a map."""
        with StatefulThreadPoolExecutor(1) as pool, StatefulThreadPoolExecutor(1, max_backlog=1) as other:
            log: list[str] = []
            ended = threading.Event()
            other.submit(ended.wait)
            until(lambda: not other.stats().backlog)

            def task() -> None:
                if wait == "submit":
                    other.submit(int)
                    other.submit(int)
                elif wait == "exception":
                    other.submit(int).exception()
                else:
                    next(getattr(other, wait)(abs, [1], buffersize=1))

            with pool.scope() as scope:
                scope.with_state(list, finalizer=lambda _: log.append("teardown")).submit(len).result()
                waiting = pool.submit(task)
                worker = inside(next(iter(inside(pool).workers)))
                until(lambda: worker.parker is not None)
            assert log == ["teardown"]
            assert not waiting.done()
            ended.set()
            waiting.result()

    def test_lent_to_a_bound_function_of_another_task(self, single: Pool) -> None:
        """A call that holds the state delays the end of the scope; the task that made the call goes on after it."""
        log: list[str] = []
        holding, call_ends, task_ends = threading.Event(), threading.Event(), threading.Event()

        def hold(state: list[int]) -> None:
            holding.set()
            single_wait(call_ends)
            log.append("call ends")

        def single_wait(event: threading.Event) -> None:
            with StatefulThreadPoolExecutor(1) as other:  # a wait of the library, in which requests are answered
                other.submit(event.wait).result()

        with single.scope() as scope:
            view = scope.with_state(list, finalizer=lambda _: log.append("teardown"))
            bound = view.bind(hold)
            outside = single.submit(lambda: (bound(), task_ends.wait()))
            holding.wait()
            worker = inside(next(iter(inside(single).workers)))
            ask = worker.ask
            worker.ask = lambda request: (ask(request), call_ends.set())  # type: ignore[func-returns-value]
        assert log == ["call ends", "teardown"]
        assert not outside.done()
        task_ends.set()
        outside.result()

    def test_bound_function_after_the_end(self, single: Pool) -> None:
        """A bound function of the scope's view is refused afterwards, and makes no state that nobody tears down."""
        made: list[int] = []
        with single.scope() as scope:
            bound = scope.with_state(lambda: made.append(1)).bind(lambda _: None)
        with pytest.raises(RuntimeError, match="the scope of this view has ended"):
            single.submit(bound).result()
        assert not made

    def test_many_scopes_with_states(self, nervous: None) -> None:
        """Scopes in threads and in tasks, each with its own states on the same workers: all torn down in time."""
        errors: list[str] = []

        def use(name: object, depth: int) -> None:
            alive: list[int] = []
            with pool.scope() as scope:
                view = scope.with_state(lambda: alive.append(1), finalizer=lambda _: alive.pop())
                for _ in range(4):
                    view.submit(lambda _: None)
                if depth:
                    for _ in range(2):
                        scope.submit(use, name, depth - 1)
            if alive:
                errors.append(f"{name}: {alive}")

        with StatefulThreadPoolExecutor(3) as pool:
            threads = [threading.Thread(target=use, args=(name, 3)) for name in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stats = pool.stats()
        assert not errors
        assert stats.states_made == stats.states_torn_down


def test_no_cycles(single: Pool) -> None:
    """An ended scope, its tasks and their errors go without a collection, whichever way it ended."""

    def use(**kwargs: Any) -> list[weakref.ref[Any]]:
        scope = single.scope(**kwargs)
        try:
            with scope:
                begun = threading.Event()
                refs: list[weakref.ref[Any]] = [
                    weakref.ref(scope),
                    weakref.ref(scope.submit(lambda: (begun.wait(), fail(ValueError())))),
                    weakref.ref(scope.submit(hold_until_cancelled, scope)),
                    weakref.ref(scope.submit(int)),
                ]
                begun.set()
                if not kwargs:
                    scope.cancel()
        except (ExceptionGroup, TimeoutError):
            pass
        return refs

    single.submit(int).result()
    gc.collect()
    gc.disable()
    try:
        threads = _thread._count()
        for kwargs in ({}, {"timeout": SOON}, {"fail_fast": True}):
            refs = use(**kwargs)
            single.submit(int).result()  # the worker has forgotten the one before
            until(lambda threads=threads: _thread._count() <= threads)  # so has the thread for the timeout
            settle()
            assert [ref() for ref in refs] == [None] * 4
    finally:
        gc.enable()
