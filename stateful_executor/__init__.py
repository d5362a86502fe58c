"""`StatefulThreadPoolExecutor`: a `ThreadPoolExecutor` whose workers own a state, with a bounded backlog and scopes.

`StatefulProcessPoolExecutor` is the same on processes.
"""

# ARCHITECTURE.md is the map: the layers, the life of a task, the protocols. The words used inside:
#
#   registry        what a pool and its workers share: run queue, permits, idle workers, all workers
#   run queue       tasks accepted and not begun, in order; `tail` takes new ones, workers take from `head`
#   claim           the one-item list of a task: whoever takes the item begins the task, or cancels it
#   fence           a list that two threads both touch, so that the second sees what the first had written before
#   tombstone       what a claimed task leaves in the run queue; compaction removes them
#   permit          the right of one task to stand in a bounded backlog (publicly: a place in the backlog)
#   park, wake      sleep on a lock of one's own until another thread releases it
#   idle            parked, or about to be, with nothing to do
#   searching       woken for a task, and not yet there to take it
#   help            run the task that one waits for, in place
#   caller runs     run the task that one submits, in place, since the backlog is full
#   mailbox         what is asked of one worker: requests to its states, its part of a broadcast
#   binding         how a kind of state is made and torn down; one for equal arguments
#   slot            one worker's states of one binding
#   lend            give a state to a task for the length of its call
#   generation      what `discard_all` changes in a binding: states of an older one are stale
#   lifetime        how long a scope's own states live
#   group           the tasks of a scope that have not ended
#   remote worker   a worker elsewhere, in a process of its own; a worker of ours has one, and lends it to each task
#   handle          a remote worker as that state of ours
#   server          what runs in a remote worker
#   wire            how calls, results and errors travel to it and back
#   helper, owner, home, member, holder   a worker, a pool or a task, as far as a lower layer needs one

from ._policy import StatePolicy
from ._pool import StatefulThreadPoolExecutor
from ._scope import Scope
from ._stats import PoolStats
from ._typing import TYPE_CHECKING
from ._view import StateView
from .errors import BacklogFull, InitializerError, WorkerLost

__all__ = [
    "BacklogFull",
    "InitializerError",
    "PoolStats",
    "Scope",
    "StatePolicy",
    "StateView",
    "StatefulProcessPoolExecutor",
    "StatefulThreadPoolExecutor",
    "WorkerLost",
]


if TYPE_CHECKING:  # which would take a module with `__getattr__` for one that has every name
    from ._process_pool import StatefulProcessPoolExecutor

    __version__: str
else:

    def __getattr__(name: str) -> object:
        if name == "StatefulProcessPoolExecutor":  # needs multiprocessing, which a pool of threads does not
            from ._process_pool import StatefulProcessPoolExecutor

            globals()[name] = StatefulProcessPoolExecutor
            return StatefulProcessPoolExecutor
        if name == "__version__":
            from importlib.metadata import version

            return version("stateful-executor")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
