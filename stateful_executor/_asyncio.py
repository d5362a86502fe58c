"""Waiting in an event loop: for a place in the backlog, and for the end of a scope. Imported when first needed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ._parker import Deadline, Wakeable
from ._permits import Permits
from ._task import Task
from ._typing import Any


def check_loop(what: str) -> None:
    """Raise when no event loop runs in the calling thread; `what` is what needs it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"{what} needs a running asyncio event loop, and there is none in this thread; under trio, and elsewhere, "
            "have a thread do it: `with pool.scope()` or `pool.submit` in `trio.to_thread.run_sync`"
        ) from None


class _Shielded(asyncio.Future[None]):
    """What its coroutine awaits cannot be cancelled: asyncio delivers a cancellation when this is done."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002  # the signature is that of asyncio
        """False: nothing has been cancelled, and nobody is woken."""
        return False


def _shielded_scope() -> AbstractContextManager[object]:
    """Keeps anyio, where it is in use, from cancelling this asyncio task again at each turn of the event loop."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


class LoopWaiter:
    """A coroutine that waits, where `Parker` is a thread that does. Woken from any thread, any number of times.

    Who wakes it does so by a call in its event loop, which is what guards `_woken` and `_shielded`. The rest is written
    once.
    """

    def __init__(self, permits: Permits | None) -> None:
        self._permits = permits  # in whose line it stands
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._shielded: _Shielded | None = None

    def wake(self) -> bool:
        """Let the coroutine go on; False when it never will, and has left the line."""
        try:
            self._loop.call_soon_threadsafe(self._go_on)
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
            if timeout is None:  # raised by a signal's handler
                raise
            return False
        self._woken.clear()
        return True

    async def wait_shielded(self) -> None:
        """Wait without end. Cancelled meanwhile, raise `CancelledError` when it is over."""
        self._shielded = _Shielded(loop=self._loop)
        if self._woken.is_set():
            self._go_on()
        with _shielded_scope():
            await self._shielded
        self._woken.clear()

    def _go_on(self) -> None:
        self._woken.set()
        if self._shielded is not None and not self._shielded.done():
            self._shielded.set_result(None)


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
