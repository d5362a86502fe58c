"""`StatefulThreadPoolExecutor`: arguments, and what makes it a `ThreadPoolExecutor`; the rest is any pool's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from ._decorator import decorator_of
from ._executor import StatefulExecutor, own_binding
from ._options import TaskDecorator, checked_backlog, checked_timeouts, checked_workers
from ._policy import StatePolicy
from ._private_names import PrivateNames, warn_of_hooks
from ._registry import Registry
from ._submitter import Yielding
from ._typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, overload

if TYPE_CHECKING:
    from ._options import PoolOptions

S = TypeVar("S", default=Any, covariant=True)
Ts = TypeVarTuple("Ts")

_numbers = count()


class StatefulThreadPoolExecutor(StatefulExecutor[S], PrivateNames):
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
        self._bindings = {}
        self._own = own_binding(self._bindings, initializer, initargs, finalizer, policy)
        name = thread_name_prefix or f"StatefulThreadPoolExecutor-{next(_numbers)}"
        decorate = None
        if copy_context or task_decorator is not None:
            decorate = decorator_of(copy_context, task_decorator)
        self._open(Registry(name, max_workers, max_backlog, *timeouts, decorate), self._own)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        warn_of_hooks(cls)

    # A private name of ThreadPoolExecutor's that code in the wild assigns; `PrivateNames` has the others

    @property
    def _max_workers(self) -> int:
        return self._registry.workers.max_workers

    @_max_workers.setter
    def _max_workers(self, max_workers: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.resize(max_workers)
