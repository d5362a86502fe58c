"""A `Future` that costs nothing until somebody waits for it, and the task whose outcome it is.

A future has no lock. Its shared fields, and what guards each of them:

`_token`
    a list with one item while the task has not begun. Deleting the item is the right to begin the task, to cancel
    it, or to run it in place: one atomic step, which exactly one thread can do. It is also the *anchor*: every
    operation on a list takes the list's own lock, so of two threads that both touch it, the later one sees all
    that the earlier one had written before.
`_phase`, `_result`, `_failure`, `_refusal`
    written by whoever took the token, and by nobody else. `_phase` is written last.
`_watchers`, `_made_bridge`
    made when first needed, under the lock `making`. An entry of the list is added, and removed, by the thread it is
    for; a callback is an entry as well, a list with one item.
`_fn`, `_args`, `_placed`, `_scope`
    written by whoever holds the task: who submits it, then who took the token, before `_phase`; hence the order of
    `_phase` holds for them too. Who takes the error sets what is in `_failure` back to None; twice is harmless.
`_taken_over`
    guarded by its own lock: whoever deletes its item finishes the task by hand.
`_only`, `_binding`, `_queue`
    written before the task is handed on, and never after.
`_unheeded`
    written before the task fails, or by who looks at `_failure` afterwards.

A look at `_phase` without the anchor (`done`, `running`, the first look in `result`) may miss what comes in that very
moment, but never the result of a task whose end it sees, as that was written before.

Who waits: `_wait`, woken by `_announce`, that is by the end or the cancellation of the task, whoever brings it about
(worker, canceller, broken pool); otherwise by its timeout, or by Ctrl-C. A shutdown, a dropped pool and the
interpreter's exit let the task end, and so wake it; a forked child refuses to wait. `_settled_phase` spins for the
next few instructions of who took the token.

Nobody misses the end of a task, since both sides touch the anchor in between:

- who ends it writes `_phase`, touches the anchor, then looks at `_watchers`;
- who waits appends to `_watchers`, touches the anchor, then looks at `_phase`.

If the waiter's touch came first, its entry is seen; if it came second, the new phase is. Both may be true at once:
waking twice is harmless, and a callback is run by whoever takes it out of its one-item list.
"""

from __future__ import annotations

import concurrent.futures
import logging
import sys
import threading
import time
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ._state import name_of, tell
from ._stats import ONE
from ._waiter import Waiter, descend, elsewhere, for_each, here, locked, sleep_until

if TYPE_CHECKING:
    import asyncio

    from ._queue import TaskQueue
    from ._scope import Scope
    from ._state import Binding
    from ._worker import Worker

T = TypeVar("T")

# The values that `concurrent.futures.wait` and `as_completed` look for, and one more.
PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"
FAILED = "FAILED"  # for others it is FINISHED

logger = logging.getLogger("concurrent.futures")
lost_errors = logging.getLogger("stateful_executor")
LOST = "lost error: task %s failed, and nobody took the error from its future"

# Nothing is called while it is held; made anew in a forked child. Re-entrant, since a collection can start where it is
# taken or given back (3.11, and from 3.14 on), and a finalizer may wait for a future, or add a callback.
making = threading.RLock()


class Watcher(Protocol):
    """Who is told that a task has ended. `wake` may be called more than once, from any thread, and must not raise."""

    def wake(self) -> object: ...


Callback: TypeAlias = "list[Callable[[Future[Any]], object]]"  # whoever takes its item calls it


class Future(concurrent.futures.Future[T]):
    """The outcome of a task: a `concurrent.futures.Future` in all that it does, cheaper to make.

    Made by `submit`, never by hand. A `result()` or `exception()` in a worker of the same pool runs the task there
    and then when it has not begun. A cancelled task notifies those who wait for it at once.

    .. versionadded:: 0.1
    """

    # All but one in slots. Attributes set late would go to a dict of the instance's own, which costs more time and
    # memory than the rest of the future together; and two threads that make it at once, be one of them a user's with an
    # attribute of his own, crash CPython 3.11.
    __slots__ = (
        "_args",
        "_binding",
        "_failure",
        "_fn",
        "_made_bridge",
        "_phase",
        "_placed",  # holds a place in the backlog
        "_queue",
        "_refusal",
        "_result",
        "_scope",
        "_taken_over",
        "_token",
        "_unheeded",
        "_watchers",
    )

    _token: list[None]
    _queue: TaskQueue
    _fn: Callable[..., T] | None
    _args: tuple[Any, ...]
    _binding: Binding | None
    _scope: Scope | None
    _placed: bool
    _phase: str
    _result: T | None  # there is none before the end, nor after an error
    _watchers: list[Watcher | Callback] | None
    # What few tasks ever have; until then there is no such attribute.
    _failure: Failure  # once it has failed
    _refusal: object  # once it was cancelled: the mark of the scope that did it
    _made_bridge: _Bridge
    _taken_over: list[None]  # by set_running_or_notify_cancel: who deletes its item finishes the task
    _unheeded: bool  # nobody is to see its error

    _only: Worker | None = None  # who runs this task of a broadcast; known before the task is handed on

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        # The base class's makes a Condition, an RLock and a deque: four fifths of what it costs.
        __init__ = object.__init__  # `new_task` fills in the slots

    # Asking

    def cancelled(self) -> bool:
        """True when the task was cancelled."""
        return self._phase == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """True while the task runs."""
        return self._phase == RUNNING

    def done(self) -> bool:
        """True when the task has ended or was cancelled."""
        return self._phase != PENDING and self._phase != RUNNING

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned, or raise what it raised; wait for it at most `timeout` seconds.

        In a worker of the same pool, a task that has not begun is run there and then, unless `timeout` is 0.
        `timeout` covers waiting, not a task run in place. Raises `TimeoutError` when it has passed, `CancelledError`
        when the task was cancelled, and `BrokenThreadPool` in a child process forked before the task ended.
        """
        try:
            if self._phase != FINISHED:
                self._await(timeout)
                if self._phase == FAILED:
                    self._take()
                    raise self._failure.error
            return self._result  # type: ignore[return-value]  # it is there by now
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle from the error by its traceback to this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, or None; waits and raises as `result` does."""
        if self._phase != FINISHED:
            self._await(timeout)
            if self._phase == FAILED:
                self._take()
        return self._exception

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        """The error, which this look does not take."""
        return self._failure.error if self._phase == FAILED else None

    def _take(self) -> None:
        """Somebody looks at the error: from here on it is theirs, and not the scope's to raise, nor the log's."""
        failure = self._failure
        failures, failure.failures = failure.failures, None
        if failures is not None:
            failures.pop(self, None)
        failure.disregard()

    def _disregard(self) -> None:
        """Nobody will look at the error, and the log is not to be bothered with it; its scope is, if it has one."""
        self._unheeded = True
        if self._phase == FAILED:
            self._failure.disregard()

    def _await(self, timeout: float | None) -> None:
        """Return when the task has finished; raise when it was cancelled, or not in time."""
        error = None
        try:
            if not self.done():
                self._wait(timeout)
            if self._phase == CANCELLED_AND_NOTIFIED:
                error = CancelledError()
                error._scope_mark = getattr(self, "_refusal", None)  # type: ignore[attr-defined]
                raise error
        finally:
            self = error = None  # type: ignore[assignment]  # as in `result`

    def _wait(self, timeout: float | None) -> None:
        queue = self._queue
        if queue.forked:
            raise BrokenThreadPool(
                f"{queue.name} was made before this process was forked: its workers, and so the end of {self!r}, "
                "are in the parent"
            )
        worker = here.worker
        if worker is not None and worker.queue is queue and (timeout is None or timeout > 0):
            worker.run_in_place(self)
        waiter = Waiter()
        self._watch(waiter)
        try:
            if not sleep_until(self.done, waiter, timeout):
                raise TimeoutError(f"{self!r} has not ended after {timeout} seconds")
        finally:
            self._watchers.remove(waiter)  # type: ignore[union-attr]  # made by _watch
            self = None  # type: ignore[assignment]

    def _watch(self, watcher: Watcher | Callback) -> None:
        if self._watchers is None:
            locked(making, self._make_watchers)
        self._watchers.append(watcher)  # type: ignore[union-attr]  # made by now
        self._token.extend(())  # the anchor

    def _make_watchers(self) -> None:
        if self._watchers is None:
            self._watchers = []

    def _make_bridge(self) -> None:
        if not hasattr(self, "_made_bridge"):
            self._made_bridge = _Bridge(self)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call `fn(self)` when the task has ended or was cancelled, and log what it raises.

        In the order added, in the thread that ends the task; at once, in this thread, when it has ended already.
        """
        callback: Callback = [fn]
        if not self.done():
            self._watch(callback)
            if not self.done():
                return
        self._call_back(callback)

    # Ending

    def cancel(self) -> bool:
        """Cancel the task unless it has begun. True when it is cancelled, by this call or an earlier one.

        Its place in the backlog is free, those who wait for it are told, and its callbacks have run when this
        returns, in this thread.
        """
        return self._cancel(None)

    def _cancel(self, refusal: object) -> bool:
        """`refusal` is the mark of the scope that does it."""
        descend(1)
        self._queue.leave_entry(self)
        try:
            del self._token[0]
            self._refusal = refusal
            self._phase = CANCELLED_AND_NOTIFIED
            self._queue.counts.cancelled.ones += ONE  # no look at signals between the four
        except IndexError:
            self._queue.entry_stays(self)
            return self._settled_phase() == CANCELLED_AND_NOTIFIED
        try:
            self._after_cancel()
        except BaseException:
            # Ctrl-C, be it at the entry of that, or a callback's SystemExit, or the end of the stack: another thread
            # does what remains. It is sent no signals, and has a stack of its own. To start it is one call in C, before
            # which CPython does not look at signals.
            try:
                start_new_thread(elsewhere, (self._after_cancel,))
            except RuntimeError:  # the interpreter exits, or there is no thread to be had
                self._after_cancel()
            raise
        return True

    def _withdraw(self) -> bool:
        """As `cancel`, for a task that was not accepted in the end. True when it is this call that cancels it."""
        descend(1)
        self._queue.leave_entry(self)
        try:
            del self._token[0]
            self._phase = CANCELLED_AND_NOTIFIED  # no look at signals between the two
        except IndexError:
            self._queue.entry_stays(self)
            return False
        try:
            self._after_cancel()
        except BaseException:  # as in `cancel`
            try:
                start_new_thread(elsewhere, (self._after_cancel,))
            except RuntimeError:  # the interpreter exits, or there is no thread to be had
                self._after_cancel()
            raise
        return True

    def _settled_phase(self) -> str:
        """The state, after the token has gone: who took it writes the state next, a few instructions later."""
        while self._phase == PENDING:
            time.sleep(0)
        return self._phase

    def _after_cancel(self) -> None:
        """What a cancellation owes to others. Each step may be repeated, so that an interrupted call is."""
        self._fn = None
        self._args = ()
        self._queue.left(self)
        self._queue.counts.cancelled.carry()
        self._announce()
        if self._scope is not None:
            self._scope._ended(self)
            self._scope = None

    def _begin(self) -> bool:
        """Take the token; `Worker.run` does the same by itself."""
        try:
            del self._token[0]
            self._phase = RUNNING  # no look at signals between the two
        except IndexError:
            return False
        return True

    def _fail(self, exception: BaseException) -> None:
        """End the task with `exception`; for whoever took the token."""
        name = name_of(self._fn)
        self._fn = None
        self._args = ()
        self._end(None, exception, name)

    def _end(self, result: T | None, exception: BaseException | None, name: str = "?") -> None:
        """Make the outcome known, for whoever took the token; `Worker.run` does the same by itself."""
        tally = self._queue.counts.completed if exception is None else self._queue.counts.failed
        if exception is None:
            self._result = result
        else:
            self._fails(exception, name)
        scope, self._scope = self._scope, None
        self._phase = FINISHED if exception is None else FAILED
        tally.ones += ONE  # one step with the phase
        try:
            self._announce()
        finally:  # a callback's SystemExit does not keep the scope from its end
            if scope is not None:
                scope._ended(self)
        tally.carry()

    def _fails(self, error: BaseException, name: str) -> None:
        """The task is about to end with `error`: unless somebody takes that, its scope raises it, or it is logged."""
        self._failure = Failure(error, name)
        if self._scope is not None:
            self._scope._failed(self)
        elif not hasattr(self, "_unheeded"):
            self._failure.lost = LostError(name, error)

    def _announce(self) -> None:
        self._token.clear()  # the anchor
        if self._watchers and self._wake_watchers():
            self._call_backs()

    def _wake_watchers(self) -> bool:
        """Wake who waits. Whether there are callbacks besides."""
        calls_back = False
        for watcher in list(self._watchers or ()):
            if isinstance(watcher, list):
                calls_back = True
            else:
                watcher.wake()
        return calls_back

    def _has_callbacks(self) -> bool:
        for watcher in list(self._watchers or ()):  # noqa: SIM110  # `any` would take three times as long
            if isinstance(watcher, list):
                return True
        return False

    def _call_backs(self) -> None:
        for_each([watcher for watcher in list(self._watchers or ()) if isinstance(watcher, list)], self._call_back)

    def _call_back(self, callback: Callback) -> None:
        try:
            fn = callback[0]
            del callback[0]
        except IndexError:
            return  # run by another thread
        try:
            fn(self)
        except Exception:
            logger.exception("exception calling callback for %r", self)

    # For executors and tests, as the base class has it

    def set_running_or_notify_cancel(self) -> bool:
        """Take the task over from its pool: True when the caller is now the one to finish it; False when cancelled."""
        if not self._begin():
            if self._settled_phase() == CANCELLED_AND_NOTIFIED:
                return False
            raise InvalidStateError(f"{self!r} has begun already") from None
        self._taken_over = [None]
        self._fn = None
        self._args = ()
        try:
            self._queue.leave_entry(self)
            self._queue.left(self)
        except BaseException:  # Ctrl-C: its place is to be free all the same
            self._queue.left(self)
            raise
        return True

    def set_result(self, result: T) -> None:
        """Finish a task that the caller has taken over, or that has not begun; `InvalidStateError` otherwise."""
        self._finish_by_hand(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish a task that the caller has taken over, or that has not begun; `InvalidStateError` otherwise."""
        self._finish_by_hand(None, exception)

    def _finish_by_hand(self, result: T | None, exception: BaseException | None) -> None:
        if self._phase == PENDING:
            self.set_running_or_notify_cancel()
        try:
            del self._taken_over[0]
        except (AttributeError, IndexError):  # it was never taken over: a worker runs it, or it was cancelled
            raise InvalidStateError(f"{_shown(self._phase)}: {self!r} is its pool's to finish, or has ended") from None
        try:
            self._end(result, exception)
        except BaseException:
            if self._phase == RUNNING:  # Ctrl-C before it was finished: it still is the caller's to do
                self._taken_over = [None]
            raise

    def __repr__(self) -> str:
        outcome = ""
        phase = self._phase
        if phase == FINISHED:
            outcome = f" returned {type(self._result).__name__}"
        elif phase == FAILED:
            outcome = f" raised {type(self._exception).__name__}"
        state = "cancelled" if phase == CANCELLED_AND_NOTIFIED else _shown(phase).lower()
        return f"<{type(self).__name__} at {id(self):#x} state={state}{outcome}>"

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """(done, cancelled, result, exception): what asyncio reads from 3.14 on."""
        phase = self._phase  # one look: the task may end after it
        if phase == FINISHED:
            return True, False, self._result, None
        if phase == FAILED:
            self._take()
            return True, False, None, self._failure.error
        cancelled = phase == CANCELLED_AND_NOTIFIED
        return cancelled, cancelled, None, None

    # `concurrent.futures.wait` and `as_completed` work on these three.

    @property
    def _state(self) -> str:  # type: ignore[override]
        phase = _shown(self._phase)
        return self._made_bridge.seen(phase) if hasattr(self, "_made_bridge") else phase

    @property
    def _condition(self) -> _Bridge:  # type: ignore[override]
        return self._bridge()

    @property
    def _waiters(self) -> _Bridge:  # type: ignore[override]
        return self._bridge()

    def _bridge(self) -> _Bridge:
        if not hasattr(self, "_made_bridge"):
            locked(making, self._make_bridge)
        bridge = self._made_bridge
        if self._watchers is None or bridge not in self._watchers:
            self._watch(bridge)  # twice, when two threads come here at once: it tells each waiter only once
        return bridge


def new_task(
    queue: TaskQueue, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], binding: Binding | None
) -> Future[T]:
    """A future with its call. Not an `__init__`, which `type` calls from C: 365 ns instead of 230.

    `TaskQueue.put` does the same by itself.
    """
    task: Future[T] = Future()
    task._token = [None]
    task._queue = queue
    # What can't be called fails as it is called, be it without its keywords; `partial` would refuse it here.
    task._fn = partial(fn, **kwargs) if kwargs and callable(fn) else fn
    task._args = args
    task._phase = PENDING
    task._binding = binding
    task._scope = None
    task._placed = False
    task._watchers = None
    return task


class Failure:
    """How a task failed."""

    __slots__ = ("error", "failures", "lost", "name")

    def __init__(self, error: BaseException, name: str) -> None:
        self.error = error
        self.name = name  # of the task's function
        self.failures: dict[Future[Any], None] | None = None  # where its scope keeps the task until the error is taken
        self.lost: LostError | None = None  # logs the error unless that is taken

    def disregard(self) -> None:
        """The log is not to be bothered with it."""
        lost, self.lost = self.lost, None
        if lost is not None:
            lost.error = None


class LostError:
    """Held by a failed task, and by nothing else: when it is collected, nobody can take the error any more.

    Takes no lock of ours, since a collection can start anywhere. Asyncio does the same for its tasks.
    """

    __slots__ = ("_name", "error")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self.error: BaseException | None = error

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self.error is not None:
            try:
                lost_errors.error(LOST, self._name, exc_info=self.error)
            except Exception:
                if not is_finalizing():  # else what this needs may be gone already
                    raise


def _shown(phase: str) -> str:
    """As the standard library has it."""
    return FINISHED if phase == FAILED else phase


def log_lost_errors(tasks: Iterable[Future[Any]]) -> None:
    """Log the errors of `tasks`, which nobody has taken, nor will."""
    for task in tasks:
        failure = task._failure
        tell(lost_errors.error, LOST, failure.name, exc_info=failure.error)


def wrap_future(task: Future[T]) -> asyncio.Future[T]:
    """`asyncio.wrap_future`, without importing asyncio for those who don't use it."""
    import asyncio

    return asyncio.wrap_future(task)


class _Bridge:
    """What `concurrent.futures.wait` and `as_completed` take for the condition of a future, and for its waiters.

    They acquire the condition, look at `_state` more than once, append a waiter, and release; who ends the task tells
    the waiters. Nothing is locked here meanwhile: Ctrl-C in their Python code would leave it locked, and who ends the
    task, a worker say, would wait for ever. Instead a thread that has acquired goes on seeing the state of that moment,
    and a waiter that it appends is told of an end that came since.

    `_seen` has a stack of states for each thread, which touches no other. `_rights` is guarded by its own lock; the
    item of each entry is the right to tell a waiter, taken by who does. Who appends enters the waiter, then looks at
    the phase; who ends the task writes the phase, then looks at the waiters: one of them finds the other.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._seen: dict[int, list[str]] = {}
        self._rights: dict[Any, list[None]] = {}
        self._future = weakref.ref(future)  # no cycle: a future goes when its last user lets it go

    # As a condition

    def acquire(self, *_: object) -> bool:
        """Let this thread see the state as it is now, until it releases."""
        future = self._future()
        if future is not None:  # it is not: the caller has it
            self._seen.setdefault(threading.get_ident(), []).append(_shown(future._phase))
        return True

    def release(self) -> None:
        """After Ctrl-C before this, what was seen is left: the next one that acquires sees anew."""
        me = threading.get_ident()
        states = self._seen.get(me)
        if states is not None:
            states.pop()
            if not states:
                del self._seen[me]

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def seen(self, phase: str) -> str:
        """The state when this thread acquired, or `phase`."""
        states = self._seen.get(threading.get_ident())
        return states[-1] if states else phase

    # As a list of waiters

    def __len__(self) -> int:
        return len(self._rights)

    def append(self, waiter: Any) -> None:
        """Tell `waiter`, once, when the task ends, or has ended without this thread having seen that."""
        future = self._future()
        if future is None:
            return
        if type(getattr(waiter, "event", None)) is threading.Event:
            waiter.event = _Event()
        told_by_its_state = self.seen(_shown(future._phase)) in (FINISHED, CANCELLED_AND_NOTIFIED)
        self._rights[waiter] = [] if told_by_its_state else [None]
        if future.done():
            self.wake()

    def remove(self, waiter: Any) -> None:
        """Forget a waiter."""
        del self._rights[waiter]

    def wake(self) -> None:
        """The task has ended: tell who waits. May be called again, also after it was interrupted."""
        future = self._future()
        if future is None:
            return
        for waiter, right in self._rights.copy().items():
            try:
                del right[0]
            except IndexError:
                continue
            try:
                if future._phase == CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(future)
                elif future._phase == FAILED:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
            except Exception:  # Ctrl-C has ended that wait, and left it broken: nobody waits there any more
                tell(logger.debug, "who waited for %r can't be told of its end", future)


class _Event:
    """In place of the `threading.Event` on which `wait` and `as_completed` sleep, in the thread that made it.

    Ctrl-C in the Python code of that one can leave its lock held, and then who ends the task would wait for ever.
    """

    def __init__(self) -> None:
        self._waiter: Waiter = Waiter()
        self._is_set: bool = False

    def set(self) -> None:
        """From any thread."""
        self._is_set = True
        self._waiter.wake()

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set before `timeout` seconds had passed."""
        return sleep_until(self.is_set, self._waiter, timeout)
