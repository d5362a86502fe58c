"""Workers that have been started: the next one, and those whose threads end too early."""

from __future__ import annotations

from contextlib import suppress

from ._future import Future
from ._registry import Registry
from ._typing import Any
from ._workers import PACED, PoolWorker

MOST_TRIES = 8  # to start a thread in place of one that had no memory, before tasks are left to those that are there


def start_next(registry: Registry, worker: PoolWorker) -> None:
    """`worker` has come: see to the tasks that were left to it to look at.

    In its thread. May be done again. Whoever submits relies on it, see `Workers`.
    """
    registry.workers.failed_in_a_row = 0
    registry.workers.look_again()
    if PACED:
        try:
            see_to_tasks(registry)
        except Exception:  # no memory for another one, and this one is there; or thrown into this thread, once
            with suppress(Exception):
                see_to_tasks(registry)
    registry.workers.has_come(worker)


def see_to_tasks(registry: Registry, *, late: bool = True) -> Exception | None:
    """Have a worker for each task that waits: one on its way, an idle one, or one more, which sees to those after it.

    An idle one is woken though it may be about to find a task by itself: that is one task, and there may be more.
    `late`: also in a closed pool, by one of its workers, for whose end a shutdown waits. Returns why there is none.
    """
    workers, run_queue = registry.workers, registry.run_queue
    if workers.breakage is not None or registry.forked or not run_queue.has_entries():  # locks both segments
        return None
    # Tasks are counted before those on their way: whoever takes one leaves `arriving` first, and is missed then. So
    # there may be one worker too many, never one too few.
    tasks = run_queue.entries()
    workers.arriving.update(())  # locks it
    if (run_queue.tombstones or run_queue.compacted) and tasks > len(workers.arriving):
        tasks = registry.backlog()  # looks at each task, as there may be tombstones among the entries
        workers.arriving.update(())
    for _ in range(tasks - len(workers.arriving)):
        if registry.idle.wake_one():
            continue
        error = workers.grow(late=late)
        if PACED or error is not None or workers.room <= 0:
            return error  # the one that comes goes on
    return None


def never_came(registry: Registry, worker: PoolWorker, error: Exception | None) -> None:
    """The thread of `worker` has ended, or was never started, before that was a worker; because of `error`.

    Others may rely on it: they are told, and another worker is started for the tasks. Whatever a callback raises.
    """
    relied = [] if error is None else registry.run_queue.pending()  # later ones start a worker themselves
    if not registry.workers.never_came(worker):
        return
    try:
        registry.workers.has_come(worker)
        worker.drop_broadcasts()
        if error is not None:
            registry.no_worker(error, relied)
    finally:
        try:
            _replace(registry, relied, can_start=error is None)
        finally:
            registry.workers.has_ended(worker)  # last: who joins is to find the next one


def _replace(registry: Registry, relied: list[Future[Any]], *, can_start: bool) -> None:
    registry.waits.look(can_start=can_start)
    workers = registry.workers
    workers.failed_in_a_row = 0 if can_start else workers.failed_in_a_row + 1
    if workers.failed_in_a_row > MOST_TRIES and set(registry.run_queue.pending()).issubset(relied):
        # Those that are there will do. To try again would go on for as long as they are there.
        registry.idle.wake_one()
        return
    registry.notify_if_work_pending()
    try:
        error = see_to_tasks(registry)
    except Exception as exc:  # as in `start_next`
        error = exc
    if error is not None:
        registry.no_worker(error)
