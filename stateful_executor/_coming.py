"""Workers that have been started: the next one, and those whose threads end too early."""

from __future__ import annotations

from contextlib import suppress

from ._registry import Registry
from ._workers import PACED, PoolWorker


def start_next(registry: Registry, worker: PoolWorker) -> None:
    """`worker` has come: start the next one, if there are more tasks than workers on their way.

    In its thread. May be done again. Whoever submits relies on it, see `Workers`.
    """
    workers = registry.workers
    workers.look_again()
    if (
        PACED
        and registry.run_queue.entries() > (arriving := len(workers.arriving))
        and registry.backlog() > arriving  # looks at each task when there are tombstones among the entries
        and not registry.idle.workers
        and workers.breakage is None
        and not registry.forked
    ):
        with suppress(Exception):  # no thread to be had, or no memory for one: this one is there
            workers.grow(late=True)
    workers.has_come(worker)


def never_came(registry: Registry, worker: PoolWorker, error: Exception | None) -> None:
    """The thread of `worker` has ended, or was never started, before that was a worker; because of `error`.

    Others may rely on it: they are told, and another worker is started for the tasks.
    """
    if not registry.workers.never_came(worker):
        return
    worker.drop_broadcasts()
    registry.workers.has_come(worker)
    registry.workers.has_ended(worker)
    if error is not None:
        registry.no_worker(error)
    registry.waits.look(can_start=error is None)
    registry.notify_if_work_pending()
