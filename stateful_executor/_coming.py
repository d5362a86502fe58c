"""Workers that have been started: the next one, and those whose threads end too early."""

from __future__ import annotations

from contextlib import suppress

from ._registry import Registry
from ._workers import PACED, PoolWorker


def start_next(registry: Registry, worker: PoolWorker) -> None:
    """`worker` has come: see to the tasks that were left to it to look at.

    In its thread. May be done again. Whoever submits relies on it, see `Workers`.
    """
    workers = registry.workers
    workers.look_again()
    if PACED and workers.breakage is None and not registry.forked:
        with suppress(Exception):  # no thread to be had, or no memory for one: this one is there
            _see_to_tasks(registry)
    workers.has_come(worker)


def _see_to_tasks(registry: Registry) -> None:
    """Have a worker for each task that waits: one that is on its way, an idle one, or one more, which goes on with it.

    An idle one is woken though it may be about to find a task by itself: that is one task, and there may be more.
    """
    # Tasks are counted before those on their way: whoever takes one leaves `arriving` first, and is missed then.
    arriving = registry.workers.arriving
    if registry.run_queue.entries() <= len(arriving):
        return
    tasks = registry.backlog()  # looks at each task when there are tombstones among the entries
    missing = tasks - len(arriving)
    while missing > 0:
        if not registry.idle.wake_one():
            registry.workers.grow(late=True)
            return
        missing -= 1


def never_came(registry: Registry, worker: PoolWorker, error: Exception | None) -> None:
    """The thread of `worker` has ended, or was never started, before that was a worker; because of `error`.

    Others may rely on it: they are told, and another worker is started for the tasks.
    """
    relied = [] if error is None else registry.run_queue.pending()  # later ones start a worker themselves
    if not registry.workers.never_came(worker):
        return
    worker.drop_broadcasts()
    registry.workers.has_come(worker)
    registry.workers.has_ended(worker)
    if error is not None:
        registry.no_worker(error, relied)
    registry.waits.look(can_start=error is None)
    registry.notify_if_work_pending()
    with suppress(Exception):  # as in `start_next`
        _see_to_tasks(registry)
