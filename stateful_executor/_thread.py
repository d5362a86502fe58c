"""A thread that becomes a worker, and is started by one call in C."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from types import FunctionType

from ._interrupts import HAS_GIL, in_new_thread
from ._typing import Any

POLLS = 100  # before a thread that ends is given more time between two looks


class PoolThread:
    """Owns one `threading.Thread`, and the question whether it ever becomes a worker. Strictly private.

    `start_claim`
        a list with one item, guarded by its own lock. The thread takes the item as its first step, and works; or
        whoever finds that it will never come takes it. Whoever comes first decides.
    `index`
        the number in the thread's name; -1 until it has one. Guarded by the lock of the pool's workers.
    `by_threading`
        whether `Thread.start` is called, by a thread in between. Written before the start.
    `limbo`
        where `threading` has the threads that are to start. The new thread takes itself out.
    `ended`
        once set it stays set; written by whoever took the item of `start_claim`.

    To start a thread is one call in C, for which nobody waits. `Thread.start` would wait for the new thread, on an
    `Event` whose lock Ctrl-C can leave held; here Ctrl-C finds the thread started, or not. The new thread does what is
    left of `Thread.start`, and makes itself known to `threading`. Where a tool has replaced `Thread.start`, or a later
    Python has none of the private names that this takes, a thread in between calls `Thread.start`.

    Nobody waits in here. Who waits for a thread's end waits in `Workers`, for `has_ended`.
    """

    def __init__(self, name: str, daemon: bool) -> None:
        self._name = name
        self.index: int = -1
        self.thread: threading.Thread = _new_thread(self._live, name, daemon)
        self.start_claim: list[None] = [None]
        self.by_threading: bool = False
        self.limbo: dict[threading.Thread, threading.Thread]
        self.ended: bool = False

    def starts(self) -> Iterator[object]:
        """What starts the thread as it makes its first item: one call in C. To be dropped after that."""
        thread: Any = self.thread
        if threading.Thread.start is not _OWN_START:
            self.by_threading = True
            self.limbo = {}
            start = partial(_thread.start_new_thread, _watched(self), ())
        elif sys.version_info >= (3, 13):
            self.limbo = threading._limbo  # type: ignore[attr-defined]
            start = partial(
                threading._start_joinable_thread,  # type: ignore[attr-defined]
                _watched(self),
                handle=getattr(thread, _HANDLE),
                daemon=thread._daemonic,
            )
        else:
            self.limbo = threading._limbo  # type: ignore[attr-defined]
            start = partial(threading._start_new_thread, _watched(self), ())  # type: ignore[attr-defined]
        return iter(start, self)

    def join_started(self, timeout: float | None) -> bool:
        """Wait until the thread is gone, or `timeout` seconds have passed; or return at once. Whether it is gone."""
        thread: Any = self.thread
        if sys.version_info >= (3, 13) and self.limbo is vars(threading).get("_limbo"):
            handle = getattr(thread, _HANDLE)
            handle.join(timeout if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX))
            return timeout is None
        return False

    def join_thread(self) -> None:
        """After `ended`: the thread has a few instructions left, and thread-locals to drop, with destructors.

        From Python 3.13 on it keeps its stack until it is joined, or until its `Thread` is collected.
        Up to Python 3.12 `Thread.join` is Python code that takes a lock, which two Ctrl-Cs can leave held, and every
        later join, and the exit of the interpreter, waits for it. To look whether it is held leaves nothing.
        """
        if sys.version_info >= (3, 13):
            if self._has_come() and not self.join_started(None):
                self.thread.join()
        else:
            polls = 0
            while not self.is_gone():
                polls += 1
                time.sleep(0 if polls < POLLS else 0.001)

    def is_gone(self) -> bool:
        """After `ended`: whether the thread is no more, or never came. For any thread.

        Up to Python 3.12 `Thread.is_alive` takes that lock, and fails when two threads call it at once.
        """
        if not self._has_come():
            return True
        if sys.version_info >= (3, 13):
            return not self.thread.is_alive()
        else:  # noqa: RET505  # mypy knows such a branch
            lock = self.thread._tstate_lock  # type: ignore[attr-defined]
            return lock is None or not lock.locked()

    def _has_come(self) -> bool:
        return not self.start_claim and self.thread.ident is not None

    def begin(self) -> None:
        """In the new thread, or in the one in between."""
        self.thread.name = f"{self._name}_{self.index}"
        if self.by_threading:
            self.thread.start()
        else:
            self.thread._bootstrap()  # type: ignore[attr-defined]

    def _live(self) -> None:
        """The thread's target."""
        try:
            del self.start_claim[0]
        except IndexError:
            return
        try:
            # Empty, whoever starts this thread: tools patch `threading` so that it carries the starter's over, which
            # would be that of all tasks to come. And gone with what tasks leave in it while `threading` knows this one.
            try:
                Context().run(self._run_worker)
            except BaseException:  # thrown into this thread before it was at work
                self._run_worker()
        finally:
            self.ended = True
            try:
                if self.by_threading:
                    self.has_ended()
            except BaseException:  # thrown into this thread
                _elsewhere(self.has_ended)

    def _run_worker(self) -> None:
        """All that the worker does. Called again when it was cut off before its first step."""
        raise NotImplementedError

    def has_ended(self) -> None:
        """Tell who waits for that. May be called again.

        As late as can be, with `by_threading` before `threading` is done with the thread: who is woken needs the GIL,
        and sleeps once more if it is not free.
        """
        raise NotImplementedError

    def never_came(self, error: Exception | None) -> None:
        """The thread will never be a worker, because of `error` if that is known. Nothing happens if it is one."""
        raise NotImplementedError


class _Beginning:
    """What a new thread calls; `tell` is for when that has ended, or never comes."""

    __slots__ = ("_worker",)

    def __init__(self, worker: PoolThread) -> None:
        self._worker: PoolThread | None = worker

    def __call__(self) -> None:
        worker = self._worker
        assert worker is not None
        try:
            worker.begin()
            if worker.by_threading:
                self._worker = None  # from here on it is up to that thread
        except Exception as exc:  # no memory, say
            worker.never_came(exc)
        finally:
            try:
                if worker.ended and not worker.by_threading:
                    worker.has_ended()
            except BaseException:  # as in `PoolThread._live`
                _elsewhere(worker.has_ended)

    def tell(self) -> None:
        """Say so if the thread never became a worker, though it was started."""
        worker: PoolThread | None = getattr(self, "_worker", None)  # Ctrl-C may come before `__init__`
        if worker is not None and worker.index >= 0 and worker.start_claim:
            try:
                _thread.start_new_thread(in_new_thread, (worker.never_came, None))
            except Exception:  # there is no thread to be had, or no memory for one
                worker.never_came(None)


class _Watched(_Beginning):
    """Tells by its destructor, since nobody else is left to do so when the thread ends before its first instruction.

    There may be no memory for that one; and on CPython 3.11 what is thrown into a thread which is just starting another
    one may hit that one.
    """

    __slots__ = ()

    def __del__(self) -> None:
        self.tell()


def _watched(worker: PoolThread) -> Callable[[], object]:
    """What a new thread calls, and tells when it never does.

    Without a GIL, whoever made an object has its destructor called, in the midst of something else, where Ctrl-C would
    be lost; and to give it another class stops all threads, for a millisecond. A generator that has ended has no
    destructor. (With a GIL, CPython 3.12.1 crashed at times when one that was traced went on in another thread.)
    """
    if HAS_GIL:
        return _Watched(worker)
    watched = _begin_watched(_Beginning(worker))
    next(watched)
    return partial(next, watched, None)


def _begin_watched(beginning: _Beginning) -> Iterator[None]:
    try:
        yield
        beginning()
    finally:
        beginning.tell()


def _elsewhere(step: Callable[[], None]) -> None:
    """Call `step` in another thread, as this one was cut off in it; here if there is none to be had."""
    try:
        _thread.start_new_thread(step, ())
    except Exception:
        step()


def _new_thread(target: Callable[[], None], name: str, daemon: bool) -> threading.Thread:
    if sys.version_info >= (3, 14):
        # Free-threaded builds would start it in a copy of the creator's context, and keep that alive.
        return threading.Thread(target=target, name=name, daemon=daemon, context=Context())
    return threading.Thread(target=target, name=name, daemon=daemon)


_START = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
_HANDLE = "_os_thread_handle" if sys.version_info >= (3, 14) else "_handle"  # up to 3.12 there is none


def _has_parts() -> bool:
    """Whether this Python's `threading` has all the private names that `PoolThread.starts` takes."""
    of_thread = ["_bootstrap"] if sys.version_info < (3, 13) else ["_bootstrap", "_daemonic", _HANDLE]
    thread = threading.Thread(name="never started", daemon=False)  # neither counts it nor asks for the current one
    return all(hasattr(threading, name) for name in ("_limbo", _START)) and all(hasattr(thread, n) for n in of_thread)


def _own_start() -> object:
    """Python's own `Thread.start`; None where it has not these parts, or was replaced before this import."""
    start = threading.Thread.start
    is_own = type(start) is FunctionType and start.__globals__ is vars(threading)
    return start if is_own and _has_parts() else None


_OWN_START = _own_start()
