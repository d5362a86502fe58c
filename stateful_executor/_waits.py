"""Workers that wait, in a task of the pool, for other tasks of it; and when they run these themselves."""

from __future__ import annotations

from ._future import Future
from ._parker import Wakeable
from ._typing import Any
from ._workers import Workers


class Wait:
    """A worker asleep, on `parker`, in a task of its pool: until `task` has ended, or for others when that is None.

    `told`: it is to run `task` itself. Once set it stays set.
    `outer`: the wait in which the worker came to this one, and to which it returns without a look at the others.
    """

    __slots__ = ("outer", "parker", "task", "told")

    def __init__(self, parker: Wakeable, task: Future[Any] | None, outer: Wait | None) -> None:
        self.parker = parker
        self.task = task
        self.told: bool = False
        self.outer = outer


class Waits:
    """Owns who waits, and decides when the awaited tasks are run in place. Strictly private.

    An awaited task is left to other workers, as in the standard library, while one of them can take it: one that is
    idle, that can still be started, or whose own task does not wait here. When there is none, each worker that waits
    for a task that has not begun is told to run it in place: a program that would deadlock goes on.

    `waiting`
        the workers that wait so. Each enters and leaves by itself. Guarded by the dict's own lock.

    The last one that could have taken a task tells the others, under no lock. Nobody waits for a task that nobody will
    take:

        who                                publishes                    meets at (locks)  then looks at
        worker that begins to wait         enters `waiting`             `waiting`         who is in it, `Workers.live`
        worker that leaves, or can't start leaves `Workers.live`        `waiting`         the same
        worker that may be started         enters `live`, before that   -                 the tasks, once it has started

    Of two workers that begin to wait at once, the second to enter sees both. One whose task is there, or whose time is
    up, leaves `waiting`: it can take a task when its own has ended. One that was told stays while it runs the awaited
    task, since its own goes on waiting: what that one waits for, in turn, is run in place at once.

    Who wakes a worker that waits: the end of the task or its cancellation, its timeout, a request (see `Mailbox`), or
    `look`. A shutdown lets tasks end; a fork has no worker in the child.
    """

    __slots__ = ("_workers", "waiting")

    def __init__(self, workers: Workers) -> None:
        self.waiting: dict[object, Wait] = {}
        self._workers = workers

    def look(self, *, can_start: bool = True) -> None:
        """After a worker has begun to wait, or has left: see to it that somebody takes what is waited for."""
        if not self._all_wait():
            return
        if can_start and self._workers.has_room() and self._unbegun():
            self._workers.grow()
            if not self._all_wait():
                return
        for wait in self._unbegun():
            wait.told = True
            wait.parker.wake()

    def after_fork(self) -> None:
        """In the child, into which no worker came along."""
        self.waiting = {}  # not `clear`, see `_Current.after_fork`

    def _all_wait(self) -> bool:
        self.waiting.pop(None, None)  # locks it
        return bool(self.waiting) and len(self.waiting) >= self._workers.serving()

    def _unbegun(self) -> list[Wait]:
        unbegun = []
        for innermost in list(self.waiting.values()):
            wait: Wait | None = innermost
            while wait is not None:
                if wait.task is not None and wait.task._claim:
                    unbegun.append(wait)
                wait = wait.outer
        return unbegun
