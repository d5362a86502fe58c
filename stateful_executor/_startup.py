"""A worker's own state, before its first task; and what becomes of the pool when that can't be made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress

from ._binding import Binding
from ._future import Future
from ._naming import described, tell
from ._registry import Registry
from ._states import States
from ._typing import Any, Protocol
from ._workers import PoolWorker
from .errors import InitializerError

logger = logging.getLogger("concurrent.futures")


class Starting(Protocol):
    """The worker, as far as its start needs it."""

    registry: Registry
    states: States
    broadcasts: list[Future[Any]]

    def _park(self) -> bool: ...

    def _answer(self) -> None: ...

    def _is_dismissed(self) -> bool: ...

    def drop_broadcasts(self) -> None: ...


class NotNeeded(Exception):  # as `queue.Empty`
    """Raised instead of making an own state that nobody waits for any more, see `is_needed`."""


def is_needed(worker: PoolWorker, registry: Registry) -> bool:
    """Whether `worker` is still to have its own state, for which it has waited, and may wait for ever."""
    if worker.fn is not None:  # in a task
        return True
    # `too_many` may be true still when those too many have left.
    if registry.workers.too_many and registry.workers.dismiss(worker):
        return False
    return registry.close_reason is None or bool(registry.run_queue.pending())


class Startup:
    """Makes the own state of each of a pool's workers, before its first task. Strictly private.

    Its fields are written once. All is called in the worker's thread, which waits in `Mailbox._park` alone.
    """

    __slots__ = ("_binding", "may_lose_state")

    def __init__(self, binding: Binding | None) -> None:
        self._binding = binding
        self.may_lose_state: bool = binding is not None and binding.is_there is not None

    def run(self, worker: Starting) -> bool:
        """Run the pool's initializer, before the first task. False when the pool is broken, or ends before it works.

        In a pool that has worked before, a failure is the next task's, and no more than that one's: for the one after
        it the initializer runs again.
        """
        if self._binding is None:
            return True
        error = self._make_own_state(worker)
        if error is not None and isinstance(error.__cause__, NotNeeded):
            worker.drop_broadcasts()  # which it would never come to
            return False
        registry = worker.registry
        breakage = registry.workers.initializer_ended(None if error is None else _breakage(registry.name, error))
        if breakage is not None:
            if error is not None:  # it failed before it ever succeeded: no task will ever run
                tell(logger.critical, "Exception in initializer:", exc_info=error.__cause__)
                fail_all(registry, breakage)
            return False
        failures = [] if error is None else [error]
        error = None  # this frame may last for long
        return not failures or self._run_again(worker, failures)

    def has_lost_state(self, worker: Starting) -> bool:
        """Between tasks: whether there is no own state, or the one there was is not there any more, and dropped."""
        assert self._binding is not None
        assert self._binding.is_there is not None
        slot = worker.states.slot(self._binding)
        for state in slot.states.copy():
            if self._binding.is_there(state.value):
                return False
            state.discarded = True
            slot.drop_stale()
        return True

    def _run_again(self, worker: Starting, failures: list[InitializerError]) -> bool:
        """Fail one task with what is in `failures`; for the next one try again, until the state is made.

        False when this worker is to end. Keeps no error that it has given to a task.
        """
        workers, run_queue = worker.registry.workers, worker.registry.run_queue
        while True:
            worker._answer()
            if workers.too_many and worker._is_dismissed():
                return False
            if not (worker.broadcasts or run_queue.head or run_queue.tail):
                if not worker._park():
                    return False
                continue
            # The task stays in the run queue meanwhile: others may cancel it, or begin it.
            failures = failures or self._failures_to_start(worker)
            if not failures:
                return True
            if isinstance(failures[0].__cause__, NotNeeded):
                worker.drop_broadcasts()
                return False
            self._fail_next(worker, failures)

    def _failures_to_start(self, worker: Starting) -> list[InitializerError]:
        error = self._make_own_state(worker)
        return [] if error is None else [error]

    def _fail_next(self, worker: Starting, failures: list[InitializerError]) -> None:
        """Give the error in `failures` to the next task, if there is one yet."""
        registry = worker.registry
        while True:
            queue = worker.broadcasts or registry.run_queue.head
            try:
                task = queue[0]  # it stays there until it is claimed, lest it be lost if this is cut off
            except IndexError:
                if not registry.run_queue.next_segment():
                    return
                continue
            if fail(registry, task, failures[0]):
                failures.clear()
            with suppress(ValueError, IndexError):  # its turn may have come meanwhile
                queue.remove(task)
                registry.removal_failed(task)
            if not failures:
                return

    def _make_own_state(self, worker: Starting) -> InitializerError | None:
        assert self._binding is not None
        try:
            worker.states.slot(self._binding).prepare()
        except InitializerError as exc:
            return exc
        finally:
            worker.states.drop_overflow()
        return None


def fail(registry: Registry, task: Future[Any], error: BaseException, *, silenced: bool = False) -> bool:
    """As `Registry.fail_unbegun`, in a worker: what a callback raises is logged."""
    try:
        return registry.fail_unbegun(task, error, silenced=silenced)
    except BaseException:  # a callback's SystemExit
        tell(logger.critical, "callback of %r raised", task)
        return True


def fail_all(registry: Registry, breakage: Callable[[], Exception]) -> None:
    """The pool is broken: accept no task, and fail those there are. May be done again."""
    registry.close(breakage)
    for task in registry.run_queue.pending():
        fail(registry, task, breakage(), silenced=True)  # the log has the cause


def _breakage(name: str, error: InitializerError) -> Callable[[], Exception]:
    """What tasks of the pool `name` get from now on, should `error` break it."""
    cause = error.__cause__
    text = (
        f"{name} is broken: its initializer raised {described(cause)} before it had ever succeeded; "
        "no task will run any more, so make another pool"
    )

    def breakage() -> BrokenThreadPool:
        broken = BrokenThreadPool(text)
        broken.__cause__ = cause
        return broken

    return breakage
