"""A thread that is to become a worker: it may be abandoned before its first step, and waited for until its last."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context

from ._current import sleep_until
from ._parker import Parker


class PoolThread:
    """Owns one `threading.Thread`, and the question whether it ever becomes a worker. Strictly private.

    The interpreter does not wait for a `daemon`.

    `_start_claim`
        a list with one item, guarded by its own lock. The thread takes the item as its first step, and works; or
        `abandon` takes it, and the thread ends at once, if it ever starts. Whoever comes first decides.
    `index`
        the number in the thread's name; -1 until it has one. Guarded by the lock of the pool's workers.
    `ended`, `abandoned`
        once set they stay set; written by whoever took the item of `_start_claim`, `abandoned` before `ended`.
    `_watchers`
        who waits for `ended`. Guarded by the list's own lock.

    Nobody misses the end: who waits enters `_watchers`, then looks at `ended`; the thread sets `ended`, then looks
    through `_watchers`. Who waits for it is woken by `_say_ended`, which `abandon` calls too, or by its timeout.
    """

    def __init__(self, name: str, daemon: bool) -> None:
        self._name = name
        self.index: int = -1
        self.thread: threading.Thread = _new_thread(self._live, daemon)
        self._start_claim: list[None] = [None]
        self.ended: bool = False
        self.abandoned: bool = False
        self._watchers: list[Parker] = []

    def take_index(self, index: int) -> None:
        """With the lock of the pool's workers held, before the thread starts."""
        self.index = index
        self.thread.name = f"{self._name}_{index}"

    def start(self) -> None:
        """Start the thread, or raise; it may have started all the same, see `abandon`."""
        self.thread.start()

    def abandon(self) -> bool:
        """True when the thread will never be a worker: it did not start, or has not come as far as its first step."""
        try:
            del self._start_claim[0]
        except IndexError:
            return False
        self.abandoned = True
        self._say_ended()
        return True

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until this worker has ended; False when `timeout` seconds passed before."""
        parker = Parker()
        self._watchers.append(parker)
        try:
            return sleep_until(lambda: self.ended, parker, timeout)
        finally:
            self._watchers.remove(parker)

    def join_thread(self) -> None:
        """After `wait_ended`: the thread has a few instructions left."""
        if not self.abandoned:
            self.thread.join()

    def _live(self) -> None:
        """The thread's target."""
        try:
            del self._start_claim[0]
        except IndexError:
            return
        try:
            # Empty, whoever starts this thread: tools patch `Thread.start` so that it carries the starter's over, which
            # would be that of all tasks to come.
            try:
                Context().run(self._run_worker)
            except BaseException:  # thrown into this thread before it was at work
                self._run_worker()
        finally:
            try:
                self._say_ended()
            except BaseException:  # thrown into this thread: another one says it
                _thread.start_new_thread(self._say_ended, ())

    def _run_worker(self) -> None:
        """All that the worker does. Called again when it was cut off before its first step."""
        raise NotImplementedError

    def _say_ended(self) -> None:
        self.ended = True
        for parker in list(self._watchers):  # who is not in it yet will see `ended`
            parker.wake()


def _new_thread(target: Callable[[], None], daemon: bool) -> threading.Thread:
    if sys.version_info >= (3, 14):
        # Free-threaded builds would start it in a copy of the creator's context, and keep that alive.
        return threading.Thread(target=target, daemon=daemon, context=Context())
    return threading.Thread(target=target, daemon=daemon)


class WakeAtEnd:
    """An argument of a thread's function: wakes `parker` when that has ended, also if it could not begin.

    On CPython 3.11 what is thrown into a thread which is just starting another one may hit that one, before its first
    instruction.
    """

    parker: Parker | None = None  # also when what is thrown comes before the next line

    def __init__(self, parker: Parker | None) -> None:
        self.parker = parker

    def __del__(self) -> None:
        if self.parker is not None:
            self.parker.wake()


def in_main_thread() -> bool:
    """Not by the current thread's object, which `threading` would make for one that it does not know."""
    return threading.get_ident() == threading.main_thread().ident


def join_threads(workers: Sequence[PoolThread]) -> None:
    """Until the threads of `workers`, which have ended, are gone: a few instructions more.

    Up to Python 3.12 `Thread.join` is Python code. Two Ctrl-Cs in there can leave a lock held that every later join,
    and the exit of the interpreter, waits for. So another thread looks for the main one.
    """
    if sys.version_info < (3, 13) and in_main_thread():
        parker = Parker()
        try:
            _thread.start_new_thread(_until_gone, (workers, parker))
        except RuntimeError:  # the interpreter exits, or there is no thread to be had
            _until_gone(workers, parker)
        parker.park()
    else:
        for worker in workers:
            worker.join_thread()


def _until_gone(workers: Sequence[PoolThread], parker: Parker) -> None:
    for worker in workers:
        while worker.thread.is_alive():  # `join` would have `threading` know this thread, and never forget it
            time.sleep(0)
    parker.wake()
