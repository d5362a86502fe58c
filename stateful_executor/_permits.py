"""The bound of the backlog: a counting semaphore whose waiters are served in turn."""

from __future__ import annotations

import _thread
import logging
import sys
import time
from collections.abc import Callable
from functools import partial

from ._current import sleep_until
from ._interrupts import locked
from ._naming import tell
from ._parker import Parker, Wakeable
from ._stats import ONE
from ._task import Task
from ._typing import Any, Protocol
from .errors import BacklogFull

logger = logging.getLogger("stateful_executor")

PERMITS_AT_ONCE = 1024  # a bound of a billion tasks costs no memory until they come


class Waiter(Wakeable, Protocol):
    """A thread or a coroutine that waits for a permit. `wake` returns False when it has left the line for good."""

    def is_awake(self) -> bool:
        """Whether it has been woken and has not slept since; False is always right."""
        ...


class Permits:
    """Owns the permits of a bounded backlog, one for each task accepted and not begun; and the line of who waits.

    `free`
        the permits that nobody holds, but for those in `unissued`. Guarded by the list's own lock.
    `waiters`
        the line, the first one first, and since when each waits. Guarded by the dict's own lock.
    `needs_notify`
        has a key when a waiter has looked at `free`, or left the line, since a worker last notified the first in line.
        Guarded by the dict's own lock.
    `unissued`, `seconds_blocked`
        guarded by `lock`, which is never held while user code runs or anything blocks.
    `warned_of_loop`
        once set it stays set; of two threads that find it unset at once both may log.

    A worker that frees a permit notifies the first in line only if `needs_notify` has its key. Else a worker that frees
    a thousand permits, before that one has woken, would notify it a thousand times. A coroutine puts the key back when
    it is notified: to notify it again is how one finds out that its loop was closed meanwhile.

    No waiter is missed, since of the two that lock `free` the second sees what the first has published:

        who                                    publishes                             meets at (locks)  then looks at
        waiter, before each look, and leaving  its entry in `waiters`, or that it    `free`            `free`
                                               has left; the key of `needs_notify`
        who frees a permit                     appends to `free`                     `free`            `needs_notify`,
                                                                                                       then `waiters`

    Who wakes a waiter: a worker that begins a task (`notify_first`); whoever cancels one (`release`); one that leaves
    the line, with a permit or without (`left_line`: its timeout, Ctrl-C, a cancelled coroutine); `wake_all` when the
    pool is closed (shutdown, breakage, exit, dropped pool); its scope when that is cancelled, or times out. A waiter
    whose loop was closed is passed over.
    """

    def __init__(self, size: int, timeout: float | None, name: str) -> None:
        self.size = size
        self.timeout = timeout
        self._name = name
        self.lock = _thread.RLock()  # re-entrant: a collection that starts in it may run a submit
        self.free: list[None] = [None] * min(size, PERMITS_AT_ONCE)
        self.unissued: int = size - len(self.free)
        self.waiters: dict[Waiter, float] = {}
        self.needs_notify: dict[None, None] = {}
        self.seconds_blocked: float = 0.0
        self.warned_of_loop: bool = False

    def in_use(self) -> int:
        """How many are held."""
        return self.size - self.unissued - len(self.free)

    # Acquiring

    def try_acquire(self, task: Task[Any]) -> bool:
        """Take a permit for `task` if there is one."""
        try:
            del self.free[-1]
            task._has_permit = True  # one step with `del`
        except IndexError:
            return self.unissued > 0 and self._issue(task)
        return True

    def enough_for_line(self) -> bool:
        """Whether there are more permits than waiters: then nobody need stand in line.

        Else, with several that submit, each would stand behind the others after every task, of a thousand permits too.
        """
        return len(self.free) > len(self.waiters)

    def acquire(self, task: Task[Any], check: Callable[[], None], line: dict[Wakeable, None] | None) -> None:
        """Take a permit for `task`, in turn; BacklogFull when there was none in time.

        `check` raises when there is no use in waiting. `line` is another one to stand in, of whoever wakes it as well.
        """
        if not self.warned_of_loop and self._blocks_event_loop():
            self._warn_of_loop()
        parker = Parker()
        since = time.monotonic()
        try:
            self.waiters[parker] = since
            if line is not None:
                line[parker] = None  # one step with the other entry
            if not sleep_until(lambda: self.try_acquire_in_turn(parker, task, check), parker, self.timeout):
                raise self.full()
        finally:
            del self.waiters[parker]  # no call: after Ctrl-C, too, nobody waits behind one that has left
            if line is not None:
                del line[parker]
            self.left_line(since)

    def _blocks_event_loop(self) -> bool:
        """Whether to wait for a permit now would stop an asyncio event loop, which this thread runs."""
        if self.timeout == 0 or not (self.waiters or self.in_use() >= self.size):
            return False
        get_running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # it may be being imported
        return get_running_loop is not None and get_running_loop() is not None

    def _warn_of_loop(self) -> None:
        self.warned_of_loop = True
        tell(
            logger.warning,
            "%s has all %d places of its backlog taken, so this submit blocks the event loop that its thread runs, and "
            "for ever if tasks wait for that loop: use `await pool.asubmit(fn, ...)` instead of `pool.submit(fn, ...)` "
            "or `loop.run_in_executor(pool, fn, ...)` (said once for each pool)",
            self._name,
            self.size,
            exc_info=None,
        )

    def try_acquire_in_turn(self, waiter: Waiter, task: Task[Any], check: Callable[[], None]) -> bool:
        """Take a permit for `task` if `waiter`, which stands in `waiters`, is first in line and there is one."""
        self.needs_notify[None] = None
        check()
        return self._first() is waiter and self.try_acquire(task)

    def left_line(self, since: float) -> None:
        """Somebody who stood in line from `since` on waits no more; the next one may have a permit."""
        self.needs_notify[None] = None  # what woke this one may have been meant for the next one as well
        self.free.extend(())  # locks it, before the look
        self.notify_if_free()
        blocked = time.monotonic() - since
        locked(self.lock, partial(self._add_blocked, blocked))

    def full(self) -> BacklogFull:
        """The error of a submit that waited in vain."""
        return BacklogFull(
            f"{self._name} had all {self.size} places of its backlog taken for {self.timeout} seconds; "
            "submit later, or raise max_backlog or submit_timeout"
        )

    def _issue(self, task: Task[Any]) -> bool:
        def issue() -> bool:
            number = min(self.unissued, PERMITS_AT_ONCE)
            if number == 0:
                return False
            others = [None] * (number - 1)
            self.unissued -= number
            self.free += others  # one step with the count, and the next line
            task._has_permit = True
            return True

        return locked(self.lock, issue)

    def _add_blocked(self, seconds: float) -> None:
        self.seconds_blocked += seconds

    # Releasing

    def release(self, task: Task[Any]) -> None:
        """Give back the permit that `task` may hold. Called again after Ctrl-C."""
        if task._has_permit:
            task._has_permit = False
            self.free += ONE  # one step with `_has_permit`, and no call, which needs stack
        if self.waiters:
            self.wake_first()

    def notify_first(self) -> None:
        """`wake_first`, by a worker that has freed a permit and found the key of `needs_notify`."""
        self.needs_notify.clear()
        self.wake_first()

    def notify_if_free(self) -> None:
        """After an interruption."""
        if self.free or self.unissued > 0:
            self.wake_first()

    def wake_first(self) -> None:
        """A permit came free: wake the first in line, which takes it. Awake already, it will look once more."""
        while (waiter := self._first()) is not None and not waiter.is_awake():
            if waiter.wake() is not False:  # False: its loop was closed, and it has left the line
                return

    def wake_all(self) -> None:
        """There is no use in waiting any more."""
        for waiter in self.waiters.copy():
            waiter.wake()

    def after_fork(self) -> None:
        """In the child, whose parent's threads may have held the lock."""
        self.lock = _thread.RLock()

    def _first(self) -> Waiter | None:
        line = list(self.waiters)
        return line[0] if line else None
