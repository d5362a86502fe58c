"""`StateView`: submits tasks that get a state as their first argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ._binding import Binding
from ._broadcast import broadcast
from ._current import current
from ._future import Future, wrap_future
from ._group import Group
from ._map import InOrder, map_tasks, map_unordered
from ._naming import cannot_copy, name_of
from ._registry import Registry
from ._slot import Slot
from ._states import Owner, Replace, owners
from ._task import NO_KEYWORDS, Watcher
from ._typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
S = TypeVar("S", covariant=True)
T = TypeVar("T")


class Pool(Protocol):
    """The pool of a view, as far as that needs it."""

    @property
    def _registry(self) -> Registry: ...


class StateView(Generic[S]):
    """What `with_state()` of a pool or a scope returns: submits tasks that are lent their worker's state.

    A worker's state is lent to one task at a time. A task that runs inside another one of the same worker (since that
    one waits for it) is lent a second state of the same kind, and so is a call of a bound function in a task that
    holds a state already. Between tasks a worker has one state of each kind: the others are torn down when the
    outermost task ends, before its result is visible (a scope's own at the end of the scope, if that is earlier).

    Not an `Executor`, since its `submit` calls `fn(state, ...)`.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: Pool, binding: Binding, scope: Group | None = None) -> None:
        self._pool = pool  # which is not to be collected while there is a view on it
        self._registry: Registry = pool._registry
        self._binding = binding
        self._scope = scope

    def submit(self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(state, *args, **kwargs)`, and return the future of it.

        The worker makes its state first if it has none. Blocks and raises as the `submit` of the pool or scope that
        this view belongs to. The future gets `InitializerError`, with the initializer's own error as its cause, when
        the state can't be made; the next task tries again.
        """
        return self._registry.put(fn, args, kwargs, self._binding, self._scope)

    _own_submit = submit

    def _put(self, watchers: tuple[Watcher], fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """As `Submitter` has it."""
        return self._registry.put(fn, args, NO_KEYWORDS, self._binding, self._scope, None, watchers)

    async def asubmit(
        self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop; see the pool's."""
        return wrap_future(await self._registry.aput(fn, args, kwargs, self._binding, self._scope))

    def __reduce__(self) -> tuple[Any, ...]:
        """TypeError: neither `pickle` nor `copy` can have it."""
        raise cannot_copy(self, "make a pool where it is needed")

    def map(
        self,
        fn: Callable[Concatenate[S, P], T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the pool's `map`, with `fn(state, *items)`. A chunk is lent one state for all of its calls."""
        return map_tasks(self.submit, fn, iterables, timeout, chunksize, buffersize, InOrder())

    def map_unordered(
        self,
        fn: Callable[Concatenate[S, P], T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the pool's `map_unordered`, with `fn(state, *items)`. A chunk is lent one state for all of its calls."""
        return map_unordered(self, fn, iterables, timeout, chunksize, buffersize)

    def broadcast(self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs) -> list[Future[T]]:
        """Have each worker that holds such a state call `fn(state, *args, **kwargs)`, once; return the futures.

        As the pool's `broadcast`, for the workers that have ever needed such a state and have not ended. One whose
        state was discarded since makes a new one for it, as for any task. On a view of a scope the calls are the
        scope's tasks. `InitializerError` is in the future of a worker that could not make its state.
        """
        make = self._registry.maker(fn, args, kwargs, self._binding)
        return broadcast(self._registry, make, self._binding.holders, self._scope)

    def bind(self, fn: Callable[Concatenate[S, P], T]) -> Callable[P, T]:
        """Return a function that calls `fn(state, *args, **kwargs)` with the state of the worker that runs it.

        So that a task with a state goes through any `Executor` interface:
        `loop.run_in_executor(pool, view.bind(load_user), 42)`. (That blocks the loop while a bounded backlog is full;
        `await view.asubmit(load_user, 42)` does not.) The worker makes its state first if it has none. In a task that
        holds such a state already the call is lent another one. What `fn` raises counts for the policy as if a task had
        raised it. A call that still holds a scope's state delays the end of the scope.

        The function raises `RuntimeError` outside of the pool's workers, and when the view's scope has ended;
        `InitializerError` when the state can't be made.
        """
        name, binding = name_of(fn), self._binding
        what = f"{name} is bound to"

        def bound(*args: P.args, **kwargs: P.kwargs) -> T:  # which must not refer to itself: that would be a cycle
            return self._worker(what).states.call_bound(binding, fn, args, kwargs)  # type: ignore[no-any-return]

        bound.__name__ = bound.__qualname__ = name
        bound.__doc__ = getattr(fn, "__doc__", None)
        return bound

    def get(self) -> S:
        """Return the state lent to the task, or bound function, that calls this.

        Raises `RuntimeError` elsewhere: in another thread, and in a task that was not lent such a state, be it inside
        one that was.
        """
        return cast("S", self._slot_of("get").lent_last().value)

    def discard(self) -> None:
        """Have the state lent to the calling task replaced: it is torn down when the task ends.

        Raises `RuntimeError` where `get` does.
        """
        self._slot_of("discard").discard_last()

    def discard_all(self) -> None:
        """Have every such state made before now replaced, in all workers; from any thread.

        A task that begins after this has returned is not lent such a state. Those that are lent are torn down when
        their task ends; the others when their workers, which are told at once, come to it: this does not wait for
        that. A state whose initializer is running counts as made before now.
        """
        binding = self._binding
        binding.generation = object()  # before the look at who has states, see `Binding`
        for owner in owners(binding):
            slot = owner.states.slots.get(binding)
            if slot is not None:
                slot.expire()
            owner.ask(Replace(binding))

    def _worker(self, what: str) -> Owner:
        """The worker that the calling thread is."""
        worker = current.worker
        if worker is None or worker.registry is not self._registry:
            raise RuntimeError(
                f"{what} a state of {self._registry.name}, which only the workers of that pool have: "
                "call it in a task of the pool"
            )
        return worker  # type: ignore[return-value]  # this registry's workers are owners

    def _slot_of(self, method: str) -> Slot:
        """Where the state lent to the calling task is."""
        slot = self._worker(f"{method}() is for").states.lent_now(self._binding)
        if slot is None:
            raise RuntimeError(
                f"{method}() is for a task that holds a state made by {self._binding.name}, and this one does not: "
                "submit it through the view"
            )
        return slot

    def __repr__(self) -> str:
        return f"<StateView of {self._binding.name} on {self._scope or self._pool!r}>"
