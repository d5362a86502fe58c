"""A door to the pool whose tasks get a state as their first argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from ._future import Future, wrap_future
from ._map import map_tasks

if TYPE_CHECKING:
    import asyncio

    from ._pool import StatefulThreadPoolExecutor
    from ._scope import Scope
    from ._state import Binding

P = ParamSpec("P")
S = TypeVar("S", covariant=True)
T = TypeVar("T")


class StateView(Generic[S]):
    """What `with_state()` of a pool or a scope returns: submits tasks that are lent their worker's state.

    A worker's state is lent to one task at a time. A task that runs inside another one of the same worker (since that
    one waits for it) is lent a second state, which is torn down when the outer task ends.

    Not an `Executor`, since its `submit` calls `fn(state, ...)`.

    .. versionadded:: 0.1
    """

    def __init__(self, door: StatefulThreadPoolExecutor[Any] | Scope[Any], binding: Binding) -> None:
        self._door = door
        self._binding = binding

    def submit(self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(state, *args, **kwargs)`, and return the future of it.

        The worker makes its state first if it has none. Blocks and raises as the `submit` of the pool or scope that
        this view belongs to. The future gets `InitializerError`, with the initializer's own error as its cause, when
        the state can't be made; the next task tries again.
        """
        return self._door._put(Future(self._door._queue, fn, args, kwargs, self._binding))

    async def asubmit(
        self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop; see the pool's."""
        task: Future[T] = Future(self._door._queue, fn, args, kwargs, self._binding)
        await self._door._aput(task)
        return wrap_future(task)

    def map(
        self,
        fn: Callable[Concatenate[S, P], T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the pool's `map`, with `fn(state, *items)`. A chunk is lent one state for all of its calls."""
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def __repr__(self) -> str:
        return f"<StateView of {self._binding.name} on {self._door!r}>"
