"""What a pool and a scope have in common: `map`, `map_unordered`, `with_state`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

from ._future import Future
from ._map import InOrder, map_tasks, map_unordered
from ._naming import cannot_copy
from ._policy import StatePolicy
from ._task import Watcher
from ._typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeAlias, TypeVar, TypeVarTuple, overload
from ._view import StateView

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
V = TypeVar("V")

# What an initializer returns that yields the state.
Yielding: TypeAlias = "Generator[V, Any, Any] | _GeneratorContextManager[V]"

# initargs, finalizer and policy.
StateOptions: TypeAlias = "tuple[tuple[Any, ...], Callable[[Any], object] | None, StatePolicy[Any] | None]"


class Submitter(Generic[S]):
    """Base of what tasks are submitted through. Has no fields. Strictly private."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As the pool or the scope has it."""
        raise NotImplementedError

    _own_submit = submit

    def _put(self, watchers: tuple[Watcher], fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """As `_own_submit`; `watchers` are told when the task has ended."""
        raise NotImplementedError

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        """The view that `with_state` returns."""
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        """TypeError: neither `pickle` nor `copy` can have it."""
        raise cannot_copy(self, "make a pool where it is needed")

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over `fn(*items)` for the items of `iterables`, in their order.

        Parameters:
            timeout: Seconds from this call on, after which the iterator raises `TimeoutError` instead of waiting.
            chunksize: How many calls make one task. What came before an error in the same chunk is yielded first. The
                results of a chunk are kept until the last of them has been asked for.
            buffersize: The most tasks submitted whose results have not been yielded; the input is read no further
                than that. By default all are submitted before this returns.

        What has not begun when the iterator is closed, or raises, is cancelled.
        """
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize, InOrder())

    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over `fn(*items)` for the items of `iterables`, each as soon as it is there.

        The parameters are those of `map`. An error is raised when the task that failed comes first among those that
        have ended. In a worker of this pool, the next item is got by running a task that has not begun, in place: use
        it there instead of `concurrent.futures.as_completed`, which only waits. What belongs to the thread
        (thread-locals, a transaction of a session) is the waiting task's then.
        """
        return map_unordered(self, fn, iterables, timeout, chunksize, buffersize)

    @overload
    def with_state(self) -> StateView[S]: ...
    @overload
    def with_state(
        self, initializer: Callable[[], Yielding[T]], *, policy: StatePolicy[T] | None = None
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
        initializer: Callable[[*Ts], Yielding[T]],
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
        """Return a view whose tasks get a state of the worker that runs them as their first argument.

        Without arguments: the pool's own state. With an `initializer`, another one, which each worker makes when it
        first needs it and keeps until it ends; that of a scope is torn down before its block ends, and what the
        teardown raises is raised with the errors of the tasks. Views with equal arguments share their states; a fresh
        lambda each time is never equal, and so makes new states each time.

        Parameters:
            initializer, initargs, finalizer, policy: As the pool's own.

        Raises:
            ValueError: No `initializer`, and the pool has none either.
            TypeError: As the pool's constructor.
        """
        return self._view(initializer, (initargs, finalizer, policy))
