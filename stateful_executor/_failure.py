"""How a task failed, and the log entry when nobody looks at that."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextvars import Context

from ._naming import tell
from ._typing import Protocol

lost_errors = logging.getLogger("stateful_executor")
LOST = "lost error: task %s failed, and nobody took the error from its future"


class FailedTask(Protocol):
    """A task that has failed, as far as this module needs it."""

    _failure: Failure


class Failure:
    """How a task failed. Strictly private.

    Written by whoever ends the task, before its phase. Who takes the error sets `failures` and `lost` back to None;
    when two do so at once, the second does nothing that the first has not done.
    """

    __slots__ = ("error", "failures", "lost", "name")

    def __init__(self, error: BaseException, name: str) -> None:
        self.error = error
        self.name = name  # of the task's function
        self.failures: dict[FailedTask, None] | None = None  # where its scope keeps the task until the error is taken
        self.lost: LostError | None = None  # logs the error unless that is taken

    def silence(self) -> None:
        """The log is not to be bothered with it."""
        lost, self.lost = self.lost, None
        if lost is not None:
            lost.error = None


class LostError:
    """Held by a failed task, and by nothing else: when it is collected, nobody can take the error any more.

    Takes no lock of ours, since a collection can start anywhere. Asyncio does the same for its tasks. Logged in an
    empty context, lest tools file it under the request that the collection happens to be in.
    """

    __slots__ = ("_name", "error")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self.error: BaseException | None = error

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "error", None) is not None:  # None also when cut off before that
            try:
                Context().run(lost_errors.error, LOST, self._name, exc_info=self.error)
            except Exception:
                if not is_finalizing():  # else what this needs may be gone already
                    raise


def log_lost_errors(tasks: Iterable[FailedTask]) -> None:
    """Log the errors of `tasks`, which nobody has taken, nor will."""
    for task in tasks:
        failure = task._failure
        tell(lost_errors.error, LOST, failure.name, exc_info=failure.error)
