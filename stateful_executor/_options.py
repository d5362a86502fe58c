"""The options of a pool that have nothing to do with the state: their types, and what they may be."""

from __future__ import annotations

import operator
import os
from typing import TypedDict


class PoolOptions(TypedDict, total=False):
    """The keywords of the constructor that have nothing to do with the state."""

    max_backlog: int | None
    submit_timeout: float | None
    idle_timeout: float | None
    copy_context: bool


def checked_workers(max_workers: int | None) -> int:
    """The number of workers there may be, by default as many as in `ThreadPoolExecutor`."""
    if max_workers is None:
        cpus = getattr(os, "process_cpu_count", os.cpu_count)()
        return min(32, (cpus or 1) + 4)
    max_workers = operator.index(max_workers)
    if max_workers < 1:
        raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
    return max_workers


def checked_backlog(max_backlog: int | None, submit_timeout: float | None) -> int | None:
    """The bound of the backlog."""
    if max_backlog is not None and (max_backlog := operator.index(max_backlog)) < 1:
        raise ValueError(f"max_backlog must be at least 1 task, or None for no bound, not {max_backlog}")
    if submit_timeout is not None and max_backlog is None:
        raise ValueError("submit_timeout is for a bounded backlog: give max_backlog too")
    return max_backlog


def check_timeouts(submit_timeout: float | None, idle_timeout: float | None) -> None:
    """Raise ValueError unless both are seconds that may be waited for."""
    if submit_timeout is not None and not submit_timeout >= 0:
        raise ValueError(f"submit_timeout must be at least 0 seconds, or None to wait for ever, not {submit_timeout}")
    if idle_timeout is not None and not idle_timeout >= 0:
        raise ValueError(f"idle_timeout must be at least 0 seconds, or None to stay for ever, not {idle_timeout}")
