"""The exceptions of `stateful_executor`. `BrokenThreadPool` is the standard library's own."""

from concurrent.futures import BrokenExecutor
from concurrent.futures.thread import BrokenThreadPool

__all__ = ["BacklogFull", "BrokenThreadPool", "InitializerError", "WorkerLost"]


class BacklogFull(RuntimeError):
    """No place in the backlog came free within `submit_timeout` seconds. The task was not accepted.

    .. versionadded:: 0.1
    """

    __module__ = "stateful_executor"


class InitializerError(RuntimeError):
    """The state that a task needed could not be made; `__cause__` is the initializer's own error.

    Only that task fails: the next one that needs the state tries again.

    .. versionadded:: 0.1
    """

    __module__ = "stateful_executor"


class WorkerLost(BrokenExecutor):
    """The worker process that ran the task is gone: killed, crashed, or ended by the task itself.

    The task may have run in full, in part, or not at all; it is not run again. The states of that worker are gone
    without a teardown. Only this task fails: the next one finds a new worker, with new states.

    .. versionadded:: 0.1
    """

    __module__ = "stateful_executor"
