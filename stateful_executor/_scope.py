"""A group of tasks joined at the end of a `with` block.

The shared fields, and what guards each:

`_pending`
    the tasks that have not ended, by ticket. Guarded by the dict's own lock. A task's ticket leaves only after its
    result is stored, its callbacks have run and the last reference to it is dropped; hence not the task is the key.
`_failures`
    the tasks that failed and whose error nobody has taken. Guarded by the dict's own lock.
`_cancelled`, `_closed`, `_waiter`, `_helps`
    written by the thread that runs the block (`_cancelled` by any), read by all.

Nobody is missed: who submits enters `_pending`, then looks at `_cancelled`, `_closed` and `_helps`. Who ends the scope
writes those, then locks `_pending` and looks. A task that ends locks `_pending` as it leaves, then looks at `_waiter`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVarTuple, overload

from typing_extensions import TypeVar

from ._future import Future, wrap_future
from ._map import map_tasks
from ._state import Binding, find_binding
from ._view import StateView
from ._waiter import Waiter, headroom, here, sleep
from ._worker import Request, Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator

    from ._pool import StatefulThreadPoolExecutor
    from ._queue import TaskQueue

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

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

    The states of `scope.with_state(initializer)` are torn down before the block ends. Only the worker that made one
    may do that, so the end waits for what such a worker is running just then, be it another scope's. Use
    `pool.with_state(initializer)` for states that outlive the scope: they couple nothing.

    In a worker, waiting for the end runs the scope's tasks that have not begun, there and then. In a forked child,
    whose parent has the tasks, the end waits for nothing and raises `BrokenThreadPool`, unless the body raised.

    One window remains, Python's own: when Ctrl-C arrives in the moment between the end of the body and the first
    instruction of `__exit__`, tasks are not joined. Of interrupts at random moments of a loop that does nothing but
    open scopes with one empty task, 0.7 % came then (`benchmarks/ctrl_c.py`); it is once a block, however long.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: StatefulThreadPoolExecutor[S]) -> None:
        self._pool = pool
        self._queue: TaskQueue = pool._queue
        self._bindings: dict[object, Binding] = {}
        self._teardown_errors: list[BaseException] = []
        self._pending: dict[object, Future[Any] | None] = {}
        self._failures: dict[Future[Any], None] = {}
        self._mark = object()  # on errors that are the scope's own doing
        self._entered = False
        self._closed = True
        self._cancelled = False
        self._waiter: Waiter | None = None
        self._helps = False

    # Submitting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)` before the block ends, and return the future of it.

        Blocks and raises as the pool's `submit` does. Raises `RuntimeError` outside of the `with` block, and when the
        scope was cancelled.
        """
        return self._put(Future(self._queue, fn, args, kwargs))

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop; see the pool's."""
        task: Future[T] = Future(self._queue, fn, args, kwargs)
        await self._aput(task)
        return wrap_future(task)

    def _put(self, task: Future[T]) -> Future[T]:
        try:
            self._queue.put(task, self._add)
            if self._helps and self._waiter is not None:
                self._waiter.wake()
            return task
        except BaseException:
            task.cancel()  # unless it has begun, and then it is in `_pending`
            raise
        finally:
            del task  # as in `TaskQueue.put`

    async def _aput(self, task: Future[Any]) -> None:
        try:
            await self._queue.aput(task, self._add)
            if self._helps and self._waiter is not None:
                self._waiter.wake()
        except BaseException:
            task.cancel()  # unless it has begun, and then it is in `_pending`
            raise

    def _add(self, task: Future[Any]) -> None:
        task._ticket = ticket = object()
        task._scope = self
        self._pending[ticket] = task
        if self._closed or self._cancelled:
            raise self._refusal()

    def _refusal(self) -> RuntimeError:
        if not self._entered:
            text = f"{self!r} takes tasks only inside its `with` block"
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
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize)

    @overload
    def with_state(self) -> StateView[S]: ...
    @overload
    def with_state(self, initializer: Callable[[], Generator[T, Any, Any]]) -> StateView[T]: ...
    @overload
    def with_state(
        self, initializer: Callable[[], T], *, finalizer: Callable[[T], object] | None = None
    ) -> StateView[T]: ...
    @overload
    def with_state(
        self, initializer: Callable[[*Ts], Generator[T, Any, Any]], initargs: tuple[*Ts]
    ) -> StateView[T]: ...
    @overload
    def with_state(
        self,
        initializer: Callable[[*Ts], T],
        initargs: tuple[*Ts],
        *,
        finalizer: Callable[[T], object] | None = None,
    ) -> StateView[T]: ...
    def with_state(
        self,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[Any], object] | None = None,
    ) -> StateView[Any]:
        """Return a view whose tasks are this scope's, and get a state.

        Without arguments: the pool's own state. With an `initializer`: a state of this scope's, made by each worker
        that runs such a task, and torn down before the block ends. A failed teardown is logged, and raised with the
        errors of the tasks. The parameters are those of `pool.with_state`.
        """
        if initializer is None:
            return StateView(self, self._pool._own_binding(initargs, finalizer))
        binding = find_binding(self._bindings, initializer, initargs, finalizer, self._teardown_errors)
        return StateView(self, binding)

    # Cancelling

    @property
    def cancelled(self) -> bool:
        """True when the scope was cancelled; a long task looks at it now and then, and returns."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel what has not begun, and refuse what is submitted from now on; from any thread.

        Tasks that run already are joined as ever. A body that ends with the scope's refusal, or with the
        `CancelledError` of a task that this cancelled, has not failed: the block then raises what tasks raised, if
        anything.
        """
        self._cancelled = True
        self._cancel_pending()

    def _cancel_pending(self) -> None:
        for task in list(self._pending.copy().values()):
            if task is not None and task._token:
                task._refusal = self._mark
                task.cancel()

    # Told by tasks

    def _failed(self, task: Future[Any]) -> None:
        """`task` is about to end with an error, in this thread."""
        task._failures = self._failures
        self._failures[task] = None

    def _ended(self, ticket: object) -> None:
        """The task of `ticket` has ended and is forgotten."""
        self._pending.pop(ticket, None)
        if not self._pending and self._waiter is not None:
            self._waiter.wake()

    # Joining

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"{self!r} was entered before: a scope is for one `with` statement")
        headroom()  # `__exit__`, at the same depth, must not fail for want of stack
        self._entered = True
        self._closed = False
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        interrupt = None
        while True:
            try:
                if exc is not None or interrupt is not None:
                    self._cancelled = True
                if not self._queue.forked:
                    self._join()
                break
            except BaseException as again:  # Ctrl-C: cancel the rest, and join all the same
                interrupt = again
        try:
            if self._queue.forked and exc is None and interrupt is None:
                raise self._queue.refusal()  # type: ignore[misc]  # tasks that this child has no news of
            return self._outcome(interrupt or exc, interrupt is not None)
        finally:
            exc = interrupt = None  # no cycle from an error by its traceback to this frame

    def _join(self) -> None:
        """Return when every task has ended and every state of the scope's own is torn down. May be begun anew."""
        waiter = self._waiter = Waiter()
        worker = here.worker
        if worker is not None and worker.queue is not self._queue:
            worker = None
        self._helps = worker is not None
        while self._busy():
            if self._cancelled:
                self._cancel_pending()
            if worker is None or not self._run_pending(worker):
                sleep(waiter)
        self._helps = False
        self._tear_down_states(waiter)

    def _busy(self) -> bool:
        """Whether tasks are pending; if none are, the scope is closed."""
        self._pending.pop(None, None)  # locks it, see above
        if self._pending:
            return True
        self._closed = True
        self._pending.pop(None, None)
        if self._pending:  # another thread submitted meanwhile; it may or may not have seen that the scope was closed
            self._closed = False
            return True
        return False

    def _run_pending(self, worker: Worker) -> bool:
        """Run in this worker what has not begun. False when there was nothing."""
        tasks = [task for task in self._pending.copy().values() if task is not None and task._token]
        tasks.reverse()
        found = bool(tasks)
        while tasks and not self._cancelled:
            worker.run_in_place(tasks.pop())
        return found

    def _tear_down_states(self, waiter: Waiter) -> None:
        todo: dict[Request, None] = {}
        for binding in self._bindings.values():
            for worker in binding.holders.copy():
                if worker is here.worker:
                    worker.tear_down(binding)
                else:
                    worker.ask(Request(waiter, todo, binding))
        while todo:
            sleep(waiter)

    def _outcome(self, error: BaseException | None, interrupted: bool) -> bool:
        """Raise what the block is to raise; True when the body's error was the scope's own doing."""
        failed = [(task._name, task._exception) for task in self._failures.copy()]
        self._failures.clear()
        errors = [exception for _, exception in failed if exception is not None] + self._teardown_errors
        counted = _counted(len(failed), "task")
        if self._teardown_errors:
            counted += f" and {_counted(len(self._teardown_errors), 'teardown')}"
        try:
            if error is None or getattr(error, "_scope_mark", None) is self._mark:
                if errors:
                    raise BaseExceptionGroup(f"{counted} of {self!r} failed", errors) from None
                return error is not None
            if errors:
                error.add_note(f"{counted} of {self!r} failed too")
            for name, exception in failed:
                logger.error("nobody will see the error of task %s", name, exc_info=exception)
            if interrupted:
                raise error
            return False
        finally:
            error = exception = None  # no cycle from an error by its traceback to this frame
            del errors, failed

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pending)} tasks"
        return f"<Scope of {self._queue.name}, {'cancelled, ' * self._cancelled}{state}>"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
