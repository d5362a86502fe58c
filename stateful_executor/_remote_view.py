"""Views and scopes on remote workers: what a task may take along, and where states are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from ._broadcast import broadcast
from ._future import Future
from ._naming import name_of
from ._remote_registry import RemoteRegistry
from ._remote_state import Renew, key_of, view_binding
from ._scope import Scope
from ._server import view_here
from ._states import Owner, owners
from ._submitter import StateOptions
from ._view import StateView
from ._wire import OWN

P = ParamSpec("P")
S = TypeVar("S", covariant=True)
T = TypeVar("T")


class RemoteView(StateView[S]):
    """A view whose states are in remote workers. A task may take it along, for its `get`, `discard` and `bind`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """To be unpickled in a worker of the pool, where it can't submit."""
        registry = cast("RemoteRegistry", self._registry)
        if self._binding is registry.own:
            return view_here, (registry.name, OWN)
        registry.send_view(self._binding)
        return view_here, (registry.name, key_of(self._binding))

    def bind(self, fn: Callable[Concatenate[S, P], T]) -> Callable[P, T]:
        """As on threads: what this returns can be sent to the pool's workers, as far as `fn` can."""
        return cast("Callable[P, T]", BoundFunction(self, fn))

    def broadcast(self, fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs) -> list[Future[T]]:
        """As on threads; a worker whose process has not started yet is not there."""
        registry = cast("RemoteRegistry", self._registry)
        among = registry.there() if self._binding is registry.own else self._binding.holders
        return broadcast(registry, registry.maker(fn, args, kwargs, self._binding), among, self._scope)

    def discard_all(self) -> None:
        """As on threads."""
        super().discard_all()
        registry = cast("RemoteRegistry", self._registry)
        if self._binding is registry.own:
            for owner in owners(registry.handles):
                owner.ask(Renew(registry.handles, self._binding))

    def _worker(self, what: str) -> Owner:
        raise RuntimeError(
            f"{what} a state of {self._registry.name}, which only the workers of that pool have, in their processes: "
            "send the view along with a task, and call it there"
        )


class BoundFunction(Generic[T]):
    """What `bind` of a remote view returns. Immutable."""

    def __init__(self, view: StateView[Any], fn: Callable[..., T]) -> None:
        self._view = view
        self._fn = fn
        self.__qualname__ = self.__name__ = name_of(fn)
        self.__doc__ = getattr(fn, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        worker = self._view._worker(f"{name_of(self._fn)} is bound to")
        return cast("T", worker.states.call_bound(self._view._binding, self._fn, args, kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundFunction, (self._view, self._fn)


class RemoteScope(Scope[S]):
    """A scope on remote workers: its own states are in there, and torn down before the block ends, as on threads."""

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        registry = cast("RemoteRegistry", self._registry)
        if initializer is None:
            return RemoteView(self._pool, self._pool._own_binding(*options), self)
        made = view_binding(self._bindings, registry.handles, registry.wire, initializer, options, self._lifetime)
        return RemoteView(self._pool, made, self)
