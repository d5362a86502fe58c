"""The public face of a task: a `concurrent.futures.Future` that costs nothing until somebody waits for it."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures.thread import BrokenThreadPool
from functools import partial

from ._binding import Binding
from ._current import current
from ._naming import cannot_copy
from ._parker import Deadline, Parker
from ._phases import CANCELLED_AND_NOTIFIED, FAILED, FINISHED, PENDING, RUNNING, shown
from ._stdlib_waiters import StdlibWaiterAdapter
from ._task import Callback, Home, Task
from ._typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

logger = logging.getLogger("concurrent.futures")


class Waiting(Protocol):
    """A wait in a worker: `told` to run the awaited task itself, since no other worker can."""

    told: bool


class Helper(Protocol):
    """The worker that the calling thread is, as far as it runs tasks inside the one that it runs already."""

    caller_runs_depth: int  # tasks begun one inside another by submits to the full backlog

    def help(self, task: Future[Any]) -> None:
        """Run `task`, which a task of this worker waits for, unless it has begun."""

    def wait(self, parker: Parker, timeout: float | None) -> bool:
        """`sleep`, in a task of this worker that waits for others of its pool."""
        ...

    def begin_wait(self, parker: Parker, task: Future[Any] | None) -> Waiting:
        """This worker is about to sleep on `parker`, in a task that waits for `task`."""
        ...

    def end_wait(self, wait: Waiting) -> None:
        """It waits no more."""

    def caller_runs(self, task: Future[Any]) -> None:
        """Run `task`, for which the backlog has no place, inside the task that submits it."""


def current_helper(home: Home) -> Helper | None:
    """The worker of the pool `home` that the calling thread is, if it is one."""
    worker = current.worker
    return cast("Helper", worker) if worker is not None and worker.registry is home else None


class Future(Task[T]):
    """The outcome of a task: a `concurrent.futures.Future` in all that it does, cheaper to make.

    Made by `submit`, never by hand. A `result()` or `exception()` in a worker of the same pool leaves the task to
    another worker while one can take it: one that is idle, that can still be started, or whose own task does not wait
    for tasks of this pool. When all of them wait so, each runs the task that it waits for there and then, if that has
    not begun, so that nothing deadlocks; what belongs to the thread (thread-locals, a transaction of a session) is the
    waiting task's then. A cancelled task notifies those who wait for it at once.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    # Asking

    def cancelled(self) -> bool:
        """True when the task was cancelled."""
        return self._phase == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """True while the task runs."""
        return self._phase == RUNNING

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned, or raise what it raised; wait for it at most `timeout` seconds.

        In a worker of the same pool, when no other worker can take it, a task that has not begun is run there and
        then, unless `timeout` is 0. `timeout` covers waiting, not a task run in place. Raises `TimeoutError` when it
        has passed, `CancelledError` when the task was cancelled, and `BrokenThreadPool` in a child process forked
        before the task ended.
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
        failure.silence()

    def _silence(self) -> None:
        """Nobody will look at the error, and the log is not to be bothered with it; its scope is, if it has one."""
        self._silenced = True
        if self._phase == FAILED:
            self._failure.silence()

    def _await(self, timeout: float | None) -> None:
        """Return when the task has finished; raise when it was cancelled, or not in time."""
        error = None
        try:
            if self._phase == PENDING or self._phase == RUNNING:
                self._wait(timeout)
            if self._phase == CANCELLED_AND_NOTIFIED:
                error = CancelledError()
                error._scope_mark = getattr(self, "_cancelled_by", None)  # type: ignore[attr-defined]
                raise error
        finally:
            self = error = None  # type: ignore[assignment]  # as in `result`

    def _wait(self, timeout: float | None) -> None:
        home = self._home
        if home.forked:
            raise BrokenThreadPool(
                f"{home.name} was made before this process was forked: its workers, and so the end of {self!r}, "
                "are in the parent"
            )
        deadline = None if timeout is None else Deadline(timeout)
        worker = current.worker
        helper = None if worker is None or (timeout is not None and timeout <= 0) else current_helper(home)
        parker = Parker()
        park = parker.park if worker is None else partial(worker.sleep, parker)
        self._watch(parker)
        try:
            wait = None if helper is None else helper.begin_wait(parker, self)
            try:
                claim = self._claim
                while True:  # as in `_map._results`
                    if self._phase != PENDING and self._phase != RUNNING:
                        break
                    if wait is not None and wait.told and claim:
                        helper.help(self)  # type: ignore[union-attr]  # there is one then; called here to save stack
                    elif not park(None if deadline is None else deadline.left()) and not self.done():
                        raise TimeoutError(f"{self!r} has not ended after {timeout} seconds")
                    continue
            finally:
                if wait is not None:
                    helper.end_wait(wait)  # type: ignore[union-attr]
        finally:
            self._watchers.remove(parker)  # type: ignore[union-attr]  # made by _watch
            self = wait = None  # type: ignore[assignment]

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

    def cancel(self) -> bool:
        """Cancel the task unless it has begun. True when it is cancelled, by this call or an earlier one.

        Its place in the backlog is free, those who wait for it are told, and its callbacks have run when this
        returns, in this thread.
        """
        return self._cancel(None)

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
            self._home.before_removal(self)
            self._home.removed(self)
        except BaseException:  # Ctrl-C: its place is to be free all the same
            self._home.removed(self)
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
            raise InvalidStateError(f"{shown(self._phase)}: {self!r} is its pool's to finish, or has ended") from None
        try:
            self._end(result, exception)
        except BaseException:
            if self._phase == RUNNING:  # Ctrl-C before it was finished: it still is the caller's to do
                self._taken_over = [None]
            raise

    def __reduce__(self) -> NoReturn:
        """TypeError: neither `pickle` nor `copy` can have it."""
        raise cannot_copy(self, "take its result() here, and send that")

    def __repr__(self) -> str:
        outcome = ""
        phase = self._phase
        if phase == FINISHED:
            outcome = f" returned {type(self._result).__name__}"
        elif phase == FAILED:
            outcome = f" raised {type(self._exception).__name__}"
        state = "cancelled" if phase == CANCELLED_AND_NOTIFIED else shown(phase).lower()
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
        phase = shown(self._phase)
        return self._adapter.seen(phase) if hasattr(self, "_adapter") else phase

    @property
    def _condition(self) -> StdlibWaiterAdapter:  # type: ignore[override]
        return self._stdlib_waiters()

    @property
    def _waiters(self) -> StdlibWaiterAdapter:  # type: ignore[override]
        return self._stdlib_waiters()

    def _stdlib_waiters(self) -> StdlibWaiterAdapter:
        if not hasattr(self, "_adapter"):
            made = StdlibWaiterAdapter(self)

            def keep() -> None:
                if not hasattr(self, "_adapter"):
                    self._adapter = made

            self._once(keep)
        adapter = self._adapter
        if self._watchers is None or adapter not in self._watchers:
            self._watch(adapter)  # twice, when two threads come here at once: it tells each waiter only once
        return adapter


def new_task(
    home: Home, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], binding: Binding | None
) -> Future[T]:
    """A future with its call. Not an `__init__`, which `type` calls from C: 365 ns instead of 230.

    `Registry.put` does this by itself: see there.
    """
    task: Future[T] = Future()
    task._claim = [None]
    task._home = home
    # What can't be called fails as it is called, be it without its keywords; `partial` would refuse it here.
    task._fn = partial(fn, **kwargs) if kwargs and callable(fn) else fn
    task._args = args
    task._phase = PENDING
    task._binding = binding
    task._scope = None
    task._has_permit = False
    task._watchers = None
    return task


def wrap_future(task: Future[T]) -> asyncio.Future[T]:
    """`asyncio.wrap_future`, without importing asyncio for those who don't use it."""
    import asyncio

    return asyncio.wrap_future(task)
