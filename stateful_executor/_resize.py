"""`resize`: more workers for the tasks that wait, or those too many leave."""

from __future__ import annotations

import _thread

from ._coming import see_to_tasks
from ._interrupts import in_new_thread, locked
from ._registry import Registry
from ._workers import PoolWorker


def resize(registry: Registry, max_workers: int) -> None:
    """Let there be `max_workers` workers. Ctrl-C leaves the old number or the new one, and workers that fit it."""
    if registry.close_reason is not None:
        raise registry.close_reason()
    try:
        registry.workers.set_most(max_workers)
        _fit(registry)
    except BaseException:
        try:
            _fit(registry)
        except BaseException:  # as in `Task._call_off`
            try:
                _thread.start_new_thread(in_new_thread, (_fit, registry))
            except RuntimeError:
                _fit(registry)
            raise  # as in `Registry.put`
        raise


def _fit(registry: Registry) -> None:
    """Ask those too many to leave, or start workers for the tasks that wait already. May be done again."""
    workers = registry.workers
    staying = locked(workers.lock, workers.fit)
    if workers.too_many:
        _nudge(registry, staying)
    elif workers.can_grow:
        error = see_to_tasks(registry, late=False)
        try:
            if error is not None:  # there is no thread to be had, and a worker that left may have relied on this one
                registry.no_worker(error)
                raise error
        finally:
            error = None  # as in `Registry._attend`


def _nudge(registry: Registry, staying: list[PoolWorker]) -> None:
    """Have as many idle ones look as are too many, the coldest first; everyone when there are fewer."""
    by_worker: dict[object, PoolWorker] = {worker: worker for worker in staying}
    idle = [by_worker[worker] for worker in registry.idle.workers.copy() if worker in by_worker]
    too_many = len(staying) - registry.workers.max_workers
    for worker in idle[:too_many] if len(idle) >= too_many else staying:
        worker.nudge()
