"""`pool.stats()`."""

from __future__ import annotations

import time

from ._interrupts import locked
from ._registry import Registry
from ._stats import Counts, PoolStats
from ._workers import PoolWorker


def snapshot(registry: Registry) -> PoolStats:
    """Look at all that counts, from the end of a task's life to its beginning.

    A task leaves the backlog before it counts as running, and that before it counts as ended. Looked at the other way
    round, a task between two of them may be missed, but none is counted twice.
    """
    pool, permits, lock = registry.counts, registry.permits, registry.workers.lock
    counts = Counts()

    def begin() -> list[PoolWorker]:  # who retires leaves `live` and enters `retired_counts` in one go
        counts.add(registry.workers.retired_counts)
        return list(registry.workers.live)

    seconds_blocked = 0.0 if permits is None else locked(permits.lock, lambda: permits.seconds_blocked)
    workers = locked(lock, begin)
    for worker in workers:
        counts.add(worker.counts)
        counts.completed += worker.completed
    completed = counts.completed + pool.completed.value()
    failed = counts.failed + pool.failed.value()
    cancelled = pool.cancelled.value()
    withdrawn = pool.withdrawn.value()
    running = sum((worker.fn is not None) + worker.nested_tasks for worker in workers)
    waiting_since = [] if permits is None else list(permits.waiters.values())
    now = time.monotonic()
    backlog = registry.backlog()
    run_queue = registry.run_queue
    run_queue.raise_high_water(backlog)
    submitted, seconds_blocked = pool.never_less(
        lock,
        backlog + running + completed + failed + cancelled,
        withdrawn,
        seconds_blocked + sum(now - since for since in waiting_since),
    )
    return PoolStats(
        workers=sum(not worker.ended for worker in workers),
        idle=len(registry.idle.workers),
        running=running,
        backlog=backlog,
        peak_backlog=run_queue.high_water,
        blocked_submitters=len(waiting_since),
        seconds_blocked=seconds_blocked,
        submitted=submitted,
        completed=completed,
        failed=failed,
        cancelled=cancelled,
        states_made=counts.made,
        seconds_making=counts.seconds_making,
        states_discarded=counts.discarded,
        states_torn_down=counts.torn_down,
        teardown_errors=counts.teardown_errors,
    )
