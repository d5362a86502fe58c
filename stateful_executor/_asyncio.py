"""Waiting for a place in the backlog without blocking the event loop. Imported when first needed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ._waiter import Deadline

if TYPE_CHECKING:
    from ._future import Future
    from ._queue import TaskQueue
    from ._scope import Scope


class LoopWaiter:
    """A coroutine that waits, where `Waiter` is a thread that does. Woken from any thread, any number of times."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> bool:
        """Let the coroutine go on; False when it never will, and has left the line."""
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:  # the loop was closed under the coroutine: it will never take its turn
            self._queue.submitters.pop(self, None)
            return False
        self._queue.unheard[None] = None  # the loop may be closed before it comes to that: to be called again, then
        return True

    def is_awake(self) -> bool:
        """Whether `wake` has had its effect; False is always right."""
        return False

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most `timeout` seconds; False when they passed."""
        try:
            await asyncio.wait_for(self._woken.wait(), timeout)
        except TimeoutError:
            return False
        self._woken.clear()
        return True


def is_cancelled(error: BaseException | None = None) -> bool:
    """Whether `error` is asyncio's for what was cancelled; without one, whether this asyncio task is to be."""
    if error is not None:
        return isinstance(error, asyncio.CancelledError)
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def wait_for_place(queue: TaskQueue, task: Future[Any], scope: Scope[Any] | None) -> None:
    """Take a place for `task` in the bounded backlog of `queue`, in turn with the threads that wait for one."""
    waiter = LoopWaiter(queue)
    since = time.monotonic()
    try:
        queue.submitters[waiter] = since
        if scope is not None:
            scope._submitters[waiter] = None
        if not await _wait_for_turn(waiter, queue, task, scope):
            raise queue.backlog_full()
    finally:
        queue.submitters.pop(waiter, None)  # None: its loop was closed, see `LoopWaiter.wake`
        if scope is not None:
            del scope._submitters[waiter]
        queue.left_line(since)


async def _wait_for_turn(waiter: LoopWaiter, queue: TaskQueue, task: Future[Any], scope: Scope[Any] | None) -> bool:
    """As `sleep_until`, for a coroutine."""
    deadline = Deadline(queue.submit_timeout)
    while not queue.turn(waiter, task, scope):
        if not await waiter.wait(deadline.left()):
            return queue.turn(waiter, task, scope)
    return True
