"""A task: who may begin or cancel it, how it ends, and who is told. `Future` is its public face."""

from __future__ import annotations

import _thread
import concurrent.futures
import logging
import os
import time
from collections.abc import Callable

from ._binding import Binding
from ._failure import Failure, LostError
from ._group import Group
from ._interrupts import for_each, in_new_thread, locked
from ._naming import name_of
from ._phases import CANCELLED_AND_NOTIFIED, FAILED, FINISHED, PENDING, RUNNING
from ._stack import descend
from ._stats import ONE, PoolCounts, Tally
from ._typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ._stdlib_waiters import StdlibWaiterAdapter

T = TypeVar("T")

logger = logging.getLogger("concurrent.futures")

# For the parts of a future that are made when first needed. Nothing is called while it is held; made anew in a forked
# child. Re-entrant, since a collection can start where it is taken or given back (3.11, and from 3.14 on), and a
# finalizer may wait for a future, or add a callback.
making = _thread.RLock()


def _forked() -> None:
    global making
    making = _thread.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Home(Protocol):
    """The pool of a task, as far as the task needs it: hears when a task leaves the backlog other than by its turn."""

    name: str
    forked: bool
    counts: PoolCounts

    def before_removal(self, task: Task[Any]) -> None:
        """Before somebody other than a worker whose turn it is claims `task`: its entry is to become a tombstone."""

    def removal_failed(self, task: Task[Any]) -> None:
        """After `before_removal`, when another thread has claimed `task`."""

    def removed(self, task: Task[Any]) -> None:
        """After `before_removal`, when the claim succeeded: its permit is free. May be called again."""


class Target(Protocol):
    """The worker that a task of a broadcast is for."""

    def forget_broadcast(self, task: Task[Any]) -> None: ...


class Watcher(Protocol):
    """Whoever is told of the end of a task."""

    def wake(self, task: Any, /) -> object:
        """`task` has ended, and can tell how. May be called again."""


NO_KEYWORDS: dict[str, Any] = {}  # of a task without any, where a new dict for each would cost

Callback: TypeAlias = "list[Callable[[Task[Any]], object]]"  # whoever takes its item calls it


class Task(concurrent.futures.Future[T]):
    """A call, and what becomes of it. It has no lock. Strictly private; `Future` is its public face.

    `_claim`
        a list with one item while the task has not begun. Deleting the item is the right to begin the task, to cancel
        it, or to run it in place: one atomic step, which exactly one thread can do. It is also the *fence*: every
        operation on a list takes the list's own lock, so that of two threads that both touch it, the second sees all
        that the first had written before.
    `_phase`, `_result`, `_failure`, `_cancelled_by`
        written by whoever took the claim, and by nobody else; `_phase` last.
    `_fn`, `_args`, `_has_permit`, `_scope`
        written by whoever holds the task: the submitter, then whoever took the claim, before `_phase`. Hence what is
        said of `_phase` holds for them too.
    `_watchers`, `_adapter`
        made when first needed, with `making` held; until then a task of `map_unordered` has a tuple that all of them
        share. An entry of the list is added, and removed, by the thread it is for; a callback is an entry as well, a
        list with one item, called by whoever takes the item.
    `_taken_over`
        whoever deletes its item finishes the task by hand. Guarded by the list's own lock.
    `_target`, `_binding`, `_home`
        written before the task is handed on, and never after.
    `_silenced`
        written before the task fails, or by who looks at `_failure` afterwards.

    Nobody misses the end of a task:

        who            publishes                meets at (locks)   then looks at
        who ends it    writes `_phase`          `_claim`           `_watchers`
        who waits      enters `_watchers`       `_claim`           `_phase`

    If the waiter comes first, its entry is seen; if it comes second, it sees the new phase. Both may happen: waking
    twice is harmless, and a callback is called once.

    A look at `_phase` without the fence (`done`, `running`, the first look in `result`) may miss what comes in that
    very moment, but never the result of a task whose end it sees, as that was written before.

    Who waits is woken by `_announce`: by the end or the cancellation of the task, whoever brings it about (worker,
    canceller, broken pool). Else by its timeout, or by Ctrl-C. A shutdown, a dropped pool and the interpreter's exit
    let the task end, and so wake it; a forked child refuses to wait. `_settled_phase` spins for the next few
    instructions of whoever took the claim.
    """

    # All but one in slots. Attributes set late would go to a dict of the instance's own, which costs more time and
    # memory than the rest of the future together; and two threads that make it at once, be one of them a user's with an
    # attribute of his own, crash CPython 3.11.
    __slots__ = (
        "_adapter",
        "_args",
        "_binding",
        "_cancelled_by",
        "_claim",
        "_failure",
        "_fn",
        "_has_permit",
        "_home",
        "_phase",
        "_result",
        "_scope",
        "_silenced",
        "_taken_over",
        "_watchers",
    )

    _claim: list[None]
    _home: Home
    _fn: Callable[..., T] | None
    _args: tuple[Any, ...]
    _binding: Binding | None
    _scope: Group | None
    _has_permit: bool  # holds a place in the backlog
    _phase: str
    _result: T | None  # there is none before the end, nor after an error
    _watchers: list[Watcher | Callback] | tuple[Watcher] | None
    # What few tasks ever have; until then there is no such attribute.
    _failure: Failure  # once it has failed
    _cancelled_by: object  # once it was cancelled: the mark of the scope that did it
    _adapter: StdlibWaiterAdapter
    _taken_over: list[None]  # by set_running_or_notify_cancel
    _silenced: bool  # nobody is to see its error

    _target: Target | None = None  # who runs this task of a broadcast

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        # The base class's makes a Condition, an RLock and a deque: four fifths of what it costs.
        __init__ = object.__init__  # `new_task` fills in the slots

    def done(self) -> bool:
        """True when the task has ended or was cancelled."""
        return self._phase != PENDING and self._phase != RUNNING

    # Being waited for

    def _watch(self, watcher: Watcher | Callback) -> None:
        if not isinstance(self._watchers, list):
            locked(making, self._make_watchers)
        self._watchers.append(watcher)  # type: ignore[union-attr]  # made by now
        self._claim.extend(())  # the fence

    def _once(self, make: Callable[[], None]) -> None:
        """Make a part that is made when first needed, by whichever thread comes first."""
        locked(making, make)

    def _make_watchers(self) -> None:
        if not isinstance(self._watchers, list):
            self._watchers = list(self._watchers or ())

    # Ending

    def _cancel(self, cancelled_by: object) -> bool:
        """Cancel the task unless it has begun; `cancelled_by` is the mark of the scope that does it."""
        cancelled = self._call_off(cancelled_by, self._home.counts.cancelled)
        return cancelled or self._settled_phase() == CANCELLED_AND_NOTIFIED

    def _withdraw(self) -> bool:
        """As `cancel`, for a task that was not accepted in the end. True when it is this call that cancels it."""
        return self._call_off(None, self._home.counts.withdrawn)

    def _call_off(self, cancelled_by: object, tally: Tally) -> bool:
        """Claim the task, and do what a cancellation owes to others. False when somebody else has claimed it."""
        descend(1)
        self._home.before_removal(self)
        try:
            del self._claim[0]
            self._cancelled_by = cancelled_by
            self._phase = CANCELLED_AND_NOTIFIED
            tally.ones += ONE  # one step with the three before it
        except IndexError:
            self._home.removal_failed(self)
            return False
        try:
            self._after_cancel()
        except BaseException:
            # Ctrl-C, be it at the entry of that, or a callback's SystemExit, or the end of the stack: another thread
            # does what remains. It is sent no signals, and has a stack of its own. To start it is one call in C, before
            # which CPython does not look at signals.
            try:
                _thread.start_new_thread(in_new_thread, (self._after_cancel,))
            except RuntimeError:  # the interpreter exits, or there is no thread to be had
                self._after_cancel()
            raise
        return True

    def _settled_phase(self) -> str:
        """The phase, after the claim has gone: whoever took it writes the phase next, a few instructions later."""
        while self._phase == PENDING:
            time.sleep(0)
        return self._phase

    def _after_cancel(self) -> None:
        """What a cancellation owes to others. Each step may be repeated, so that an interrupted call is."""
        self._fn = None
        self._args = ()
        self._home.removed(self)
        self._home.counts.cancelled.carry()
        self._home.counts.withdrawn.carry()
        self._announce()
        if self._scope is not None:
            self._scope._ended(self)
            self._scope = None

    def _begin(self) -> bool:
        """Claim the task, and begin it; False when somebody else has claimed it. `Runner.run` does this by itself."""
        try:
            del self._claim[0]
            self._phase = RUNNING  # one step with `del`
        except IndexError:
            return False
        return True

    def _fail(self, exception: BaseException) -> None:
        """End the task with `exception`; for whoever took the claim."""
        name = name_of(self._fn)
        self._fn = None
        self._args = ()
        self._end(None, exception, name)

    def _end(self, result: T | None, exception: BaseException | None, name: str = "?") -> None:
        """Make the outcome known, for whoever took the claim. `Runner.run` does this by itself: see there."""
        tally = self._home.counts.completed if exception is None else self._home.counts.failed
        if exception is None:
            self._result = result
        else:
            self._fails(exception, name)
        self._phase = FINISHED if exception is None else FAILED
        tally.ones += ONE  # one step with the phase
        self._tell_end()
        tally.carry()

    def _tell_end(self) -> None:
        try:
            self._announce()
        finally:  # a callback's SystemExit does not keep the scope from its end
            if self._scope is not None:
                self._scope._ended(self)
                self._scope = None

    def _abort(self, error: BaseException, fn: object) -> None:
        """End the task, of `fn`, with `error` unless it has an outcome, and do what is left to do; may be called again.

        For whoever took the claim, and was cut off.
        """
        self._fn = None
        self._args = ()
        self._home.removed(self)
        tally = self._home.counts.failed
        if self._phase == RUNNING:
            self._fails(error, name_of(fn))
            self._phase = FAILED
            tally.ones += ONE  # one step with the phase
        self._tell_end()
        tally.carry()

    def _fails(self, error: BaseException, name: str) -> None:
        """The task is about to end with `error`: unless somebody takes that, its scope raises it, or it is logged."""
        self._failure = Failure(error, name)
        if self._scope is not None:
            self._scope._failed(self)
        elif not hasattr(self, "_silenced"):
            self._failure.lost = LostError(name, error)

    def _announce(self) -> None:
        """After `_phase` was written: wake who waits, and call back."""
        self._claim.clear()  # the fence
        if self._watchers and self._wake_watchers():
            self._call_backs()

    def _wake_watchers(self) -> bool:
        """Wake who waits. Whether there are callbacks besides."""
        calls_back = False
        for watcher in self._watchers[:]:  # type: ignore[index]  # there are some
            if isinstance(watcher, list):
                calls_back = True
            else:
                watcher.wake(self)
        return calls_back

    def _has_callbacks(self) -> bool:
        return list in map(type, self._watchers or ())

    def _call_backs(self) -> None:
        for_each([watcher for watcher in list(self._watchers or ()) if isinstance(watcher, list)], self._call_back)

    def _call_back(self, callback: Callback) -> None:
        try:
            fn = callback[0]
            del callback[0]
        except IndexError:
            return  # run by another thread
        calls = map(fn, (self,))
        try:
            for _ in calls:  # no call stands here: what a signal's handler raises after it is not the callback's
                break
            else:
                logger.error("exception calling callback for %r: StopIteration", self)
        except Exception:
            logger.exception("exception calling callback for %r", self)
