"""`Scope`: the `with` block, its join, and what it raises. What its tasks and its end agree on is in `_group`.

The end of the block is woken by the last task to leave the group, be it run, failed or cancelled; in a worker, by each
submit too, since there is more to run; then by each worker that was asked to tear down, also when that retires or has
ended. Ctrl-C, or the cancellation of an `async with`, begins the join anew. The thread of a timeout is woken by the end
of the block (`_end_alarm`), or at the deadline.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType

from ._binding import Binding, Lifetime, find_binding
from ._current import current, sleep
from ._failure import log_lost_errors
from ._future import Future, Helper, current_helper, wrap_future
from ._group import Group
from ._interpreter import start_thread
from ._interrupts import in_new_thread
from ._numbers import timeout_in_seconds
from ._parker import Parker, Wakeable
from ._policy import StatePolicy
from ._registry import Registry
from ._stack import headroom
from ._states import Request, TearDown, owners
from ._submitter import StateOptions, Submitter
from ._task import NO_KEYWORDS, Watcher
from ._typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, cast
from ._view import StateView

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")
W = TypeVar("W", bound=Wakeable)


class Pool(Protocol):
    """The pool of a scope, as far as that needs it."""

    @property
    def _registry(self) -> Registry: ...

    def _own_binding(
        self, initargs: tuple[Any, ...], finalizer: Callable[[Any], object] | None, policy: StatePolicy[Any] | None
    ) -> Binding: ...


class Scope(Group, Submitter[S]):
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
    cancelled, it cancels what has not begun and joins all the same, and the cancellation goes on from there. In a
    worker of the pool, or without a running asyncio event loop, as under trio, it is a `RuntimeError`.

    In a worker, waiting for the end runs the scope's tasks that have not begun, there and then; what belongs to the
    thread (thread-locals, a transaction of a session) is the waiting task's then. In a forked child,
    whose parent has the tasks, the end waits for nothing and raises `BrokenThreadPool`, unless the body raised.

    One window remains, Python's own: when Ctrl-C arrives in the moment between the end of the body and the first
    instruction of `__exit__`, tasks are not joined. Of interrupts at random moments of a loop that does nothing but
    open scopes with one empty task, 1.3 % came then (`benchmarks/ctrl_c.py`); it is once a block, however long.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: Pool, fail_fast: bool, timeout: float | None) -> None:
        self._timeout: float | None = timeout_in_seconds("timeout", timeout, "wait for ever")
        super().__init__(fail_fast)
        self._pool = pool
        self._registry: Registry = pool._registry
        self._bindings: dict[object, Binding] = {}
        self._lifetime: Lifetime = Lifetime()
        self._entered: bool = False
        self._timed_out: bool = False
        self._alarm: Parker | None = None  # what the thread for the timeout sleeps on

    # Submitting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)` before the block ends, and return the future of it.

        Blocks and raises as the pool's `submit` does. Raises `RuntimeError` outside of the `with` block, and when the
        scope was cancelled.
        """
        return self._registry.put(fn, args, kwargs, None, self)

    _own_submit = submit

    def _put(self, watchers: tuple[Watcher], fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """As `Submitter` has it."""
        return self._registry.put(fn, args, NO_KEYWORDS, None, self, None, watchers)

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop; see the pool's."""
        return wrap_future(await self._registry.aput(fn, args, kwargs, None, self))

    def _closed_error(self) -> RuntimeError:
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

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        if initializer is None:
            return StateView(self._pool, self._pool._own_binding(*options), self)
        return StateView(self._pool, find_binding(self._bindings, initializer, *options, lifetime=self._lifetime), self)

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

    def _time_out(self) -> None:
        """At the deadline, in a thread of its own."""
        if not self._lifetime.over:
            self._timed_out = self._cancelled = True
            self._cancel_in_thread()

    # Joining

    def __enter__(self) -> Self:
        headroom()  # `__exit__`, at the same depth, must not fail for want of stack
        self._enter(current_helper(self._registry) is not None)
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
        from ._asyncio import check_loop

        check_loop(f"`async with` of {self!r}")
        if current_helper(self._registry) is not None:
            raise RuntimeError(
                f"{self!r} would keep the event loop waiting for {threading.current_thread().name}, which runs it: "
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
                for waiter in self._joined(LoopWaiter(None), exc is not None or interrupt is not None):
                    await (waiter.wait() if interrupt is None else waiter.wait_shielded())
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
                self._alarm = Parker()
                start_thread(_wait_for_deadline, (weakref.ref(self), self._alarm, self._timeout), self._alarm)
        except BaseException:
            self._closing = {"closed": True}
            self._end_alarm()
            raise

    def _end_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.wake()

    def _join(self, cancels: bool) -> None:
        helper = current_helper(self._registry) if self._runs_in_worker else None
        for parker in self._joined(Parker(), cancels):
            if helper is None:
                sleep(parker)
            else:
                helper.wait(parker, None)

    def _joined(self, joiner: W, cancels: bool) -> Iterator[W]:
        """Yield `joiner` whenever it is to be waited for, until all tasks have ended and all states are torn down.

        May be begun anew.
        """
        if cancels:
            self._cancelled = True
        if self._registry.forked:
            return
        self._joiner = joiner
        helper = current_helper(self._registry) if self._runs_in_worker else None
        self._helps = helper is not None
        while not self._try_close():
            if self._cancelled:
                self._cancel_pending()
            if helper is None or not self._run_pending(helper):
                yield joiner
        self._helps = False
        self._end_alarm()
        todo = self._ask_for_teardowns(joiner)
        while todo:
            yield joiner

    def _run_pending(self, helper: Helper) -> bool:
        """Run in this worker what has not begun. False when there was nothing."""
        tasks = [cast("Future[Any]", task) for task in self._pending.copy() if task._claim]
        tasks.reverse()
        found = bool(tasks)
        while tasks and not self._cancelled:
            helper.help(tasks.pop())
        return found

    def _ask_for_teardowns(self, joiner: Wakeable) -> dict[Request, None]:
        """The requests that have not been answered; each one that is wakes `joiner`."""
        self._lifetime.over = True  # before the look at who has states, see `Binding`
        todo: dict[Request, None] = {}
        for binding in list(self._bindings.values()):
            for owner in owners(binding):
                request = TearDown(joiner.wake, todo, binding)
                if owner is cast("object", current.worker):
                    request.answer(owner)
                else:
                    owner.ask(request)
        return todo

    def _outcome(self, error: BaseException | None, interrupted: bool) -> bool:
        """Raise what the block is to raise; True when the body's error was the scope's own doing."""
        if self._registry.forked and error is None:
            raise self._registry.close_reason()  # type: ignore[misc]  # tasks that this child has no news of
        failed = self._failures.copy()
        self._failures.clear()
        errors = [task._failure.error for task in failed] + self._lifetime.errors
        counted = _counted(len(failed), "task")
        if self._lifetime.errors:
            counted += f" and {_counted(len(self._lifetime.errors), 'teardown')}"
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
                _add_note(error, f"{counted} of {self!r} failed too")
            log_lost_errors(failed)
            if interrupted:
                raise error
            return False
        finally:
            error = group = None  # no cycle from an error by its traceback to this frame
            del errors, failed

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pending)} tasks"
        return f"<Scope of {self._registry.name}, {'cancelled, ' * self._cancelled}{state}>"


def _wait_for_deadline(ref: weakref.ref[Scope[Any]], alarm: Parker, timeout: float) -> None:
    """Until the deadline or the end of the scope, which this does not keep alive."""
    if alarm.park(timeout) or (scope := ref()) is None:
        return
    in_new_thread(scope._time_out)  # where callbacks may be called


def _add_note(error: BaseException, note: str) -> None:
    notes = map(BaseException.add_note, (error,), (note,))
    try:
        for _ in notes:  # no call stands here, after which a signal's handler could raise
            break
    except Exception:  # noqa: S110  # a frozen dataclass takes none
        pass
    finally:
        del error, notes  # no cycle from it by its traceback to this frame


def _mark_of(error: BaseException) -> object:
    """Of the scope whose own doing `error` is."""
    try:
        return object.__getattribute__(error, "_scope_mark")  # whatever the class of a user's error makes of that
    except AttributeError:
        return None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
