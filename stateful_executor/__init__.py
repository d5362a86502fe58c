"""`StatefulThreadPoolExecutor`: a `ThreadPoolExecutor` whose workers own a state, with a bounded backlog and scopes."""

# Where things are. A task enters at `_pool` (or `_scope`, `_view`, which only add themselves to it), waits in `_queue`,
# is begun by a `_worker`, borrows from `_state`, and ends in its `_future`.
#
#   _pool     StatefulThreadPoolExecutor: arguments, submit, map, scope, with_state, broadcast, stats, shutdown
#   _scope    Scope: a group of tasks joined at the end of a `with` block
#   _view     StateView: tasks that get a state
#   _queue    tasks in order, parked workers, the backlog's bound
#   _worker   one thread: begin, lend, call, give back, finish, drop
#   _state    the binding of an initializer, and the states made from it
#   _policy   StatePolicy: when a state is replaced
#   _stats    PoolStats, and what is counted for it
#   _future   Future: a task and its outcome
#   _map      map and map_unordered, for all doors
#   _waiter   one thread asleep
#   _exit     interpreter exit and fork

from typing import TYPE_CHECKING

from ._policy import StatePolicy
from ._pool import StatefulThreadPoolExecutor
from ._scope import Scope
from ._stats import PoolStats
from ._view import StateView
from .errors import BacklogFull, InitializerError

__all__ = [
    "BacklogFull",
    "InitializerError",
    "PoolStats",
    "Scope",
    "StatePolicy",
    "StateView",
    "StatefulThreadPoolExecutor",
]


if TYPE_CHECKING:  # which would take a module with `__getattr__` for one that has every name
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            from importlib.metadata import version

            return version("stateful-executor")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
