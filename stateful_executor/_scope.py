"""A group of tasks joined at the end of a `with` block.

The shared fields, and what guards each:

`_pending`
    the tasks that have not ended. Guarded by the dict's own lock. A task leaves it after its result is stored and its
    callbacks have run.
`_ending`
    one item for each task that has left `_pending`, but may still be referred to by the worker that ran it. It enters
    before it leaves there. Guarded by the list's own lock.
`_failures`
    the tasks that failed and whose error nobody has taken. Guarded by the dict's own lock.
`_submitters`
    who waits for a place in the backlog. Guarded by the dict's own lock.
`_cancelled`, `_timed_out`, `_doomed`
    set by any thread, and then they stay set, but `_doomed`, which is taken back by who cancels on its behalf.
`_closing`, `_waiter`, `_helps`
    written by the thread that runs the block, read by all.

The end of the scope closes it in an atomic step against a submit that sees it closing: each puts its word into the dict
`_closing`, by `setdefault`, and the first word counts. So a task that was accepted in that moment keeps the scope open,
and what it submits in turn is not refused.

Nobody is missed: who submits enters `_pending`, then looks at `_cancelled`, `_closing` and `_helps`. Who cancels or
ends the scope writes those, then locks `_pending` and looks. A task that ends locks `_pending`, or `_ending`, as it
leaves, then looks at `_waiter`; who ends the scope looks at `_pending` first. Each that leaves locks `_ending`, then
looks at both: the last one to do so finds them empty. It is the same with a blocked submit: it enters `_submitters`,
then looks at `_cancelled`.

Who wakes the end of the block: the last task to leave `_pending` and `_ending`, be it run, failed or cancelled; in a
worker, each submit too, since there is more to run; then each worker that was asked to tear down, also when it retires
or has ended.
Ctrl-C (or the cancellation of an `async with`) begins the join anew.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVarTuple, overload

from typing_extensions import TypeVar

from ._exit import start_thread
from ._future import Future, log_lost_errors, wrap_future
from ._map import AsTheyFinish, InOrder, map_tasks
from ._policy import StatePolicy
from ._state import Binding, Term, find_binding, tell
from ._view import StateView
from ._waiter import Waiter, elsewhere, for_each, headroom, here, in_seconds, sleep
from ._worker import Request, TearDown, Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator

    from ._pool import StatefulThreadPoolExecutor
    from ._queue import AnyWaiter, TaskQueue

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
W = TypeVar("W", bound="AnyWaiter")

logger = logging.getLogger("stateful_executor")


class Scope(Generic[S]):
    """Tasks that end before the block does, whatever happens. Made by `pool.scope()`, used in a `with` statement, once.

    The block ends only when every task submitted through the scope has ended: result stored, callbacks run,
    references dropped; also when the body or a task raises, on Ctrl-C, and when the pool is shut down meanwhile. So
    what the tasks borrow from the enclosing function stays valid. Tasks may submit to their own scope until the last
    one has ended.

    When the body raises (or Ctrl-C is pressed), what has not begun is cancelled, and the exception goes on unchanged,
    with a note on how many tasks failed too; their errors are logged. When only tasks raise, the errors that nobody
    has taken from their futures are raised together as an `ExceptionGroup`, after all tasks have ended.

    With `fail_fast`, the first task that raises cancels the scope, as `cancel()` does. With `timeout`, the scope is
    cancelled that many seconds after it was entered, by a thread of its own, and the block raises `TimeoutError`, with
    the group of the tasks' errors, if any, as its cause. Running tasks are joined all the same, so it may take longer.
    A body that ends because of either, with the refusal of a `submit` or the `CancelledError` of a task that the scope
    cancelled, has not failed itself.

    The states of `scope.with_state(initializer)` are torn down before the block ends. Only the worker that made one
    may do that, so the end waits for the one task that such a worker is running just then, be it another scope's, but
    for none that it has not begun; a worker that waits for something, or retires, does it at once. Use
    `pool.with_state(initializer)` for states that outlive the scope: they couple nothing.

    `async with pool.scope()` joins in the same way without blocking the event loop; when the asyncio task is
    cancelled, it cancels what has not begun and joins all the same. In a worker of the pool it is a `RuntimeError`.

    In a worker, waiting for the end runs the scope's tasks that have not begun, there and then. In a forked child,
    whose parent has the tasks, the end waits for nothing and raises `BrokenThreadPool`, unless the body raised.

    One window remains, Python's own: when Ctrl-C arrives in the moment between the end of the body and the first
    instruction of `__exit__`, tasks are not joined. Of interrupts at random moments of a loop that does nothing but
    open scopes with one empty task, 1.3 % came then (`benchmarks/ctrl_c.py`); it is once a block, however long.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: StatefulThreadPoolExecutor[S], fail_fast: bool, timeout: float | None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be at least 0 seconds, or None to wait for ever, not {timeout}")
        self._pool = pool
        self._queue: TaskQueue = pool._queue
        self._fail_fast: bool = fail_fast
        self._timeout: float | None = in_seconds(timeout)
        self._bindings: dict[object, Binding] = {}
        self._term: Term = Term()
        self._pending: dict[Future[Any], None] = {}
        self._ending: list[None] = []
        self._failures: dict[Future[Any], None] = {}
        self._submitters: dict[AnyWaiter, None] = {}
        self._mark = object()  # on errors that are the scope's own doing
        self._entered: bool = False
        self._runs_in_worker: bool = False
        self._closing: dict[str, bool] | None = {"closed": True}
        self._cancelled: bool = False
        self._timed_out: bool = False
        self._doomed: bool = False  # by a task's error, which is not known yet
        self._alarm: Waiter | None = None  # what the thread for the timeout sleeps on
        self._waiter: AnyWaiter | None = None
        self._helps: bool = False

    # Submitting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)` before the block ends, and return the future of it.

        Blocks and raises as the pool's `submit` does. Raises `RuntimeError` outside of the `with` block, and when the
        scope was cancelled.
        """
        return self._queue.put(fn, args, kwargs, None, self)

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop; see the pool's."""
        return wrap_future(await self._queue.aput(fn, args, kwargs, None, self))

    def _add(self, task: Future[Any]) -> None:
        task._scope = self
        self._pending[task] = None
        if self._cancelled or self._closing is not None:
            self._look_whether_open()

    def _look_whether_open(self) -> None:
        """After a task has entered `_pending`: raise when it is too late for it."""
        closing = self._closing
        if self._cancelled or (closing is not None and closing.setdefault("closed", False)):
            raise self._refusal()

    def _wake_helper(self) -> None:
        """There is more to run for the worker that waits for the end."""
        if self._waiter is not None:
            self._waiter.wake()

    @property
    def _closed(self) -> bool:
        """Whether it takes no tasks: before its block, and after the last one has ended."""
        closing = self._closing
        return closing is not None and closing.get("closed", False)

    def _refusal(self) -> RuntimeError:
        if not self._entered:
            text = f"{self!r} takes tasks only inside its `with` block"
        elif self._timed_out:
            text = f"{self!r} has had its {self._timeout} seconds, and takes no more tasks"
        elif self._cancelled:
            text = f"{self!r} was cancelled and takes no more tasks"
        else:
            text = f"{self!r} has ended: all of its tasks are done, and it takes no more; open a new scope"
        error = RuntimeError(text)
        error._scope_mark = self._mark  # type: ignore[attr-defined]
        return error

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the pool's `map`; the tasks are the scope's."""
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize, InOrder())

    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the pool's `map_unordered`; the tasks are the scope's."""
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize, AsTheyFinish())

    @overload
    def with_state(self) -> StateView[S]: ...
    @overload
    def with_state(
        self, initializer: Callable[[], Generator[T, Any, Any]], *, policy: StatePolicy[T] | None = None
    ) -> StateView[T]: ...
    @overload
    def with_state(
        self,
        initializer: Callable[[], T],
        *,
        finalizer: Callable[[T], object] | None = None,
        policy: StatePolicy[T] | None = None,
    ) -> StateView[T]: ...
    @overload
    def with_state(
        self,
        initializer: Callable[[*Ts], Generator[T, Any, Any]],
        initargs: tuple[*Ts],
        *,
        policy: StatePolicy[T] | None = None,
    ) -> StateView[T]: ...
    @overload
    def with_state(
        self,
        initializer: Callable[[*Ts], T],
        initargs: tuple[*Ts],
        *,
        finalizer: Callable[[T], object] | None = None,
        policy: StatePolicy[T] | None = None,
    ) -> StateView[T]: ...
    def with_state(
        self,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
    ) -> StateView[Any]:
        """Return a view whose tasks are this scope's, and get a state.

        Without arguments: the pool's own state. With an `initializer`: a state of this scope's, made by each worker
        that runs such a task, and torn down before the block ends. A failed teardown is logged, and raised with the
        errors of the tasks. The parameters are those of `pool.with_state`.
        """
        if initializer is None:
            return StateView(self._pool, self._pool._own_binding(initargs, finalizer, policy), self)
        binding = find_binding(self._bindings, initializer, initargs, finalizer, policy, self._term)
        return StateView(self._pool, binding, self)

    # Cancelling

    @property
    def cancelled(self) -> bool:
        """True when the scope was cancelled, by whatever; a long task looks at it now and then, and returns."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel what has not begun, and refuse what is submitted from now on, or blocks in it; from any thread.

        Tasks that run already, or begin in this very moment, are joined as ever. A body that ends with the scope's
        refusal, or with the `CancelledError` of a task that this cancelled, has not failed: the block then raises what
        tasks raised, if anything.
        """
        self._cancelled = True
        self._cancel_pending()

    def _cancel_pending(self) -> None:
        for waiter in self._submitters.copy():
            waiter.wake()
        for_each(self._pending.copy(), self._cancel_task)

    def _cancel_task(self, task: Future[Any]) -> None:
        if task._token:
            task._cancel(self._mark)

    def _time_out(self) -> None:
        """At the deadline, in a thread of its own."""
        if not self._term.over:
            self._timed_out = self._cancelled = True
            self._cancel_in_thread()

    def _cancel_in_thread(self) -> None:
        """`_cancel_pending` in a thread that must go on."""
        try:
            self._cancel_pending()
        except BaseException:
            tell(logger.critical, "callback of a task of %r raised", self)

    # Told by tasks

    def _failed(self, task: Future[Any]) -> None:
        """`task` is about to end with an error, in this thread."""
        task._failure.failures = self._failures
        self._failures[task] = None
        if self._fail_fast:
            self._cancelled = self._doomed = True

    def _ended(self, task: Future[Any]) -> None:
        """`task` has ended, and nothing of it is left to be forgotten; `Worker.run` does the same by itself."""
        self._cancel_if_doomed()
        self._pending.pop(task, None)
        self._ending.extend(())  # locks it: of this thread and a worker, the one that does so last sees both leave
        self._end_if_last()

    def _cancel_if_doomed(self) -> None:
        if self._doomed:
            self._doomed = False
            self._cancel_in_thread()

    def _end_if_last(self) -> None:
        """After a task has left `_pending`, or `_ending`."""
        if not self._pending and not self._ending and self._waiter is not None:
            self._waiter.wake()

    # Joining

    def __enter__(self) -> Self:
        headroom()  # `__exit__`, at the same depth, must not fail for want of stack
        worker = here.worker
        self._enter(worker is not None and worker.queue is self._queue)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        interrupt = None
        while True:
            try:  # twice, for Ctrl-C at the jump back of the inner loop; no function, whose entry it could meet
                while True:
                    try:
                        self._join(exc is not None or interrupt is not None)
                        break
                    except BaseException as again:  # Ctrl-C: cancel the rest, and join all the same
                        interrupt = again
                break
            except BaseException as again:
                interrupt = again
        try:
            return self._outcome(interrupt or exc, interrupt is not None)
        finally:
            exc = interrupt = None  # no cycle from an error by its traceback to this frame

    async def __aenter__(self) -> Self:
        worker = here.worker
        if worker is not None and worker.queue is self._queue:
            raise RuntimeError(
                f"{self!r} would keep the event loop waiting for {worker.thread.name}, which runs it: "
                "use `with` in a worker of the pool"
            )
        self._enter(False)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        from ._asyncio import LoopWaiter, is_cancelled

        if self._cancelled and exc is not None and not is_cancelled() and is_cancelled(exc):
            exc._scope_mark = self._mark  # type: ignore[attr-defined]  # of a task that this cancelled, by its future
        interrupt = None
        while True:
            try:
                for waiter in self._joined(LoopWaiter(self._queue), exc is not None or interrupt is not None):
                    await waiter.wait()
                break
            except BaseException as again:  # the asyncio task is cancelled: cancel the rest, and join all the same
                interrupt = again
        try:
            return self._outcome(interrupt or exc, interrupt is not None)
        finally:
            exc = interrupt = None

    def _enter(self, runs_in_worker: bool) -> None:
        if self._entered:
            raise RuntimeError(f"{self!r} was entered before: a scope is for one `with` statement")
        self._entered = True
        self._runs_in_worker = runs_in_worker
        self._closing = None
        if self._timeout == 0:
            self._timed_out = self._cancelled = True
        try:
            if self._timeout:
                self._alarm = Waiter()
                start_thread(_wait_for_deadline, (weakref.ref(self), self._alarm, self._timeout), self._alarm)
        except BaseException:
            self._closing = {"closed": True}
            self._end_alarm()
            raise

    def _end_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.wake()

    def _join(self, cancels: bool) -> None:
        for waiter in self._joined(Waiter(), cancels):
            sleep(waiter)

    def _joined(self, waiter: W, cancels: bool) -> Iterator[W]:
        """Yield `waiter` whenever it is to be waited for, until all tasks have ended and all states are torn down.

        May be begun anew.
        """
        if cancels:
            self._cancelled = True
        if self._queue.forked:
            return
        self._waiter = waiter
        worker = here.worker if self._runs_in_worker else None
        self._helps = worker is not None
        while self._busy():
            if self._cancelled:
                self._cancel_pending()
            if worker is None or not self._run_pending(worker):
                yield waiter
        self._helps = False
        self._end_alarm()
        todo = self._ask_for_teardowns(waiter)
        while todo:
            yield waiter

    def _busy(self) -> bool:
        """Whether tasks are pending; if none are, the scope is closed."""
        if self._has_tasks():
            return True
        closing: dict[str, bool] = {}
        self._closing = closing
        # Another thread may have submitted meanwhile. One that comes after the look finds `closing`, see above.
        if self._has_tasks() or not closing.setdefault("closed", True):
            self._closing = None
            return True
        return False

    def _has_tasks(self) -> bool:
        """Whether one is in `_pending`, or has gone from there to `_ending`. Locks both, see above."""
        self._pending.pop(None, None)  # type: ignore[call-overload]  # nothing is ever there
        if self._pending:
            return True
        self._ending.extend(())
        return bool(self._ending)

    def _run_pending(self, worker: Worker) -> bool:
        """Run in this worker what has not begun. False when there was nothing."""
        tasks = [task for task in self._pending.copy() if task._token]
        tasks.reverse()
        found = bool(tasks)
        while tasks and not self._cancelled:
            worker.run_in_place(tasks.pop())
        return found

    def _ask_for_teardowns(self, waiter: AnyWaiter) -> dict[Request, None]:
        """The requests that have not been answered; each one that is wakes `waiter`."""
        self._term.over = True  # before the look at who has states, see `Binding`
        todo: dict[Request, None] = {}
        for binding in list(self._bindings.values()):
            for worker in binding.holders.copy():
                request = TearDown(waiter.wake, todo, binding)
                if worker is here.worker:
                    request.answer(worker)
                else:
                    worker.ask(request)
        return todo

    def _outcome(self, error: BaseException | None, interrupted: bool) -> bool:
        """Raise what the block is to raise; True when the body's error was the scope's own doing."""
        if self._queue.forked and error is None:
            raise self._queue.refusal()  # type: ignore[misc]  # tasks that this child has no news of
        failed = self._failures.copy()
        self._failures.clear()
        errors = [task._failure.error for task in failed] + self._term.errors
        counted = _counted(len(failed), "task")
        if self._term.errors:
            counted += f" and {_counted(len(self._term.errors), 'teardown')}"
        group = None
        try:
            if error is None or _mark_of(error) is self._mark:
                if errors:
                    group = BaseExceptionGroup(f"{counted} of {self!r} failed", errors)
                if self._timed_out:
                    raise TimeoutError(
                        f"{self!r} was cancelled after its timeout of {self._timeout} seconds"
                    ) from group
                if group is not None:
                    raise group from None
                return error is not None
            if errors:
                note = f"{counted} of {self!r} failed too"
                with suppress(BaseException):  # a frozen dataclass takes none
                    BaseException.add_note(error, note)
            log_lost_errors(failed)
            if interrupted:
                raise error
            return False
        finally:
            error = group = None  # no cycle from an error by its traceback to this frame
            del errors, failed

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pending)} tasks"
        return f"<Scope of {self._queue.name}, {'cancelled, ' * self._cancelled}{state}>"


def _wait_for_deadline(ref: weakref.ref[Scope[Any]], alarm: Waiter, timeout: float) -> None:
    """Until the deadline or the end of the scope, which this does not keep alive."""
    if alarm.wait(timeout) or (scope := ref()) is None:
        return
    elsewhere(scope._time_out)  # where callbacks may be called


def _mark_of(error: BaseException) -> object:
    """Of the scope whose own doing `error` is."""
    try:
        return object.__getattribute__(error, "_scope_mark")  # whatever the class of a user's error makes of that
    except AttributeError:
        return None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
