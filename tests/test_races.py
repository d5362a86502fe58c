"""Interleavings, staged: the other thread does its part between two atomic steps of the one under test.

Most stages are deques, lists and dicts that call a hook before or after the step for which the library uses them.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from stateful_executor import StatefulThreadPoolExecutor
from stateful_executor._queue import TaskQueue


class Stage(deque[Any]):
    """The deque of tasks, with hooks around its steps; each runs once."""

    before_append: Callable[[], object] | None = None
    after_append: Callable[[], object] | None = None
    before_look: Callable[[], object] | None = None

    def _run(self, hook: str) -> None:
        fn = getattr(self, hook)
        if fn is not None:
            setattr(self, hook, None)
            fn()

    def append(self, task: Any) -> None:
        self._run("before_append")
        super().append(task)
        self._run("after_append")

    def extend(self, nothing: Any) -> None:
        self._run("before_look")
        super().extend(nothing)


def staged(workers: int = 1, **kwargs: Any) -> tuple[StatefulThreadPoolExecutor[None], Stage]:
    """A pool whose deque of tasks is a stage."""
    pool = StatefulThreadPoolExecutor(workers, **kwargs)
    stage = Stage()
    pool._queue.tasks = pool._queue.front = stage
    return pool, stage


def in_thread(fn: Callable[[], object]) -> Callable[[], None]:
    """Run `fn` in another thread, to its end."""

    def run() -> None:
        thread = threading.Thread(target=fn)
        thread.start()
        thread.join()

    return run


@pytest.mark.parametrize("moment", ["before_append", "after_append"])
def test_submit_against_shutdown(moment: str) -> None:
    """The pool ends, workers and all, just before or after the task is queued: it is refused, or run; not stranded."""
    pool, stage = staged()
    pool.submit(int).result()
    setattr(stage, moment, in_thread(pool.shutdown))
    try:
        future = pool.submit(int)
    except RuntimeError as exc:
        assert str(exc) == "cannot schedule new futures after shutdown"
        assert moment == "before_append" or not stage or not stage[-1]._token
    else:
        assert moment == "after_append"  # the worker saw it, and ran it before it ended
        assert future.result(5) == 0


def test_submit_against_breakage() -> None:
    """The initializer fails, and the queue is emptied, just before the task is queued: submit says so."""
    go_on = threading.Event()

    def fail() -> None:
        go_on.wait()
        raise ValueError

    pool, stage = staged(initializer=fail)
    first = pool.submit(int)
    stage.before_append = lambda: (go_on.set(), first.exception(), pool._queue.join(5))
    with pytest.raises(RuntimeError, match="is broken"):
        pool.submit(int)
    assert all(not task._token for task in stage)


def test_park_against_submit() -> None:
    """A task comes between a worker's entry among the idle and its look at the tasks: it is seen."""
    pool, stage = staged()
    futures = []
    for _ in range(20):
        parked = threading.Event()
        stage.before_look = lambda parked=parked: (futures.append(_submit_in_thread(pool)), parked.set())
        pool.submit(int).result(5)
        assert parked.wait(5)
    assert [future.result(5) for future in futures] == [0] * 20
    pool.shutdown()


def _submit_in_thread(pool: StatefulThreadPoolExecutor[None]) -> Any:
    made: list[Any] = []
    in_thread(lambda: made.append(pool.submit(int)))()
    return made[0]


def test_park_against_shutdown() -> None:
    """The pool is shut down between a worker's entry among the idle and its look: it ends."""
    pool, stage = staged()
    stage.before_look = in_thread(lambda: pool.shutdown(wait=False))
    pool.submit(int).result(5)
    pool.shutdown(timeout=5)


def test_sweep_against_submit() -> None:
    """A submit has loaded the deque, then it is swept: its task comes to stand in the new one, and runs."""
    pool, stage = staged()
    go_on = threading.Event()
    pool.submit(go_on.wait)
    stage.before_append = pool._queue._sweep
    future = pool.submit(int)
    assert pool._queue.tasks is not stage
    assert future in pool._queue.tasks
    go_on.set()
    assert future.result(5) == 0
    pool.shutdown()


def test_advance_against_sweep() -> None:
    """A worker that found `front` empty does not undo the `front` that a sweep is about to put there."""
    queue = TaskQueue("staged", 1, None, None)
    old = queue.tasks
    queue.tasks = deque()  # step (1) of a sweep; step (2) will put live tasks of `old` into a new `front`
    del queue.broom[0]
    assert queue.advance() is True
    assert queue.front is old
    queue.broom.append(None)
    assert queue.advance() is True
    assert queue.front is queue.tasks
    assert queue.advance() is False


def test_cancel_against_begin() -> None:
    """Both want the token: exactly one gets it, and the other one knows."""

    class Token(list[None]):
        def __delitem__(self, index: Any) -> None:
            other, self.other = self.other, None
            if other is not None:
                other()
            super().__delitem__(index)

        other: Callable[[], object] | None = None

    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        pool.submit(go_on.wait)
        cancelled_first, begun_first = pool.submit(int), pool.submit(int)
        cancelled_first._token = Token([None])
        cancelled_first._token.other = cancelled_first.cancel
        begun_first._token = Token([None])
        begun_first._token.other = lambda: (go_on.set(), begun_first.result(5))
        assert begun_first.cancel() is False
        assert cancelled_first.cancelled()
        assert begun_first.result() == 0
        with pytest.raises(CancelledError):
            cancelled_first.result()


def test_second_cancel_against_first() -> None:
    """A cancel that comes second waits for the first one's word, and says the same."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        pool.submit(go_on.wait)
        future = pool.submit(int)
        del future._token[0]  # the first has taken the token, and is about to say so
        answers: list[bool] = []
        second = threading.Thread(target=lambda: answers.append(future.cancel()))
        second.start()
        future._phase = "CANCELLED_AND_NOTIFIED"
        second.join()
        future._after_cancel()
        assert answers == [True]
        go_on.set()


def test_last_task_against_scope_end() -> None:
    """The last task ends after the body has looked, and before it sleeps."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()

        class Pending(dict[Any, Any]):
            looks = 0

            def pop(self, *args: Any) -> Any:
                if args == (None, None):
                    self.looks += 1
                    if self.looks == 1:
                        result = super().pop(*args)
                        assert self
                        go_on.set()
                        wait([future])
                        while len(self):  # until the worker has taken the task out
                            pass
                        self[future] = None  # what the body saw: a task is pending
                        threading.Thread(target=scope._ended, args=(future,)).start()
                        return result
                return super().pop(*args)

        with pool.scope() as scope:
            scope._pending = Pending()
            future = scope.submit(go_on.wait)
        assert scope._pending.looks >= 2


def test_callback_against_the_end() -> None:
    """A callback added while the task ends is called once: by the worker or by who added it."""
    for _ in range(200):
        calls: list[object] = []
        with StatefulThreadPoolExecutor(1) as pool:
            start = threading.Barrier(2)
            future = pool.submit(start.wait)
            start.wait()
            future.add_done_callback(calls.append)
        assert calls == [future]


@pytest.mark.parametrize("moment", ["acquired", "entered", "released"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_wait_against_the_end(moment: str, cancelled: bool) -> None:
    """The task ends after `wait` has looked at its state: it is told, whenever that is, and once."""
    told: list[Any] = []
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        running = pool.submit(go_on.wait)
        future = pool.submit(int) if cancelled else running
        end = future.cancel if cancelled else lambda: (go_on.set(), running.result(5))

        class Rights(dict[Any, list[None]]):
            def __setitem__(self, waiter: Any, right: list[None]) -> None:
                super().__setitem__(waiter, right)
                if moment == "entered":
                    in_thread(end)()

        bridge = future._bridge()
        bridge._rights = Rights()
        waiter = type("Waiter", (), {"add_result": told.append, "add_cancelled": told.append})()
        with future._condition:
            before = future._state
            if moment == "acquired":
                in_thread(end)()
            future._waiters.append(waiter)
            assert future._state == before
            assert len(told) == (moment != "released")
        if moment == "released":
            in_thread(end)()
        bridge.wake()
        assert told == [future]
        with future._condition:
            future._waiters.remove(waiter)
        go_on.set()


def test_interrupted_wait_against_the_end() -> None:
    """Ctrl-C in the midst of `wait` leaves what it has acquired: the worker that ends the task is not held up."""
    go_on = threading.Event()
    pool = StatefulThreadPoolExecutor(1)
    future = pool.submit(go_on.wait)
    future._condition.acquire()
    go_on.set()
    assert future.result(5) is True
    assert wait([future], 5).done == {future}
    pool.shutdown(timeout=5)


def test_wait_sleeps_on_no_lock_of_its_own() -> None:
    """Ctrl-C in `threading.Event` can leave it locked: `wait` does not sleep on one, so its worker is not held up."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        future = pool.submit(go_on.wait)
        waiter = concurrent.futures._base._AsCompletedWaiter()  # type: ignore[attr-defined]
        broken = waiter.event
        broken._cond.acquire()  # as it may be left
        future._waiters.append(waiter)
        go_on.set()
        assert future.result(5) is True
        assert pool.submit(int).result(5) == 0
        assert waiter.event.wait(5)
        waiter.event.clear()
        assert not waiter.event.wait(0)
        assert waiter.finished_futures == [future]


def test_interrupted_waiter_against_the_end() -> None:
    """Ctrl-C in `wait` can leave an `Event` that is broken: the worker that is to set it goes on."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        future = pool.submit(go_on.wait)

        class Broken:
            def add_result(self, _: Any) -> None:
                raise RuntimeError("release unlocked lock")

        future._waiters.append(Broken())
        go_on.set()
        assert future.result(5) is True
        assert pool.submit(int).result(5) == 0


def test_a_late_callback_does_not_hold_a_task_up() -> None:
    """A worker that seemed idle, and then has to run a callback, passes on the task that was meant for it."""
    with StatefulThreadPoolExecutor(2) as pool:
        go_on, ran = threading.Event(), threading.Event()
        in_time: list[bool] = []

        class Idle(dict[Any, None]):
            """Just after the worker has said that it is idle, and before it looks at the callbacks."""

            hook = True

            def __setitem__(self, worker: Any, value: None) -> None:
                super().__setitem__(worker, value)
                if self.hook:
                    self.hook = False
                    future.add_done_callback(lambda _: in_time.append(ran.wait(5)))
                    in_thread(lambda: pool.submit(ran.set))()
                    assert worker not in self  # the submit counts on this worker

        future = pool.submit(go_on.wait)
        pool._queue.idle = Idle()
        go_on.set()
        assert ran.wait(10)
    assert in_time == [True]
