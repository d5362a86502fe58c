"""`broadcast`: each worker once."""

from __future__ import annotations

from collections.abc import Callable, Container

from ._future import Future, current_helper
from ._group import Group
from ._interrupts import locked
from ._registry import Registry
from ._typing import TypeVar
from ._workers import PoolWorker

T = TypeVar("T")


def broadcast(
    registry: Registry, make: Callable[[], Future[T]], among: Container[object], scope: Group | None = None
) -> list[Future[T]]:
    """Have each worker that is in `among` run a task made by `make`, in the order of their indices."""
    if current_helper(registry) is not None or (scope is not None and scope._runs_in_worker):
        raise RuntimeError(
            f"a task of {registry.name} can't broadcast, since each worker's part is run between its tasks, this one "
            "included: call broadcast outside of the pool's workers"
        )
    if registry.close_reason is not None:
        raise registry.close_reason()
    if scope is not None and (scope._closed or scope._cancelled):
        raise scope._closed_error()
    registry.workers.settle()
    workers = locked(registry.workers.lock, lambda: list(registry.workers.live))
    there = [worker for worker in workers if worker in among]
    tasks: list[Future[T]] = []
    try:
        _hand_out(registry, make, sorted(there, key=lambda worker: worker.index), scope, tasks)
        return tasks
    except BaseException:
        for task in tasks:
            task._withdraw()
        raise


def _hand_out(
    registry: Registry,
    make: Callable[[], Future[T]],
    workers: list[PoolWorker],
    scope: Group | None,
    tasks: list[Future[T]],
) -> None:
    """Add to `tasks` what each of `workers` takes."""
    for worker in workers:
        task = make()
        tasks.append(task)
        task._target = worker
        if registry.decorate is not None:
            task._fn = registry.decorate(task._fn)  # type: ignore[arg-type]  # as in `put`
        if scope is not None:
            scope._add(task)
        if not worker.take_broadcast(task):
            tasks.pop()._withdraw()
