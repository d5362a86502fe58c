"""What pools of remote workers have in common; the rest is any pool's."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from itertools import count
from typing import Any, ParamSpec, TypedDict, cast

from ._binding import Binding
from ._broadcast import broadcast
from ._executor import StatefulExecutor
from ._future import Future
from ._policy import StatePolicy
from ._remote import Handle, Start
from ._remote_registry import RemoteRegistry
from ._remote_state import dump_binding, view_binding
from ._remote_view import RemoteScope, RemoteView
from ._scope import Scope
from ._server import setup_of
from ._submitter import StateOptions
from ._typing import TypeVar
from ._view import StateView
from ._wire import Wire

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")


class RemoteOptions(TypedDict, total=False):
    """The keywords that every constructor has, and that have nothing to do with the state."""

    max_backlog: int | None
    submit_timeout: float | None
    idle_timeout: float | None
    exit_timeout: float | None


class RemoteExecutor(StatefulExecutor[S], concurrent.futures.Executor):
    """Base of the pools whose workers are elsewhere. Strictly private."""

    def _open_remote(
        self,
        registry: RemoteRegistry,
        wire: Wire,
        own: Binding | None,
        start: Callable[[bytes], Start],
        policy: StatePolicy[Handle],
    ) -> None:
        """The rest of the constructor. `start` is given what a worker's server is started with."""
        self._own = own
        setup = setup_of(wire, registry.name, None if own is None else dump_binding(wire, own))
        registry.prepare(start(setup), wire, own, policy)
        self._open(registry, registry.handles)

    def kill_worker(self, future: concurrent.futures.Future[Any]) -> bool:
        """Kill the process that runs the task of `future`, as for a native call that hangs; from any thread.

        True when it is killed: the task fails with `WorkerLost`, unless it has just ended, and the worker's states are
        gone without a teardown. False when the task is not running, or is none of this pool's: nothing happens then.
        """
        return self._remote.kill_worker(future)

    @property
    def _remote(self) -> RemoteRegistry:
        return cast("RemoteRegistry", self._registry)

    def broadcast(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> list[Future[T]]:
        """As in a pool of threads; a worker whose process has not started yet is not there."""
        return broadcast(self._registry, self._registry.maker(fn, args, kwargs), self._remote.there())

    def scope(self, *, fail_fast: bool = False, timeout: float | None = None) -> Scope[S]:
        """As in a pool of threads: `with pool.scope() as scope:` ends only when every task started in it has ended."""
        return RemoteScope(self, fail_fast, timeout)

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        if initializer is None:
            return RemoteView(self, self._own_binding(*options))
        remote = self._remote
        return RemoteView(self, view_binding(self._bindings, remote.handles, remote.wire, initializer, options))


_numbers = count()


def new_name(pool: object) -> str:
    """For a pool of that class."""
    return f"{type(pool).__name__}-{next(_numbers)}"
