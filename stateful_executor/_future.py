"""A `Future` that costs nothing until somebody waits for it, and the task whose outcome it is.

A future has no lock. Its shared fields, and what guards each of them:

`_token`
    a list with one item while the task has not begun. Deleting the item is the right to begin the task, to cancel
    it, or to run it in place: one atomic step, which exactly one thread can do. It is also the *anchor*: every
    operation on a list takes the list's own lock, so of two threads that both touch it, the later one sees all
    that the earlier one had written before.
`_state`, `_result`, `_exception`
    written by whoever took the token, and by nobody else. `_state` is written last.
`_watchers`, `_callbacks`
    lists made by `dict.setdefault` when first needed; an entry is added, and removed, by the thread it is for.

Nobody misses the end of a task, since both sides touch the anchor in between:

- who ends it writes `_state`, touches the anchor, then looks at `_watchers` and `_callbacks`;
- who waits appends to `_watchers` or `_callbacks`, touches the anchor, then looks at `_state`.

If the waiter's touch came first, its entry is seen; if it came second, the new state is. Both may be true at once:
waking twice is harmless, and a callback is run by whoever takes it out of its one-item list.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any, TypeVar

from ._state import name_of
from ._waiter import Deadline, Waiter, here, sleep

if TYPE_CHECKING:
    from ._queue import TaskQueue
    from ._scope import Scope
    from ._state import Binding

T = TypeVar("T")

# The values that `concurrent.futures.wait` and `as_completed` look for.
PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"

logger = logging.getLogger("concurrent.futures")


class Future(concurrent.futures.Future[T]):
    """The outcome of a task: a `concurrent.futures.Future` in all that it does, cheaper to make.

    Made by `submit`, never by hand. A `result()` or `exception()` in a worker of the same pool runs the task there
    and then when it has not begun. A cancelled task notifies those who wait for it at once.

    .. versionadded:: 0.1
    """

    # Defaults, so that a new task stores only what is its own.
    _state: str = PENDING
    _result: T | None = None  # type: ignore[assignment]  # the base class sets it in __init__
    _exception: BaseException | None = None
    _watchers: list[Waiter | _Bridge] = ()  # type: ignore[assignment]
    _callbacks: list[list[Callable[[Future[T]], object]]] = ()  # type: ignore[assignment]
    _fn: Callable[..., T] | None = None
    _args: tuple[Any, ...] = ()
    _kwargs: dict[str, Any] | None = None
    _binding: Binding | None = None
    _scope: Scope | None = None
    _ticket: object = None
    _placed: bool = False  # holds a place in the backlog
    _taken_over: bool = False  # begun by set_running_or_notify_cancel, not by a worker
    _failures: dict[Future[Any], None] | None = None  # where its scope keeps it until its error is taken
    _name: str = "?"  # of its function, once it has failed
    _refusal: object = None  # the mark of the scope that cancelled it
    _token: list[None]
    _queue: TaskQueue

    def __init__(self, queue: TaskQueue, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The base class's __init__ makes a Condition, an RLock and a deque: four fifths of what it costs.
        self._token = [None]
        self._queue = queue
        self._fn = fn
        self._args = args
        if kwargs:
            self._kwargs = kwargs

    # Asking

    def cancelled(self) -> bool:
        """True when the task was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """True while the task runs."""
        return self._state == RUNNING

    def done(self) -> bool:
        """True when the task has ended or was cancelled."""
        return self._state == FINISHED or self._state == CANCELLED_AND_NOTIFIED

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned, or raise what it raised; wait for it at most `timeout` seconds.

        In a worker of the same pool, a task that has not begun is run there and then, unless `timeout` is 0.
        `timeout` covers waiting, not a task run in place. Raises `TimeoutError` when it has passed, `CancelledError`
        when the task was cancelled, and `BrokenThreadPool` in a child process forked before the task ended.
        """
        try:
            if self._state != FINISHED:
                self._await(timeout)
            if self._exception is not None:
                self._take()
                raise self._exception
            return self._result  # type: ignore[return-value]  # finished without an error
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle from the error by its traceback to this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, or None; waits and raises as `result` does."""
        if self._state != FINISHED:
            self._await(timeout)
        if self._exception is not None:
            self._take()
        return self._exception

    def _take(self) -> None:
        """Somebody looks at the error: from here on it is theirs, and not the scope's to raise."""
        failures = self._failures
        if failures is not None:
            self._failures = None
            failures.pop(self, None)

    def _await(self, timeout: float | None) -> None:
        """Return when the task has finished; raise when it was cancelled, or not in time."""
        try:
            if not self.done():
                self._wait(timeout)
            if self._state == CANCELLED_AND_NOTIFIED:
                error = CancelledError()
                error._scope_mark = self._refusal  # type: ignore[attr-defined]
                raise error
        finally:
            self = None  # type: ignore[assignment]

    def _wait(self, timeout: float | None) -> None:
        worker = here.worker
        if worker is not None and worker.queue is self._queue and (timeout is None or timeout > 0):
            worker.run_in_place(self)
        deadline = Deadline(timeout)
        waiter = Waiter()
        self._watch(waiter)
        try:
            while not self.done():
                if self._queue.forked:
                    raise BrokenThreadPool(
                        f"{self._queue.name} was made before this process was forked: its workers, "
                        f"and so the end of {self!r}, are in the parent"
                    )
                if not sleep(waiter, deadline.left()) and not self.done():
                    raise TimeoutError(f"{self!r} has not ended after {timeout} seconds")
        finally:
            self._watchers.remove(waiter)

    def _watch(self, watcher: Waiter | _Bridge) -> None:
        vars(self).setdefault("_watchers", []).append(watcher)
        self._token.copy()  # the anchor

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call `fn(self)` when the task has ended or was cancelled: in the order added, in the thread that ends it;
        at once, in this thread, when it has ended already. What `fn` raises is logged.
        """
        callback: list[Callable[[Future[T]], object]] = [fn]
        if not self.done():
            vars(self).setdefault("_callbacks", []).append(callback)
            self._token.copy()  # the anchor
            if not self.done():
                return
        self._call_back(callback)

    # Ending

    def cancel(self) -> bool:
        """Cancel the task unless it has begun. True when it is cancelled, by this call or an earlier one.

        Its place in the backlog is free, those who wait for it are told, and its callbacks have run when this
        returns, in this thread.
        """
        try:
            del self._token[0]
            self._state = CANCELLED_AND_NOTIFIED  # no look at signals between the two
        except IndexError:
            return self._settled_state() == CANCELLED_AND_NOTIFIED
        try:
            self._after_cancel()
        except BaseException:
            self._after_cancel()  # Ctrl-C: what remains of it has to be done all the same
            raise
        return True

    def _settled_state(self) -> str:
        """The state, after the token has gone: who took it writes the state next, a few instructions later."""
        while self._state == PENDING:
            time.sleep(0)
        return self._state

    def _after_cancel(self) -> None:
        """What a cancellation owes to others. Each step may be repeated, so that an interrupted call is."""
        self._fn = self._kwargs = None
        self._args = ()
        self._queue.left(self)
        self._announce()
        if self._scope is not None:
            self._scope._ended(self._ticket)
            self._scope = None

    def _begin(self) -> bool:
        """Take the token. (`Worker.run` does the same by itself.)"""
        try:
            del self._token[0]
            self._state = RUNNING  # no look at signals between the two
        except IndexError:
            return False
        return True

    def _fail(self, exception: BaseException) -> None:
        """End the task with `exception`; for whoever took the token."""
        self._name = name_of(self._fn)
        self._fn = self._kwargs = None
        self._args = ()
        self._end(None, exception)

    def _end(self, result: T | None, exception: BaseException | None) -> None:
        """Make the outcome known; for whoever took the token. (`Worker.run` does the same by itself.)"""
        scope, self._scope = self._scope, None
        self._result = result
        self._exception = exception
        if scope is not None and exception is not None:
            scope._failed(self)
        self._state = FINISHED
        self._announce()
        if scope is not None:
            scope._ended(self._ticket)

    def _announce(self) -> None:
        self._token.clear()  # the anchor
        if self._watchers:
            self._wake_watchers()
        if self._callbacks:
            self._call_backs()

    def _wake_watchers(self) -> None:
        for watcher in self._watchers.copy():
            watcher.wake()

    def _call_backs(self) -> None:
        interrupt = None
        for callback in self._callbacks.copy():
            try:
                self._call_back(callback)
            except BaseException as exc:  # Ctrl-C, or a callback's SystemExit: the others are called all the same
                interrupt = exc
        if interrupt is not None:
            raise interrupt

    def _call_back(self, callback: list[Callable[[Future[T]], object]]) -> None:
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
            if self._settled_state() == CANCELLED_AND_NOTIFIED:
                return False
            raise InvalidStateError(f"{self!r} has begun already") from None
        self._taken_over = True
        self._fn = self._kwargs = None
        self._args = ()
        self._queue.left(self)
        return True

    def set_result(self, result: T) -> None:
        """Finish a task that the caller has taken over, or that has not begun; `InvalidStateError` otherwise."""
        self._finish_by_hand(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish a task that the caller has taken over, or that has not begun; `InvalidStateError` otherwise."""
        self._finish_by_hand(None, exception)

    def _finish_by_hand(self, result: T | None, exception: BaseException | None) -> None:
        if self._state == PENDING:
            self.set_running_or_notify_cancel()
        if self._state != RUNNING or not self._taken_over:
            raise InvalidStateError(f"{self._state}: {self!r} is its pool's to finish")
        self._taken_over = False
        self._end(result, exception)

    def __repr__(self) -> str:
        outcome = ""
        if self._state == FINISHED:
            error = self._exception
            outcome = f" raised {type(error).__name__}" if error else f" returned {type(self._result).__name__}"
        state = "cancelled" if self._state == CANCELLED_AND_NOTIFIED else self._state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={state}{outcome}>"

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """(done, cancelled, result, exception): what asyncio reads from 3.14 on."""
        if self._exception is not None:
            self._take()
        return self.done(), self.cancelled(), self._result, self._exception

    # `concurrent.futures.wait` and `as_completed` work on these two. They are made when first looked at.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return self._bridge().condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self._bridge().waiters

    def _bridge(self) -> _Bridge:
        bridge: _Bridge = vars(self).setdefault("_made_bridge", _Bridge(self))
        if bridge not in self._watchers:
            self._watch(bridge)  # twice, when two threads come here at once: it tells only once
        return bridge


class _Bridge:
    """The base class's condition and waiters, for a future that somebody passed to `wait` or `as_completed`.

    All fields are guarded by `condition`. Those functions look at `_state` while they hold it, after the bridge has
    been registered; hence either they see the end, or `wake` comes after them and sees their waiter.
    """

    def __init__(self, future: Future[Any]) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self._untold: list[Any] | None = None  # those who were waiting at the end; a later one has seen the end
        self._future = weakref.ref(future)  # no cycle: a future goes when its last user lets it go

    def wake(self) -> None:
        future = self._future()
        with self.condition:
            if future is None:
                return
            if self._untold is None:
                self._untold = self.waiters.copy()
            while self._untold:
                waiter = self._untold[0]
                del self._untold[0]
                if future._state == CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(future)
                elif future._exception is not None:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
