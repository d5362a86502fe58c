"""One thread asleep, and the right to wake it.

No loop of this package stands right inside a `try` or `with` that has something to undo: it is a function of its own,
called there. From 3.12 on CPython looks at signals at jumps backward that its compiler has put outside of the `try`, so
that Ctrl-C there passes by `except` and `finally` (python/cpython#130279).
"""

from __future__ import annotations

import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ._worker import Worker

T = TypeVar("T")


class Waiter:
    """Put the calling thread to sleep until another wakes it. Strictly private.

    The token is the right to release the lock. Whoever takes it does so, at once, and nobody else can; hence
    `wake` may be called from any thread, any number of times, and one `wait` returns for each token taken.
    CPython looks at signals after calls, at function entries and at backward jumps: none of them lies between
    taking the token and the release, so Ctrl-C in `wake` leaves either both done or neither.
    """

    __slots__ = ("_lock", "_token")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._token: list[None] = [None]

    def wake(self) -> None:
        """Let the sleeper go on; nothing happens when it has been told already."""
        try:
            del self._token[0]
        except IndexError:
            return
        try:
            self._lock.release()
        except RecursionError:  # up to Python 3.11 there is no stack for calls in C then, hence not for `append`
            self._token += (None,)
            raise

    def is_awake(self) -> bool:
        """Whether `wake` has been called since the last `wait` returned."""
        return not self._token

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep for at most `timeout` seconds; False when they passed. After an exception, throw the waiter away."""
        seconds = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=seconds):
            return False
        self._token.append(None)
        return True


class Deadline:
    """A stretch of `timeout` seconds from now on; None never ends."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + timeout

    def left(self) -> float | None:
        """The seconds that remain, below zero when it has passed; None when it never does."""
        return None if self._end is None else self._end - monotonic()


def in_seconds(number: Any) -> Any:
    """`number` as clocks and locks take it: they know no `Fraction`, no `Decimal`, and no float of numpy's."""
    return number if number is None or isinstance(number, (int, float)) else float(number)


class _Here(threading.local):
    """What the calling thread is: `worker` is None unless it is a pool's."""

    worker: Worker | None = None


here = _Here()


def sleep(waiter: Waiter, timeout: float | None = None) -> bool:
    """`waiter.wait(timeout)`; in a worker, answering meanwhile what others ask of it."""
    worker = here.worker
    return waiter.wait(timeout) if worker is None else worker.sleep(waiter, timeout)


def sleep_until(condition: Callable[[], bool], waiter: Waiter, timeout: float | None) -> bool:
    """Sleep until `condition()`, looking whenever `waiter` is woken; False when `timeout` seconds passed before."""
    deadline = None if timeout is None else Deadline(timeout)
    while not condition():
        if not sleep(waiter, None if deadline is None else deadline.left()):
            return condition()
    return True


def elsewhere(fn: Callable[..., object], *args: Any) -> None:
    """Call `fn(*args)` in a thread of its own; for `start_new_thread`, which takes no stack of the caller's.

    In the bare thread itself, which `threading` does not know, whoever asks for the current one would have it make a
    dummy, which stays in its list for ever before Python 3.13.
    """
    try:
        threading.Thread(target=fn, args=args, daemon=False).start()
    except Exception:  # no thread to be had
        fn(*args)


def locked(lock: threading.RLock, step: Callable[[], T]) -> T:
    """Call `step` with `lock` held, in code that the main thread may run.

    `with lock` won't do there: CPython 3.14 looks at signals between `__enter__` and the block, and Ctrl-C left the
    lock held in 1,777 of 3,000 tries (in none on 3.11, 3.13 and 3.15). Here it finds the `try` begun before the lock
    is taken, and to release is one call in C, before which CPython does not look at signals.
    """
    try:
        lock.acquire()
        return step()
    finally:
        try:  # noqa: SIM105  # `suppress` would be a call before that one
            lock.release()
        except RuntimeError:  # Ctrl-C came before the lock was this thread's
            pass


def for_each(things: Iterable[T], step: Callable[[T], object]) -> None:
    """Call `step` with each; what it raises, Ctrl-C or a callback's SystemExit, is raised when all have had theirs."""
    interrupt = None
    for thing in things:
        try:
            step(thing)
        except BaseException as exc:
            interrupt = exc
    try:
        if interrupt is not None:
            raise interrupt
    finally:
        interrupt = None  # no cycle from it by its traceback to this frame


def headroom() -> None:
    """RecursionError now rather than in the middle of `run`, whose own steps must not fail."""
    if sys.version_info >= (3, 12):  # before that, calls in C count as well
        limit = sys.getrecursionlimit()
        try:
            sys._getframe(min(limit // 2, limit - 80))
        except ValueError:  # there are fewer frames than that; a quarter of what 60 calls take
            return
    descend(60)


def descend(levels: int) -> None:
    """Use `levels` of the stack, and a few more."""
    if levels:
        descend(levels - 1)
