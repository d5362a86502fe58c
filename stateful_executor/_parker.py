"""One thread asleep, the right to wake it, and how long it may sleep."""

from __future__ import annotations

import _thread
import threading
from time import monotonic

from ._numbers import in_seconds
from ._typing import Protocol


class Wakeable(Protocol):
    """Whoever waits for something: a thread's `Parker`, a coroutine, an adapter of the standard library's waiters."""

    def wake(self) -> object:
        """Let it look again; from any thread, any number of times."""


class Parker:
    """Puts the thread that made it to sleep until another thread wakes it. Strictly private.

    `_permit` is a list with one item: the right to release `_lock`, and guarded by the list's own lock. Whoever takes
    the item releases the lock at once, and nobody else can. So `wake` may be called from any thread, any number of
    times, and one `park` returns for each item taken. The woken thread puts the item back.

    CPython looks at signals after calls, at function entries and at backward jumps. None of them lies between taking
    the item and the release, so that Ctrl-C in `wake` leaves either both done or neither.
    """

    __slots__ = ("_lock", "_permit")

    def __init__(self) -> None:
        # Looked up now, as all of its kind in this package: gevent may replace it after the import.
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._permit: list[None] = [None]

    def wake(self, _: object = None) -> None:
        """Let the sleeper go on; nothing happens when it has been told already."""
        try:
            del self._permit[0]
        except IndexError:
            return
        try:
            self._lock.release()
        except RecursionError:  # up to Python 3.11 a call in C needs stack as well, hence no `append` here
            self._permit += (None,)
            raise

    def is_awake(self) -> bool:
        """Whether `wake` has been called since the last `park` returned."""
        return not self._permit

    def park(self, timeout: float | None = None) -> bool:
        """Sleep for at most `timeout` seconds; False when they passed. After an exception, throw the parker away."""
        if timeout is None:
            self._lock.acquire()
        elif not self._lock.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX)):
            return False
        self._permit.append(None)
        return True


class Deadline:
    """A stretch of `timeout` seconds from now on; None never ends. Immutable."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None
        if timeout is not None:
            self._end = monotonic() + in_seconds("timeout", timeout, "a number of seconds, or None to wait for ever")

    def left(self) -> float | None:
        """The seconds that remain, below zero when it has passed; None when it never does."""
        return None if self._end is None else self._end - monotonic()
