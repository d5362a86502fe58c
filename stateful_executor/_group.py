"""What a scope's tasks and its end agree on: who is pending, who failed, when it closes."""

from __future__ import annotations

import logging

from ._failure import FailedTask
from ._interrupts import for_each
from ._naming import tell
from ._parker import Wakeable
from ._typing import Protocol

logger = logging.getLogger("stateful_executor")


class Member(FailedTask, Protocol):
    """A task, as far as its group needs one."""

    _claim: list[None]
    _scope: Group | None

    def _cancel(self, cancelled_by: object) -> bool: ...


class Group:
    """Owns the tasks of a scope that have not ended, and the end of the scope. Strictly private: `Scope` is its face.

    `_pending`
        the tasks that have not ended. Guarded by the dict's own lock. A task leaves it after its result is stored and
        its callbacks have run.
    `_ending`
        one item for each task that has left `_pending`, but may still be referred to by the worker that ran it. The
        item is put in before the task leaves `_pending`. Guarded by the list's own lock.
    `_failures`
        the tasks that failed and whose error nobody has taken. Guarded by the dict's own lock.
    `_permit_waiters`
        who waits for a permit of the backlog. Guarded by the dict's own lock.
    `_cancelled`
        set by any thread; once set it stays set.
    `_cancel_due`
        set when a task fails in a fail-fast scope: whoever ends that task has the rest to cancel, and takes it back.
    `_closing`, `_joiner`, `_helps`
        written by the thread that runs the block, read by all: the vote on closing (below), who waits for the end, and
        whether that is a worker, which runs pending tasks meanwhile.

    Closing. When the last task has ended, `__exit__` wants to close the scope while another thread may be submitting
    to it. One of them must win, and both must know which. `_closing` is the compare-and-set they use: a fresh dict, in
    which `__exit__` does `setdefault("closed", True)` and the submitter `setdefault("closed", False)`. Whoever comes
    first fixes the value that both then read. True: the scope is closed, and the submit raises. False: the task was
    accepted, the scope stays open, and `__exit__` waits again. While `_closing` is None nobody tries to close the
    scope; that is all a submit normally has to look at.

    Who wakes `_joiner`: the last task to leave (`_end_if_last`), and, when `_helps`, each submit (`_wake_helper`). Who
    wakes a blocked submit: `_cancel_pending`, and whoever frees a permit. Nobody is missed:

        who                 publishes                           meets at (locks)   then looks at
        submit              enters `_pending`                   `_pending`         `_cancelled`, `_closing`, `_helps`
        cancel, `__exit__`  sets one of those                   `_pending`         who is in it
        ending task         leaves `_pending`, then `_ending`   `_ending`          both, then `_joiner`
        `__exit__`          sets `_joiner`                      `_ending`          both
        blocked submit      enters `_permit_waiters`            `_permit_waiters`  `_cancelled`
        cancel              sets `_cancelled`                   `_permit_waiters`  who is in it

    Of two tasks that end at once, the one that locks `_ending` last finds both containers empty, and wakes.
    """

    def __init__(self, fail_fast: bool) -> None:
        self._fail_fast: bool = fail_fast
        self._pending: dict[Member, None] = {}
        self._ending: list[None] = []
        self._failures: dict[FailedTask, None] = {}
        self._permit_waiters: dict[Wakeable, None] = {}
        self._mark = object()  # on errors that are the scope's own doing
        self._runs_in_worker: bool = False
        self._closing: dict[str, bool] | None = {"closed": True}
        self._cancelled: bool = False
        self._cancel_due: bool = False
        self._joiner: Wakeable | None = None
        self._helps: bool = False

    # Entering

    def _add(self, task: Member) -> None:
        """Enter `task`, or raise; `Registry.put` does this by itself: see there."""
        task._scope = self
        self._pending[task] = None
        if self._cancelled or self._closing is not None:
            self._check_open()

    def _check_open(self) -> None:
        """After a task has entered `_pending`: raise when it is too late for it."""
        closing = self._closing
        if self._cancelled or (closing is not None and closing.setdefault("closed", False)):
            raise self._closed_error()

    def _closed_error(self) -> RuntimeError:
        """Why no task is accepted."""
        raise NotImplementedError

    @property
    def _closed(self) -> bool:
        """Whether it takes no tasks: before its block, and after the last one has ended."""
        closing = self._closing
        return closing is not None and closing.get("closed", False)

    def _wake_helper(self) -> None:
        """There is more to run for the worker that waits for the end."""
        if self._joiner is not None:
            self._joiner.wake()

    # Cancelling

    def _cancel_pending(self) -> None:
        """Cancel what has not begun, and wake the submits that wait for a permit, which then raise."""
        for waiter in self._permit_waiters.copy():
            waiter.wake()
        for_each(self._pending.copy(), self._cancel_task)

    def _cancel_task(self, task: Member) -> None:
        if task._claim:
            task._cancel(self._mark)

    def _cancel_in_thread(self) -> None:
        """`_cancel_pending` in a thread that must go on."""
        try:
            self._cancel_pending()
        except BaseException:
            tell(logger.critical, "callback of a task of %r raised", self)

    # Told by tasks

    def _failed(self, task: Member) -> None:
        """`task` is about to end with an error, in this thread."""
        task._failure.failures = self._failures
        self._failures[task] = None
        if self._fail_fast:
            self._cancelled = self._cancel_due = True

    def _ended(self, task: Member) -> None:
        """`task` has ended, and nothing of it is left to be forgotten. `Runner.run` does this by itself: see there."""
        self._cancel_if_due()
        self._pending.pop(task, None)
        self._ending.extend(())  # locks it: of this thread and a worker, the one that does so last sees both leave
        self._end_if_last()

    def _cancel_if_due(self) -> None:
        if self._cancel_due:
            self._cancel_due = False
            self._cancel_in_thread()

    def _end_if_last(self) -> None:
        """After a task has left `_pending`, or `_ending`."""
        if not self._pending and not self._ending and self._joiner is not None:
            self._joiner.wake()

    # Closing

    def _try_close(self) -> bool:
        """Close the scope unless tasks are pending; False when some are."""
        if self._has_tasks():
            return False
        closing: dict[str, bool] = {}
        self._closing = closing
        # Another thread may have submitted meanwhile. One that comes after the look finds `closing`.
        if self._has_tasks() or not closing.setdefault("closed", True):
            self._closing = None
            return False
        return True

    def _has_tasks(self) -> bool:
        """Whether one is in `_pending`, or has gone from there to `_ending`. Locks both, see the table above."""
        self._pending.pop(None, None)  # type: ignore[call-overload]  # there is no such key
        if self._pending:
            return True
        self._ending.extend(())
        return bool(self._ending)
