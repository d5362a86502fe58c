"""Which worker the calling thread is, and how a thread sleeps that may be one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ._parker import Deadline, Parker


class CurrentWorker(Protocol):
    """The worker that the calling thread is, as far as everything down here needs one."""

    @property
    def registry(self) -> object:
        """What it shares with its pool: tells one pool's workers from another's."""

    def sleep(self, parker: Parker, timeout: float | None) -> bool:
        """`parker.park(timeout)`, answering what is asked of this worker; returns also when something was asked."""
        ...


class _Current(threading.local):
    """`worker` is None unless the calling thread is a pool's. Each thread sees its own, so nothing guards it."""

    worker: CurrentWorker | None = None


current = _Current()


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
