"""Objects whose end tests look at, tasks that are held, and ways to run a task, none of which keeps anything of it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from threads import PATIENCE

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]


class Thing:
    """Something that a weak reference can be made to."""

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        return Thing()


class Failure(Exception):
    """Unlike the builtin ones, something that a weak reference can be made to."""


class Blocked:
    """A task that has begun, and ends at the end of the `with` block."""

    def __init__(self, pool: Pool) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        self.future = pool.submit(self.run)
        assert self.begun.wait(PATIENCE)

    def run(self) -> None:
        self.begun.set()
        assert self.end.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end.set()


@contextmanager
def no_collector() -> Iterator[None]:
    """Whatever goes meanwhile goes since nothing refers to it, and not since a cycle was found."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_in_place(pool: Pool, fn: Any, arg: Any) -> Any:
    """In a task: the only worker runs the next task while this one waits for it."""
    return pool.submit(fn, arg, key=arg).result()


def run_inline(pool: Pool, fn: Any, arg: Any) -> Any:
    """In a task: the backlog is full, so the worker runs the next task there and then."""
    filler = pool.submit(int)
    future = pool.submit(fn, arg, key=arg)
    assert future.done()
    assert filler.cancel()
    try:
        return future.result(PATIENCE)
    finally:
        del future  # as in `outcome`


def outcome(made: Any) -> Any:
    """The result of what an entry point returned, or its error."""
    try:
        return next(made) if isinstance(made, Iterator) else made.result(PATIENCE)
    except Failure as exc:
        return exc
    finally:
        del made  # which the error would refer to, by its traceback and this frame
