"""`StatefulThreadPoolExecutor`: arguments, submit, map, scope, with_state, broadcast, resize, stats, shutdown."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVarTuple, overload

from typing_extensions import TypeVar, Unpack

from . import _interpreter
from ._binding import Binding, find_binding
from ._broadcast import broadcast
from ._decorator import decorator_of
from ._future import Future, current_helper, new_task, wrap_future
from ._naming import name_of
from ._options import PoolOptions, TaskDecorator, checked_backlog, checked_size, checked_timeouts, checked_workers
from ._policy import StatePolicy
from ._private_names import PrivateNames, warn_of_hooks
from ._registry import Registry, dropped, shut_down
from ._resize import resize
from ._scope import Scope
from ._snapshot import snapshot
from ._stats import PoolStats
from ._submitter import StateOptions, Submitter, Yielding
from ._view import StateView
from ._worker import Worker

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_numbers = count()


class StatefulThreadPoolExecutor(Submitter[S], PrivateNames):
    """A `concurrent.futures.ThreadPoolExecutor` whose workers own a state, with a bound on its backlog and scopes.

    With the standard library's arguments it behaves as the standard library's class, of which it is a subclass in name
    only: none of its machinery runs. What it adds:

    - What `initializer` returns is that worker's state: lent to one task at a time by `with_state()`, and torn down by
      `finalizer` in the worker's thread, on every path.
    - `max_backlog` makes `submit` block instead of queueing without end.
    - `scope()` joins tasks at the end of a `with` block.
    - Waiting in a worker for a task of the same pool does not deadlock: see `Future.result`.

    A pool that nobody refers to any more ends its workers; one that its own states, `initargs` or `task_decorator`
    refer to can't be collected, so shut it down. After `os.fork()` the child can't use a pool of the parent's: it
    raises `BrokenThreadPool`, and leaves the parent's states alone. A process that ends without an exit, by `os._exit`,
    `os.exec*` or a signal without a handler (SIGTERM, say), tears down nothing. From Python 3.12 on a subinterpreter
    has pools of its own, and ends them as it ends; 3.11 aborts when one ends that has a thread left, of any executor.

    Parameters:
        max_workers: The most threads there will be, until `resize`; `min(32, cpus + 4)` by default. They start on
            demand, idle ones are used first.
        thread_name_prefix: What the names of the threads begin with.
        initializer: Called by each worker when it starts, before its first task, outside of every lock. What it
            returns is the worker's state. A generator function, also one that `contextlib.contextmanager` decorates,
            yields the state; the rest of it is the teardown. The same goes for a generator that is returned. When
            it raises before it has ever succeeded, the pool is broken: its tasks, and `submit` from then on, raise
            `BrokenThreadPool` with that error as the cause. When it raises later, one task fails, with
            `InitializerError`, and the next one tries again.
        initargs: Arguments of `initializer`.
        finalizer: Called with the state in the worker's thread, once, when the worker ends. What it raises is logged
            (logger `stateful_executor`).
        policy: When a worker's state is checked, reset and replaced.
        max_backlog: The most tasks accepted and not begun, exactly; without bound by default. `submit` blocks while
            there are that many. In a worker of this pool it never blocks: it runs the new task there and then. In an
            event loop use `asubmit`, not `loop.run_in_executor`, which would block the loop; a warning is logged once.
        submit_timeout: For how many seconds a `submit` blocks before it raises `BacklogFull`; 0 never waits; without
            end by default.
        idle_timeout: After how many seconds without a task a worker tears down its states and ends; never by default.
            The worker that was busy last is used first, so those not needed retire. A worker counts as one of
            `max_workers` until its teardown has ended.
        exit_timeout: For how many seconds the interpreter's exit waits for this pool, from when it begins to wait for
            any; without end by default. Then it cancels what has not begun, logs the workers that have not ended and
            what they run (logger `stateful_executor`), and abandons them: their threads are daemons, which CPython
            stops wherever they are, so their states may never be torn down. 0 waits for nobody, not even for the
            teardown of idle workers. Timeouts of several pools run at the same time. Before that `with pool` and
            `shutdown` wait as ever, after it (in `atexit` handlers) for nobody; threads of yours wait as ever.
        copy_context: Run each task in a copy of the context variables of the thread or coroutine that submits it,
            taken by `submit`; what the task changes in it is gone when it ends. By default tasks share the context of
            their worker, which starts empty, and which the initializer may set. What a worker does between tasks runs
            in its own context; a state made inside a task in that one's.
        task_decorator: Called with each task's function, in the thread that submits the task, however that is done: by
            pool, view, scope, map or broadcast. The worker calls what it returns instead, with the positional arguments
            of the task, the state first if it gets one. Keywords are bound already, by a `functools.partial` that has
            the function's `__qualname__`. A chunk of a map is one task; so is each worker's part of a broadcast. What
            it raises comes out of `submit`, and the task is not accepted. With `copy_context` it is called before the
            copy is taken, and what it returns runs in the copy. Use `functools.wraps`, and logs and errors go on naming
            the task's function. (A subclass that overrides `submit` sees no tasks but the pool's own and its maps'.)

    Raises:
        ValueError: `max_workers` or `max_backlog` is less than 1, `submit_timeout`, `idle_timeout` or `exit_timeout` is
            negative, or a `finalizer`, a `policy` or a `submit_timeout` is given without what it is for.
        TypeError: One of these is no number, `initializer` or `finalizer` can't be called, `initargs` is no tuple,
            `initializer` is a coroutine function, or a generator function with a `finalizer` besides, `policy` is no
            `StatePolicy`, or `task_decorator` can't be called.
        RuntimeError: `exit_timeout` in a subinterpreter, which can't end while it has threads.

    An error of a task outside of a scope that nobody takes from its future, by `result()` or `exception()`, is
    logged (logger `stateful_executor`) with the name of the task's function when the future is collected. Those of a
    map are not once its iterator has raised or was closed.

    .. versionadded:: 0.1
    """

    # No initializer; one without initargs; one with initargs, by keyword; the same by position. Each but the first
    # stands twice, since a checker tells a generator function from the rest only by taking it first. The `...` is there
    # to have one overload for both, keyword and position; a call without an initializer is the first overload's.
    @overload
    def __init__(
        self: StatefulThreadPoolExecutor[None],
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: None = None,
        initargs: tuple[()] = (),
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], Yielding[S]] = ...,
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], S] = ...,
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        *,
        initializer: Callable[[*Ts], Yielding[S]],
        initargs: tuple[*Ts],
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        *,
        initializer: Callable[[*Ts], S],
        initargs: tuple[*Ts],
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initializer: Callable[[*Ts], Yielding[S]],
        initargs: tuple[*Ts],
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initializer: Callable[[*Ts], S],
        initargs: tuple[*Ts],
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
        max_backlog: int | None = None,
        submit_timeout: float | None = None,
        idle_timeout: float | None = None,
        exit_timeout: float | None = None,
        copy_context: bool = False,
        task_decorator: TaskDecorator | None = None,
    ) -> None:
        # The base class's __init__ is not called: nothing of its machinery is wanted.
        max_workers = checked_workers(max_workers)
        max_backlog = checked_backlog(max_backlog, submit_timeout)
        timeouts = checked_timeouts(submit_timeout, idle_timeout, exit_timeout)
        self._bindings: dict[object, Binding] = {}
        self._own: Binding | None = None
        if initializer is not None:
            self._own = find_binding(self._bindings, initializer, initargs, finalizer, policy)
        elif finalizer is not None:
            raise ValueError(f"finalizer {name_of(finalizer)} has no state to tear down: give an initializer too")
        elif policy is not None:
            raise ValueError(f"{policy!r} has no state to look after: give an initializer too")
        name = thread_name_prefix or f"StatefulThreadPoolExecutor-{next(_numbers)}"
        decorate = decorator_of(copy_context, task_decorator)
        registry = Registry(name, max_workers, max_backlog, *timeouts, decorate)
        self._registry: Registry = _opened(registry, self._own)
        # When the pool is collected its workers finish what is queued, tear down and end. Takes no lock, since a
        # collection can start anywhere. Not kept here: a weakref that is collected with its pool calls nobody.
        self._registry.pool = weakref.ref(self, dropped(self._registry))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        warn_of_hooks(cls)

    # Submitting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)`, and return the future of it.

        Blocks while the backlog has `max_backlog` tasks. In a worker of this pool it runs the new task before it
        returns instead: hold no lock there that the task needs. In an event loop, where this and
        `loop.run_in_executor(pool, fn)` would block all else (for ever, if tasks wait for the loop), use `asubmit`.

        Raises:
            BacklogFull: No place came free within `submit_timeout` seconds.
            BrokenThreadPool: The initializer failed before it ever succeeded, or this is a forked child process.
            RuntimeError: After `shutdown`, also when that comes while this blocks; when the interpreter exits; or when
                no thread can be started and there is none.

        Whatever is raised, Ctrl-C included: the task was not accepted, and takes no place.
        """
        return self._registry.put(fn, args, kwargs)

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop.

        `await pool.asubmit(fn)` returns when the task is accepted, with an `asyncio.Future` of it to await in turn.
        Cancelled while it waits for a place, the task is not accepted. In a worker of this pool the task is queued
        over the bound. Raises as `submit` does, and `RuntimeError` without a running asyncio event loop.
        """
        return wrap_future(await self._registry.aput(fn, args, kwargs))

    def broadcast(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> list[Future[T]]:
        """Have each worker there is call `fn(*args, **kwargs)`, once, and return the futures in the workers' order.

        A busy worker does so when the task that it runs has ended, before any other that waits; an idle one at once.
        The calls take no place in the backlog. None is made for a worker that is about to end, or that starts after
        this call: `initializer` is for what every worker needs. `shutdown` without `cancel_futures` lets them run.

        Raises `RuntimeError` in a worker of this pool, and after `shutdown`; `BrokenThreadPool` as `submit`. So does
        `result()` of such a future in the worker that is to run it.
        """
        make = partial(new_task, self._registry, fn, args, kwargs, None)
        return broadcast(self._registry, make, self._registry.workers.live)

    def resize(self, max_workers: int) -> None:
        """Let there be at most `max_workers` workers from now on; does not wait. From any thread, a worker's too.

        More start on demand, at once for tasks that wait already. Those too many tear down their states and end: idle
        ones now, others after their task, whoever ends its task first. Until their teardown has ended they count as
        workers, so that there are more than `max_workers`. To assign `_max_workers` does the same.

        Raises as the constructor does, `TypeError` for None too; and as `submit`, after `shutdown` say.

        .. versionadded:: 0.1
        """
        resize(self._registry, checked_size(max_workers))

    # Scopes and states

    def scope(self, *, fail_fast: bool = False, timeout: float | None = None) -> Scope[S]:
        """Return a scope: `with pool.scope() as scope:` ends only when every task started in it has ended.

        Parameters:
            fail_fast: The first task that raises cancels what has not begun, and later submits raise `RuntimeError`.
            timeout: Seconds from the beginning of the block, after which what has not begun is cancelled, later
                submits raise `RuntimeError`, and so the end of the block raises `TimeoutError`. 0 lets nothing begin.
        """
        return Scope(self, fail_fast, timeout)

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        if initializer is None:
            return StateView(self, self._own_binding(*options))
        return StateView(self, find_binding(self._bindings, initializer, *options))

    def _own_binding(
        self, initargs: tuple[Any, ...], finalizer: Callable[[Any], object] | None, policy: StatePolicy[Any] | None
    ) -> Binding:
        if initargs or finalizer is not None or policy is not None:
            raise ValueError("with_state() takes initargs, finalizer and policy only together with an initializer")
        if self._own is None:
            raise ValueError(f"{self!r} has no initializer, hence no state: give one to the pool or to with_state()")
        return self._own

    # Looking

    def stats(self) -> PoolStats:
        """Return a snapshot of what this pool does and has done, also after `shutdown`. Takes no longer when busy."""
        return snapshot(self._registry)

    # Ending

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Accept no more tasks; workers finish what is queued, tear down their states and end.

        A `submit` that blocks raises `RuntimeError`. May be called more than once, from any thread.

        Parameters:
            wait: Return only when every worker has ended.
            cancel_futures: Cancel what has not begun.
            timeout: Wait for at most this many seconds; the shutdown itself goes on after that.

        Raises:
            TimeoutError: With the workers that have not ended, and what they run.
            RuntimeError: `wait` in a worker of this pool, which would wait for itself.
        """
        registry = self._registry
        registry.close(shut_down)
        if cancel_futures:
            registry.workers.settle()  # as if each submit had waited for the worker that it started
            registry.cancel_waiting()
        if not wait:
            return
        if current_helper(registry) is not None:
            raise RuntimeError(
                f"a task of {registry.name} can't wait for the pool to end: call shutdown(wait=False) there"
            )
        if not registry.join(timeout):
            raise TimeoutError(f"{registry.name} has not ended after {timeout} seconds: {registry.still_running()}")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """`shutdown()`; Ctrl-C, in the body or while this waits, cancels what has not begun. A second one leaves."""
        try:
            self.shutdown(cancel_futures=isinstance(exc, KeyboardInterrupt))
        except KeyboardInterrupt:
            self.shutdown(cancel_futures=True)
            raise
        return None

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        stats = self.stats()
        bound = "" if self._registry.permits is None else f" of {self._registry.permits.size}"
        blocked = f", {stats.blocked_submitters} submitters blocked" if stats.blocked_submitters else ""
        states = stats.states_made - stats.states_torn_down
        closed = "" if self._registry.close_reason is None else ", closed"
        return (
            f"<{type(self).__name__} {self._registry.name}: {stats.workers} of {self._max_workers} workers, "
            f"{stats.idle} idle, {states} states; {stats.running} tasks running, {stats.backlog}{bound} in the backlog"
            f"{blocked}{closed}>"
        )

    # A private name of ThreadPoolExecutor's that code in the wild assigns; `PrivateNames` has the others

    @property
    def _max_workers(self) -> int:
        return self._registry.workers.max_workers

    @_max_workers.setter
    def _max_workers(self, max_workers: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.resize(max_workers)


def _opened(registry: Registry, own: Binding | None) -> Registry:
    """Tell `registry` how to make workers. Apart from the pool's class, so that nothing here refers to the pool."""
    registry.workers.new_worker = lambda: Worker(registry, own)
    _interpreter.register(registry)
    return registry
