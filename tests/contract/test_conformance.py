"""What users of `concurrent.futures` rely on, on the standard library's pool and on ours: one suite, two classes."""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import Any, Self

import pytest
from threads import PATIENCE, beside, until

from stateful_executor import StatefulThreadPoolExecutor

PoolClass = type[ThreadPoolExecutor]


@pytest.fixture(params=[ThreadPoolExecutor, StatefulThreadPoolExecutor], ids=["stdlib", "stateful"])
def pool_cls(request: pytest.FixtureRequest) -> PoolClass:
    """The class under test."""
    return request.param


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Fail a test in which something was not told, and went on only because its timeout had passed."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < PATIENCE


class Blocked:
    """A task that has begun, and ends when told to or at the end of the `with` block."""

    def __init__(self, pool: Executor, result: Any = None, error: BaseException | None = None) -> None:
        self.begun = threading.Event()
        self.end = threading.Event()
        self.result = result
        self.error = error
        self.future = pool.submit(self.run)
        assert self.begun.wait(PATIENCE)

    def run(self) -> Any:
        self.begun.set()
        assert self.end.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end.set()


class Thing:
    """Something that a weak reference can be made to."""

    def method(self) -> None:
        pass

    def itself(self) -> "Thing":
        return self


class Failure(Exception):
    """Unlike the builtin ones, something that a weak reference can be made to."""


def fail(error: BaseException) -> None:
    raise error


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def until_gone(ref: "weakref.ref[Any]") -> None:
    """Return when its object is gone. Free-threaded builds need the collector for that."""

    def gone() -> bool:
        gc.collect()
        return ref() is None

    until(gone)


# submit


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1,), {}), ((1, 2), {"x": 3}), ((), {"self": 1, "fn": 2, "args": 3, "kwargs": 4})]
)
def test_submit_passes_arguments(pool_cls: PoolClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Every argument after the function is the task's, whatever its name."""
    with pool_cls(1) as pool:
        assert pool.submit(capture, *args, **kwargs).result(PATIENCE) == (args, kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"fn": print}])
def test_submit_needs_a_function(pool_cls: PoolClass, kwargs: dict[str, Any]) -> None:
    """The function is positional only."""
    with pool_cls(1) as pool, pytest.raises(TypeError):
        pool.submit(**kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"key": 1}])
def test_submit_of_something_not_callable_fails_in_the_task(pool_cls: PoolClass, kwargs: dict[str, Any]) -> None:
    """That it can't be called is the future's error, not that of `submit`."""
    with pool_cls(1) as pool:
        future = pool.submit(3, **kwargs)  # type: ignore[arg-type]
        assert isinstance(future.exception(PATIENCE), TypeError)


def test_submit_returns_a_future(pool_cls: PoolClass) -> None:
    """It is one of `concurrent.futures`, and the pool one of its executors."""
    with pool_cls(1) as pool:
        assert isinstance(pool, Executor)
        assert isinstance(pool, ThreadPoolExecutor)
        assert isinstance(pool.submit(int), concurrent.futures.Future)


@pytest.mark.parametrize("kind", [ValueError, BaseException, SystemExit, KeyboardInterrupt, CancelledError])
def test_exception_of_a_task(pool_cls: PoolClass, kind: type[BaseException]) -> None:
    """`result` raises the very exception, with the task's frames; `exception` returns it; the worker goes on."""
    error = kind("told so")
    with pool_cls(1) as pool:
        future = pool.submit(fail, error)
        with pytest.raises(kind) as caught:
            future.result(PATIENCE)
        assert caught.value is error
        assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
        assert future.exception() is error
        assert pool.submit(int).result(PATIENCE) == 0


def test_tasks_begin_in_order(pool_cls: PoolClass) -> None:
    """One worker takes tasks in the order of their submits."""
    order: list[int] = []
    with pool_cls(1) as pool:
        for i in range(100):
            pool.submit(order.append, i)
    assert order == list(range(100))


def test_tasks_run_at_once(pool_cls: PoolClass) -> None:
    """As many tasks run together as there are workers."""
    barrier = threading.Barrier(4)
    with pool_cls(4) as pool:
        futures = [pool.submit(barrier.wait, PATIENCE) for _ in range(4)]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2, 3]


def test_a_task_submits(pool_cls: PoolClass) -> None:
    """A task may submit another and return its future."""
    with pool_cls(1) as pool:
        assert pool.submit(pool.submit, pow, 2, 5).result(PATIENCE).result(PATIENCE) == 32


def test_submit_from_many_threads(pool_cls: PoolClass) -> None:
    """Every task of every submitter runs once."""
    done: list[tuple[int, int]] = []
    barrier = threading.Barrier(4)

    def submitter(pool: Executor, me: int) -> None:
        barrier.wait(PATIENCE)
        for i in range(50):
            pool.submit(done.append, (me, i))

    with pool_cls(3) as pool, contextlib.ExitStack() as stack:
        for me in range(4):
            stack.enter_context(beside(submitter, pool, me))
    assert sorted(done) == [(me, i) for me in range(4) for i in range(50)]


# map


@pytest.mark.parametrize("chunksize", [1, 2, 100])
@pytest.mark.parametrize(
    "inputs",
    [(), ([],), ([3, 1, 2],), (range(5), [2, 3]), ([1, 2], [], [3])],
    ids=["no", "empty", "one", "two", "three"],
)
def test_map_is_map(pool_cls: PoolClass, inputs: tuple[Any, ...], chunksize: int) -> None:
    """As the builtin: in order, as long as the shortest input, any iterable will do; `chunksize` changes nothing."""
    with pool_cls(3) as pool:
        results = pool.map(capture, *map(iter, inputs), chunksize=chunksize)
        assert list(results) == [(args, {}) for args in zip(*inputs, strict=False)]


def test_map_keeps_the_order(pool_cls: PoolClass) -> None:
    """Results come in the order of the input, even when the tasks end in the opposite one."""
    ended = [threading.Event() for _ in range(4)]

    def after_the_next(i: int) -> int:
        if i < 3:
            assert ended[i + 1].wait(PATIENCE)
        ended[i].set()
        return i

    with pool_cls(4) as pool:
        assert list(pool.map(after_the_next, range(4))) == [0, 1, 2, 3]


def test_map_exception(pool_cls: PoolClass) -> None:
    """What came before an error is yielded, then the error is raised, then the iterator has ended."""
    with pool_cls(2) as pool:
        results = pool.map(divmod, [4, 6, 1, 8], [2, 3, 0, 4])
        assert next(results) == (2, 0)
        assert next(results) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []


def test_map_submits_at_once(pool_cls: PoolClass) -> None:
    """All tasks are submitted before `map` returns, and run without anybody iterating."""
    done: list[int] = []
    with pool_cls(2) as pool:
        source = iter(range(10))
        pool.map(done.append, source)
        assert next(source, None) is None
    assert sorted(done) == list(range(10))


def test_map_failing_input(pool_cls: PoolClass) -> None:
    """What an input raises comes out of `map` itself."""
    with pool_cls(2) as pool, pytest.raises(ZeroDivisionError):
        pool.map(int, (1 // i for i in (1, 0)))


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_map_timeout(pool_cls: PoolClass, timeout: float) -> None:
    """The iterator raises `TimeoutError` when the next result is late, and cancels what has not begun."""
    ran: list[int] = []
    with pool_cls(1) as pool, Blocked(pool):
        results = pool.map(ran.append, range(3), timeout=timeout)
        with pytest.raises(TimeoutError):
            next(results)
    assert ran == []


def test_map_in_time(pool_cls: PoolClass) -> None:
    """A timeout does nothing to results that are there."""
    with pool_cls(2) as pool:
        assert list(pool.map(abs, [-1, -2], timeout=PATIENCE)) == [1, 2]


def test_map_close_cancels(pool_cls: PoolClass) -> None:
    """Closing the iterator cancels what has not begun."""
    begun, end = threading.Event(), threading.Event()
    ran: list[int] = []

    def run(i: int) -> None:
        ran.append(i)
        if i == 1:
            begun.set()
            assert end.wait(PATIENCE)

    with pool_cls(1) as pool:
        results = pool.map(run, range(4))
        next(results)
        assert begun.wait(PATIENCE)
        results.close()  # type: ignore[attr-defined]
        end.set()
    assert ran == [0, 1]


def test_map_closed_in_a_chunk(pool_cls: PoolClass) -> None:
    """The rest of the chunk is not yielded either."""
    with pool_cls(1) as pool:
        results = pool.map(str, range(10), chunksize=4)
        assert [next(results), next(results)] == ["0", "1"]
        results.close()  # type: ignore[attr-defined]
        assert list(results) == []


@pytest.mark.parametrize("iterables", [1, 2])
def test_map_of_what_raises_stop_iteration(pool_cls: PoolClass, iterables: int) -> None:
    """It is an error like others, and not the end of the results; a generator can't raise it as it is."""

    def stop_at_4(number: int, *_: int) -> int:
        if number == 4:
            raise StopIteration
        return number

    for chunksize in 1, 3:
        with pool_cls(2) as pool:
            results = pool.map(stop_at_4, *[range(6)] * iterables, chunksize=chunksize)
            assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
            with pytest.raises(RuntimeError) as info:
                next(results)
            assert isinstance(info.value.__cause__, StopIteration)
            assert list(results) == []


def test_map_keeps_no_result(pool_cls: PoolClass) -> None:
    """A result lives only as long as the caller of `next` wants it."""
    with pool_cls(2) as pool:
        results = pool.map(lambda _: Thing(), range(3))
        for _ in range(3):
            until_gone(weakref.ref(next(results)))


# wait and as_completed


@pytest.mark.parametrize(
    ("return_when", "expected"),
    [(FIRST_COMPLETED, {"good", "bad"}), (FIRST_EXCEPTION, {"good", "bad"}), (ALL_COMPLETED, {"good", "bad", "late"})],
)
def test_wait_for_what_has_ended(pool_cls: PoolClass, return_when: str, expected: set[str]) -> None:
    """`wait` returns at once what it was asked for, or at the timeout what there is."""
    with pool_cls(2) as pool, Blocked(pool) as blocked:
        futures = {"good": pool.submit(int), "bad": pool.submit(fail, ValueError()), "late": blocked.future}
        for name in ("good", "bad"):
            futures[name].exception(PATIENCE)
        done, rest = wait(futures.values(), timeout=0, return_when=return_when)
        assert done == {futures["good"], futures["bad"]}
        assert rest == {futures["late"]}
        if return_when == ALL_COMPLETED:
            blocked.end.set()
        done, rest = wait(futures.values(), timeout=PATIENCE, return_when=return_when)
        assert done == {futures[name] for name in expected}
        assert rest == set(futures.values()) - done


@pytest.mark.parametrize(
    ("return_when", "ending", "expected"),
    [
        (FIRST_COMPLETED, [0], {0}),
        (FIRST_EXCEPTION, [0, 1], {0, 1}),
        (FIRST_EXCEPTION, [0, 2, 1], {0, 1, 2}),
        (ALL_COMPLETED, [2, 0, 1], {0, 1, 2}),
    ],
)
def test_wait_asleep(pool_cls: PoolClass, return_when: str, ending: list[int], expected: set[int]) -> None:
    """A thread that is waiting is told of the ends it waits for, and of no others. Of three tasks, number 1 fails."""
    with pool_cls(3) as pool, contextlib.ExitStack() as stack:
        tasks = [stack.enter_context(Blocked(pool, error=ValueError() if i == 1 else None)) for i in range(3)]
        futures = [task.future for task in tasks]
        outcome: list[Any] = []
        with beside(lambda: outcome.append(wait(futures, PATIENCE, return_when))):
            until(lambda: all(future._waiters for future in futures))  # asleep, or as good as
            for i in ending:
                assert not outcome
                tasks[i].end.set()
                futures[i].exception(PATIENCE)
        done, rest = outcome[0]
        assert done == {futures[i] for i in expected}
        assert rest == set(futures) - done


def test_wait_for_cancelled(pool_cls: PoolClass) -> None:
    """A cancelled task has ended, for those who wait too."""
    with pool_cls(1) as pool:
        with Blocked(pool) as blocked:
            pending = pool.submit(int)
            assert pending.cancel()
        done, rest = wait([blocked.future, pending], PATIENCE)
        assert done == {blocked.future, pending}
        assert not rest
        assert set(as_completed([pending], PATIENCE)) == {pending}


collects = pytest.mark.parametrize(
    "collect",
    [
        pytest.param(lambda futures: wait(futures, PATIENCE).done, id="wait"),
        pytest.param(lambda futures: list(as_completed(futures, PATIENCE)), id="as_completed"),
    ],
)


@collects
def test_wait_for_many(pool_cls: PoolClass, collect: Callable[[list[Any]], Any]) -> None:
    """Duplicates count once, and futures of different pools go together."""
    with pool_cls(4) as pool, ThreadPoolExecutor(2) as other:
        futures = [executor.submit(int) for _ in range(50) for executor in (pool, other)]
        done = collect(futures + futures)
        assert len(done) == 100
        assert set(done) == set(futures)


@collects
def test_wait_races_with_the_end(pool_cls: PoolClass, nervous: None, collect: Callable[[list[Any]], Any]) -> None:
    """Tasks that end while somebody begins to wait for them are neither missed nor counted twice."""
    with pool_cls(3) as pool:
        for _ in range(100):
            futures = [pool.submit(int) for _ in range(4)]
            assert set(collect(futures)) == set(futures)


def test_the_state_keeps_still_for_wait(pool_cls: PoolClass) -> None:
    """A task does not seem to end while `wait`, which looks twice, holds its condition."""
    with pool_cls(1) as pool, ThreadPoolExecutor(1) as other, Blocked(pool) as blocked:
        with blocked.future._condition:
            blocked.end.set()
            for _ in range(100):  # switches of threads, in which the worker has time enough to end its task
                other.submit(int).result(PATIENCE)
                assert blocked.future._state == "RUNNING"
        assert wait([blocked.future], PATIENCE).done


def test_wait_of_many_threads(pool_cls: PoolClass) -> None:
    """One future wakes all who wait for it, by whatever means."""
    seen: list[Any] = []
    with pool_cls(1) as pool, contextlib.ExitStack() as stack:
        blocked = Blocked(pool, result=7)
        future, start = blocked.future, threading.Barrier(7)
        ways: list[Callable[[], Any]] = [
            lambda: future.result(PATIENCE),
            lambda: next(as_completed([future], PATIENCE)).result(),
            lambda: wait([future], PATIENCE).done.pop().result(),
        ]
        for way in ways * 2:
            stack.enter_context(beside(lambda way=way: (start.wait(PATIENCE), seen.append(way()))))
        start.wait(PATIENCE)
        blocked.end.set()
    assert seen == [7] * 6


def test_as_completed_order(pool_cls: PoolClass) -> None:
    """Futures come as they end."""
    with pool_cls(3) as pool, contextlib.ExitStack() as stack:
        tasks = [stack.enter_context(Blocked(pool)) for _ in range(3)]
        completed = as_completed([task.future for task in tasks], PATIENCE)
        for i in (1, 2, 0):
            tasks[i].end.set()
            assert next(completed) is tasks[i].future


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_as_completed_timeout(pool_cls: PoolClass, timeout: float) -> None:
    """What has ended is yielded before `TimeoutError`."""
    with pool_cls(2) as pool, Blocked(pool) as blocked:
        quick = pool.submit(int)
        quick.result(PATIENCE)
        completed = as_completed([quick, blocked.future], timeout)
        assert next(completed) is quick
        with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
            next(completed)


# The future


@contextlib.contextmanager
def future_in(state: str, pool: ThreadPoolExecutor) -> Iterator["Future[Any]"]:
    """A future of `pool`, which has one worker, in this state for the time of the `with` block."""
    with Blocked(pool) as blocked:
        if state == "running":
            yield blocked.future
            return
        future: Future[Any] = pool.submit(fail, ValueError()) if state == "failed" else pool.submit(int)
        if state in ("returned", "failed"):
            blocked.end.set()
            future.exception(PATIENCE)
        elif state == "cancelled":
            assert future.cancel()
        yield future


STATES = ["pending", "running", "cancelled", "returned", "failed"]


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("pending", "pending"),
        ("running", "running"),
        ("cancelled", "cancelled"),
        ("returned", "finished returned int"),
        ("failed", "finished raised ValueError"),
    ],
)
def test_states(pool_cls: PoolClass, state: str, shown: str) -> None:
    """What the future says of itself in each state, and in its repr."""
    with pool_cls(1) as pool, future_in(state, pool) as future:
        assert future.running() == (state == "running")
        assert future.cancelled() == (state == "cancelled")
        assert future.done() == (state in ("cancelled", "returned", "failed"))
        assert repr(future) == f"<Future at {id(future):#x} state={shown}>"


@pytest.mark.parametrize("state", STATES)
def test_cancel(pool_cls: PoolClass, state: str) -> None:
    """Only what has not begun can be cancelled; cancelling twice is no error."""
    can = state in ("pending", "cancelled")
    with pool_cls(1) as pool:
        with future_in(state, pool) as future:
            assert future.cancel() is can
            assert future.cancel() is can
            assert future.cancelled() is can
        wait([future], PATIENCE)
        assert future.cancelled() is can


def test_cancelled_task_never_runs(pool_cls: PoolClass) -> None:
    """Nothing of a cancelled task runs, and the others do not mind."""
    ran: list[int] = []
    with pool_cls(1) as pool, Blocked(pool):
        futures = [pool.submit(ran.append, i) for i in range(6)]
        for future in futures[::2]:
            future.cancel()
    assert ran == [1, 3, 5]


def test_cancel_races_with_the_worker(pool_cls: PoolClass) -> None:
    """A task either runs or was cancelled, never both, never neither."""
    ran: list[int] = []
    with pool_cls(2) as pool:
        futures = [pool.submit(ran.append, i) for i in range(100)]
        cancelled = [future.cancel() for future in futures]
    assert sorted(ran) == [i for i in range(100) if not cancelled[i]]
    assert [future.cancelled() for future in futures] == cancelled


ask = pytest.mark.parametrize("ask", ["result", "exception"])


@ask
@pytest.mark.parametrize("state", ["pending", "running"])
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_timeout(pool_cls: PoolClass, state: str, timeout: float, ask: str) -> None:
    """Asking for an outcome that is not there in time raises the builtin `TimeoutError`, and changes nothing."""
    with pool_cls(1) as pool, future_in(state, pool) as future:
        with pytest.raises(TimeoutError):
            getattr(future, ask)(timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            getattr(future, ask)(timeout=timeout)
        assert not future.done()


@ask
def test_outcome_of_cancelled(pool_cls: PoolClass, ask: str) -> None:
    """A cancelled task has no outcome."""
    with pool_cls(1) as pool, future_in("cancelled", pool) as future, pytest.raises(CancelledError):
        getattr(future, ask)(0)


@ask
def test_cancel_wakes(pool_cls: PoolClass, ask: str) -> None:
    """A thread that waits for an outcome gets `CancelledError` when the task is cancelled."""
    start = threading.Barrier(2)
    caught: list[BaseException] = []

    def waiter(future: "Future[Any]") -> None:
        start.wait(PATIENCE)
        with pytest.raises(CancelledError) as info:
            getattr(future, ask)(PATIENCE)
        caught.append(info.value)

    with pool_cls(1) as pool, future_in("pending", pool) as future, beside(waiter, future):
        start.wait(PATIENCE)
        future.cancel()
    assert len(caught) == 1


@pytest.mark.parametrize("state", ["cancelled", "returned", "failed"])
@pytest.mark.parametrize("finish", [lambda f: f.set_result(1), lambda f: f.set_exception(ValueError())])
def test_finish_what_has_ended(pool_cls: PoolClass, state: str, finish: Callable[["Future[Any]"], None]) -> None:
    """An outcome is final."""
    with pool_cls(1) as pool, future_in(state, pool) as future:
        before = repr(future)
        with pytest.raises(InvalidStateError):
            finish(future)
        assert repr(future) == before


def test_set_running_or_notify_cancel(pool_cls: PoolClass) -> None:
    """It says False of a cancelled future, whose waiters are told."""
    with pool_cls(1) as pool, Blocked(pool):
        future = pool.submit(int)
        pool.shutdown(wait=False, cancel_futures=True)
        assert future.set_running_or_notify_cancel() is False
        assert wait([future], PATIENCE).done == {future}


@pytest.mark.parametrize("state", ["running", "returned", "failed"])
def test_set_running_of_what_has_begun(pool_cls: PoolClass, state: str) -> None:
    """What has begun can't be begun again."""
    with pool_cls(1) as pool, future_in(state, pool) as future:
        with pytest.raises((RuntimeError, InvalidStateError)):
            future.set_running_or_notify_cancel()
        assert future.running() == (state == "running")


# Callbacks


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_callbacks_in_order(pool_cls: PoolClass, error: ValueError | None) -> None:
    """Callbacks get the ended future, in the order added, in the worker."""
    calls: list[Any] = []
    last = threading.Event()

    def note(name: int, future: "Future[Any]") -> None:
        calls.append((name, future, future.done(), future.exception(), threading.current_thread()))

    with pool_cls(1) as pool, Blocked(pool, error=error) as blocked:
        (worker,) = pool._threads
        for name in range(3):
            blocked.future.add_done_callback(partial(note, name))
        blocked.future.add_done_callback(lambda _: last.set())
        blocked.end.set()
        assert last.wait(PATIENCE)
    assert calls == [(name, blocked.future, True, error, worker) for name in range(3)]


@pytest.mark.parametrize("state", ["cancelled", "returned", "failed"])
def test_callback_on_what_has_ended(pool_cls: PoolClass, state: str) -> None:
    """Added late, a callback is called at once, by who adds it; the same one may be added again."""
    calls: list[Any] = []
    with pool_cls(1) as pool, future_in(state, pool) as future:
        for _ in range(2):
            future.add_done_callback(lambda done: calls.append((done, threading.current_thread())))
        assert calls == [(future, threading.current_thread())] * 2


def test_callback_on_cancel(pool_cls: PoolClass) -> None:
    """`cancel` calls the callbacks before it returns, once."""
    calls: list[Any] = []
    with pool_cls(1) as pool, future_in("pending", pool) as future:
        future.add_done_callback(lambda done: calls.append((done, done.cancelled(), threading.current_thread())))
        assert not calls
        future.cancel()
        future.cancel()
        assert calls == [(future, True, threading.current_thread())]
    assert len(calls) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_raising_callback(pool_cls: PoolClass, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises is logged on `concurrent.futures`; the others are called, and the pool goes on."""
    error, last = ValueError("callback's own"), threading.Event()
    with pool_cls(1) as pool, Blocked(pool, result=5) as blocked:
        if when == "after":
            blocked.end.set()
            blocked.future.result(PATIENCE)
        blocked.future.add_done_callback(lambda _: fail(error))
        blocked.future.add_done_callback(lambda _: last.set())
        blocked.end.set()
        assert last.wait(PATIENCE)
        assert blocked.future.result(PATIENCE) == 5
        assert pool.submit(int).result(PATIENCE) == 0
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.ERROR)
    assert record.getMessage() == f"exception calling callback for {blocked.future!r}"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_callbacks_race_with_the_end(pool_cls: PoolClass) -> None:
    """A callback added while the task ends is called once."""
    calls: list[int] = []
    with pool_cls(2) as pool:
        for i in range(100):
            pool.submit(int).add_done_callback(lambda _, i=i: calls.append(i))
    assert sorted(calls) == list(range(100))


# asyncio


@pytest.mark.parametrize("error", [None, ValueError("no")])
@pytest.mark.parametrize("entry_point", ["wrap_future", "run_in_executor", "default", "to_thread"])
def test_asyncio(pool_cls: PoolClass, entry_point: str, error: ValueError | None) -> None:
    """Every way by which asyncio uses an executor brings results and errors."""

    def work() -> str:
        if error is not None:
            raise error
        return threading.current_thread().name

    async def main(pool: ThreadPoolExecutor) -> str:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        match entry_point:
            case "wrap_future":
                return await asyncio.wrap_future(pool.submit(work))
            case "run_in_executor":
                return await loop.run_in_executor(pool, work)
            case "default":
                return await loop.run_in_executor(None, work)
        return await asyncio.to_thread(work)

    with pool_cls(2, "asynchronous") as pool:
        if error is None:
            assert asyncio.run(main(pool)).startswith("asynchronous")
        else:
            with pytest.raises(ValueError, match="no") as caught:
                asyncio.run(main(pool))
            assert caught.value is error


def test_asyncio_many(pool_cls: PoolClass) -> None:
    """A thousand awaited calls come back in order."""

    async def main(pool: ThreadPoolExecutor) -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, abs, -i) for i in range(1000)))

    with pool_cls(4) as pool:
        assert asyncio.run(main(pool)) == list(range(1000))


def test_asyncio_cancel(pool_cls: PoolClass) -> None:
    """Cancelling the awaiting task cancels one of the pool that has not begun."""

    async def main(pool: ThreadPoolExecutor) -> None:
        with future_in("pending", pool) as future:
            told = asyncio.Event()
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(lambda _: told.set())
            waiting.cancel()
            await told.wait()
            assert future.cancelled()

    with pool_cls(1) as pool:
        asyncio.run(main(pool))


def test_asyncio_hears_of_cancel(pool_cls: PoolClass) -> None:
    """Cancelling the pool's task cancels the future that is awaited."""

    async def main(pool: ThreadPoolExecutor) -> None:
        with future_in("pending", pool) as future:
            waiting = asyncio.wrap_future(future)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with pool_cls(1) as pool:
        asyncio.run(main(pool))


def test_asyncio_shuts_its_default_executor_down(pool_cls: PoolClass) -> None:
    """`asyncio.run` joins the default executor at its end."""
    pool = pool_cls(2)
    threads: set[threading.Thread] = set()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(pool)
        threads.add(await asyncio.to_thread(threading.current_thread))

    asyncio.run(main())
    assert threads
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


# shutdown


@pytest.mark.parametrize("entry_point", [lambda pool: pool.submit(int), lambda pool: pool.map(int, "1")])
def test_submit_after_shutdown(pool_cls: PoolClass, entry_point: Callable[[ThreadPoolExecutor], object]) -> None:
    """A pool that was shut down takes no task, in the words of the standard library; shutting it down again is fine."""
    with pool_cls(1) as pool:
        pool.submit(int)
        pool.shutdown()
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            entry_point(pool)
        pool.shutdown()


def test_shutdown_waits(pool_cls: PoolClass) -> None:
    """When `shutdown` returns, all that was submitted has run and all threads have ended."""
    done: list[int] = []
    pool = pool_cls(2)
    for i in range(20):
        pool.submit(done.append, i)
    threads = list(pool._threads)
    pool.shutdown()
    assert sorted(done) == list(range(20))
    assert threads
    assert not any(thread.is_alive() for thread in threads)


def test_shutdown_without_waiting(pool_cls: PoolClass) -> None:
    """`wait=False` returns while tasks run; they, and those queued, run to their end."""
    pool = pool_cls(1)
    with Blocked(pool, result=1) as blocked:
        queued = pool.submit(pow, 2, 5)
        threads = list(pool._threads)
        pool.shutdown(wait=False)
        assert not blocked.future.done()
    assert blocked.future.result(PATIENCE) == 1
    assert queued.result(PATIENCE) == 32
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("wait_for_it", [True, False])
def test_shutdown_cancels(pool_cls: PoolClass, wait_for_it: bool) -> None:
    """`cancel_futures` cancels what has not begun, and lets run what has."""
    with pool_cls(1) as pool, Blocked(pool, result=1) as blocked:
        pending = [pool.submit(int) for _ in range(5)]
        pending[-1].add_done_callback(lambda _: blocked.end.set())  # they are cancelled in order
        pool.shutdown(wait=wait_for_it, cancel_futures=True)
        assert all(future.cancelled() for future in pending)
        assert blocked.future.result(PATIENCE) == 1


def test_shutdown_from_many_threads(pool_cls: PoolClass) -> None:
    """Everybody's `shutdown` returns, after the end of what was submitted."""
    start = threading.Barrier(4)
    seen: list[bool] = []
    with pool_cls(2) as pool, contextlib.ExitStack() as stack:
        future = pool.submit(start.wait, PATIENCE)

        def shut_down() -> None:
            start.wait(PATIENCE)
            pool.shutdown()
            seen.append(future.done())

        for _ in range(3):
            stack.enter_context(beside(shut_down))
    assert seen == [True] * 3


def test_shutdown_in_a_task(pool_cls: PoolClass) -> None:
    """A task can't wait for its own pool to end, but can end it."""
    with pool_cls(1) as pool:
        assert isinstance(pool.submit(pool.shutdown).exception(PATIENCE), RuntimeError)
    with pool_cls(1) as pool:
        pool.submit(pool.shutdown, wait=False).result(PATIENCE)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)


@pytest.mark.parametrize("error", [None, ValueError("body's own")])
def test_with_statement(pool_cls: PoolClass, error: ValueError | None) -> None:
    """The block gives the pool, ends when all has run, and lets the body's exception through."""
    pool = pool_cls(1)
    done: list[int] = []
    with pytest.raises(ValueError, match="own") if error else contextlib.nullcontext(), pool as entered:
        assert entered is pool
        for i in range(10):
            pool.submit(done.append, i)
        if error is not None:
            raise error
    assert done == list(range(10))
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_pool_never_used(pool_cls: PoolClass) -> None:
    """A pool without tasks has no threads, and ends as any other."""
    with pool_cls(3) as pool:
        assert len(pool._threads) == 0
    assert list(pool_cls().map(int, [])) == []


# The initializer


def test_initializer(pool_cls: PoolClass) -> None:
    """It runs once in each worker's thread, with `initargs`, before the worker's first task."""
    local, barrier = threading.local(), threading.Barrier(3)
    made: list[Any] = []

    def initialize(*args: object) -> None:
        local.args = args
        made.append(threading.current_thread())

    def work() -> tuple[Any, Any]:
        barrier.wait(PATIENCE)
        return local.args, threading.current_thread()

    with pool_cls(3, "", initialize, (1, "two")) as pool:
        outcomes = [future.result(PATIENCE) for future in [pool.submit(work) for _ in range(6)]]
    assert [args for args, _ in outcomes] == [(1, "two")] * 6
    assert {thread for _, thread in outcomes} == set(made)
    assert len(made) == 3


def test_initializer_must_be_callable(pool_cls: PoolClass) -> None:
    """Anything else is refused when the pool is made."""
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pool_cls(1, initializer=3)  # type: ignore[arg-type]


def test_failing_initializer(pool_cls: PoolClass, caplog: pytest.LogCaptureFixture) -> None:
    """The pool is broken: every task gets `BrokenThreadPool`, so does `submit`, and the error is logged as critical."""
    go = threading.Event()
    error = ValueError("initializer's own")

    def initialize() -> None:
        assert go.wait(PATIENCE)
        raise error

    with pool_cls(1, initializer=initialize) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        go.set()
        for future in futures:
            with pytest.raises(BrokenThreadPool):
                future.result(PATIENCE)
        with pytest.raises(BrokenThreadPool):
            pool.submit(int)
        assert pool._broken
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.CRITICAL)
    assert record.getMessage() == "Exception in initializer:"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


# Threads


def test_thread_names(pool_cls: PoolClass) -> None:
    """Threads are named after the prefix and counted from 0; without one, after the class and the pool's number."""
    with pool_cls(2, thread_name_prefix="special") as pool, Blocked(pool), Blocked(pool):
        assert {thread.name for thread in pool._threads} == {"special_0", "special_1"}
    names = []
    for _ in range(2):
        with pool_cls(1) as pool:
            names.append(pool.submit(threading.current_thread).result(PATIENCE).name)
            assert names[-1].partition("-")[0] == pool_cls.__name__
    first, second = ([int(number) for number in name.partition("-")[2].split("_")] for name in names)
    assert second == [first[0] + 1, 0]


def test_threads_start_as_needed(pool_cls: PoolClass) -> None:
    """One for each task that finds no idle worker, never more than `max_workers`; what waits is counted."""
    with pool_cls(3) as pool, contextlib.ExitStack() as stack:
        for count in range(1, 4):
            stack.enter_context(Blocked(pool))
            assert len(pool._threads) == count
        for queued in range(1, 10):
            pool.submit(int)
            assert pool._work_queue.qsize() == queued
        assert len(pool._threads) == 3
        assert not any(thread.daemon for thread in pool._threads)


@pytest.mark.parametrize("pool_cls", [StatefulThreadPoolExecutor])
def test_idle_workers_are_used_again(pool_cls: PoolClass) -> None:
    """A worker is idle once its result is seen. The standard library's, soon after that: cpython#117344."""
    with pool_cls(4) as pool:
        for _ in range(50):
            pool.submit(int).result(PATIENCE)
        assert len(pool._threads) == 1


def test_max_workers(pool_cls: PoolClass) -> None:
    """`_max_workers`, which monitoring reads, is what was asked for; the default depends on the processors."""
    cpus = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    assert pool_cls(7)._max_workers == 7
    assert pool_cls()._max_workers == pool_cls(None)._max_workers == min(32, cpus + 4)


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError)])
def test_wrong_max_workers(pool_cls: PoolClass, count: Any, error: type[Exception]) -> None:
    """There has to be a worker."""
    with pytest.raises(error):
        pool_cls(count)


# What is kept, and for how long


def test_dropped_pool(pool_cls: PoolClass) -> None:
    """A pool that nobody refers to runs what it was given, and its threads end."""
    done: list[int] = []
    pool = pool_cls(2)
    with Blocked(pool), Blocked(pool):
        for i in range(10):
            pool.submit(done.append, i)
        threads = list(pool._threads)
        gone = weakref.ref(pool)
        del pool
        until_gone(gone)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(done) == list(range(10))


def test_dropped_idle_pool(pool_cls: PoolClass) -> None:
    """The threads of a pool that nobody refers to end, also when they sleep."""
    pool = pool_cls(2)
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
    threads = list(pool._threads)
    del pool
    gc.collect()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("part", ["function", "argument", "keyword", "result", "exception"])
def test_nothing_of_a_finished_task_is_kept(pool_cls: PoolClass, part: str) -> None:
    """Once the caller has dropped the future, an idle pool refers to nothing of the task."""

    def submit(pool: Executor) -> "tuple[Future[Any], weakref.ref[Any]]":
        thing: Any = Thing()
        match part:
            case "function":
                return pool.submit(thing.method), weakref.ref(thing)
            case "argument":
                return pool.submit(capture, thing), weakref.ref(thing)
            case "keyword":
                return pool.submit(capture, x=thing), weakref.ref(thing)
            case "result":
                return pool.submit(thing.itself), weakref.ref(thing)
        error = Failure()
        return pool.submit(fail, error), weakref.ref(error)

    with pool_cls(1) as pool:
        future, ref = submit(pool)
        wait([future], PATIENCE)
        if part == "exception":
            with contextlib.suppress(Failure):
                future.result(PATIENCE)
        del future
        until_gone(ref)


@pytest.mark.parametrize("ended", ["finished", "cancelled"])
def test_a_kept_future_keeps_no_arguments(pool_cls: PoolClass, ended: str) -> None:
    """A future that has ended holds its outcome, and nothing else of the task."""
    thing = Thing()
    ref = weakref.ref(thing)
    with pool_cls(1) as pool:
        with Blocked(pool):
            future = pool.submit(thing.method)
            if ended == "cancelled":
                future.cancel()
            del thing
        wait([future], PATIENCE)
        until_gone(ref)
        assert future.done()
