"""The options of a pool that have nothing to do with the state: their types, and what they may be."""

from __future__ import annotations

import os
from collections.abc import Callable

from ._numbers import timeout_in_seconds, whole_number
from ._typing import TYPE_CHECKING, Any, TypeAlias

TaskDecorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

if TYPE_CHECKING:
    from typing import TypedDict

    class PoolOptions(TypedDict, total=False):
        """The keywords of the constructor that have nothing to do with the state."""

        max_backlog: int | None
        submit_timeout: float | None
        idle_timeout: float | None
        exit_timeout: float | None
        copy_context: bool
        task_decorator: TaskDecorator | None


def checked_workers(max_workers: int | None) -> int:
    """The number of workers there may be, by default as many as in `ThreadPoolExecutor`."""
    if max_workers is None:
        cpus = getattr(os, "process_cpu_count", os.cpu_count)()
        return min(32, (cpus or 1) + 4)
    return _at_least_one(max_workers, "a whole number of threads, or None for the default")


def checked_processes(max_workers: int | None) -> int:
    """The number of processes there may be, by default as many as in `ProcessPoolExecutor`."""
    if max_workers is None:
        return getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return _at_least_one(max_workers, "a whole number of processes, or None for the default")


def checked_actors(max_workers: int) -> int:
    """The number of actors there may be: a cluster has no size to take for the default."""
    return _at_least_one(max_workers, "a whole number of actors")


def checked_size(max_workers: int) -> int:
    """What a pool is resized to: there the default is no number that anybody asked for."""
    return _at_least_one(max_workers, "a whole number of threads")


def _at_least_one(max_workers: int, meaning: str) -> int:
    max_workers = whole_number("max_workers", max_workers, meaning)
    if max_workers < 1:
        raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
    return max_workers


def checked_backlog(max_backlog: int | None, submit_timeout: float | None) -> int | None:
    """The bound of the backlog."""
    if max_backlog is None:
        if submit_timeout is not None:
            raise ValueError("submit_timeout is for a bounded backlog: give max_backlog too")
        return None
    max_backlog = whole_number("max_backlog", max_backlog, "a whole number of tasks, or None for no bound")
    if max_backlog < 1:
        raise ValueError(f"max_backlog must be at least 1 task, or None for no bound, not {max_backlog}")
    return max_backlog


def checked_timeouts(
    submit_timeout: float | None, idle_timeout: float | None, exit_timeout: float | None
) -> tuple[float | None, float | None, float | None]:
    """All three as clocks and locks take them."""
    if submit_timeout is idle_timeout is exit_timeout is None:  # as in most pools
        return None, None, None
    return (
        timeout_in_seconds("submit_timeout", submit_timeout, "wait for ever"),
        timeout_in_seconds("idle_timeout", idle_timeout, "stay for ever"),
        timeout_in_seconds("exit_timeout", exit_timeout, "wait for ever"),
    )
