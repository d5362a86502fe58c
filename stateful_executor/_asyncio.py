"""Waiting for a place in the backlog without blocking the event loop. Imported when first needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ._parker import Deadline, Wakeable
from ._permits import Permits
from ._task import Task


class LoopWaiter:
    """A coroutine that waits, where `Parker` is a thread that does. Woken from any thread, any number of times.

    Its fields are written once. Who wakes it does so by a call in its event loop, which is what guards `_woken`.
    """

    def __init__(self, permits: Permits | None) -> None:
        self._permits = permits  # in whose line it stands
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> bool:
        """Let the coroutine go on; False when it never will, and has left the line."""
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:  # the loop was closed under the coroutine: it will never take its turn
            if self._permits is not None:
                self._permits.waiters.pop(self, None)
            return False
        if self._permits is not None:
            self._permits.needs_notify[None] = None  # again: the loop may be closed before the coroutine goes on
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


async def acquire(
    permits: Permits, task: Task[Any], check: Callable[[], None], line: dict[Wakeable, None] | None
) -> None:
    """As `Permits.acquire`, in turn with the threads that wait there, without blocking the event loop."""
    waiter = LoopWaiter(permits)
    since = time.monotonic()
    try:
        permits.waiters[waiter] = since
        if line is not None:
            line[waiter] = None
        if not await _wait_for_turn(waiter, permits, task, check):
            raise permits.full()
    finally:
        permits.waiters.pop(waiter, None)  # None: its loop was closed, see `LoopWaiter.wake`
        if line is not None:
            del line[waiter]
        permits.left_line(since)


async def _wait_for_turn(waiter: LoopWaiter, permits: Permits, task: Task[Any], check: Callable[[], None]) -> bool:
    """As `sleep_until`, for a coroutine."""
    deadline = Deadline(permits.timeout)
    while not permits.try_acquire_in_turn(waiter, task, check):
        if not await waiter.wait(deadline.left()):
            return permits.try_acquire_in_turn(waiter, task, check)
    return True
