"""Which worker the calling thread is, and how a thread sleeps that may be one."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

from ._parker import Deadline, Parker
from ._typing import Protocol


class CurrentWorker(Protocol):
    """The worker that the calling thread is, as far as everything down here needs one."""

    @property
    def registry(self) -> object:
        """What it shares with its pool: tells one pool's workers from another's."""

    def sleep(self, parker: Parker, timeout: float | None) -> bool:
        """`parker.park(timeout)`, answering what is asked of this worker; returns also when something was asked."""
        ...


class _Current:
    """`worker` is None unless the calling thread is a pool's.

    Not a `threading.local`: when gevent has patched that after this was imported, all of its greenlets would share one.

    `_workers`
        by the ident of its thread, which alone enters and leaves. Guarded by the dict's own lock.
    """

    def __init__(self) -> None:
        self._workers: dict[int, CurrentWorker] = {}

    @property
    def worker(self) -> CurrentWorker | None:
        return self._workers.get(_thread.get_ident())

    @worker.setter
    def worker(self, worker: CurrentWorker | None) -> None:
        if worker is None:  # a later thread may have the same ident
            self._workers.pop(_thread.get_ident(), None)
        else:
            self._workers[_thread.get_ident()] = worker

    def after_fork(self) -> None:
        """In the child, into which no other thread came along."""
        # Not by `get`, which locks the dict on CPython 3.13t: another thread may have had that lock, for ever in here.
        workers, me = self._workers, _thread.get_ident()
        self._workers = {me: workers[me]} if me in workers else {}


current = _Current()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=current.after_fork)


def sleep(parker: Parker, timeout: float | None = None) -> bool:
    """`parker.park(timeout)`; a worker answers meanwhile what others ask of it."""
    worker = current.worker
    return parker.park(timeout) if worker is None else worker.sleep(parker, timeout)


def sleep_until(condition: Callable[[], bool], parker: Parker, timeout: float | None) -> bool:
    """Sleep until `condition()`, looking whenever `parker` is woken; False when `timeout` seconds passed before."""
    deadline = None if timeout is None else Deadline(timeout)
    while not condition():
        if not sleep(parker, None if deadline is None else deadline.left()):
            return condition()
    return True
