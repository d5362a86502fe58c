"""What each task's function goes through in the thread that submits it: `task_decorator`, `copy_context`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial, update_wrapper

from ._naming import name_of, run_in
from ._options import TaskDecorator
from ._typing import Any


def decorator_of(copies_context: bool, task_decorator: TaskDecorator | None) -> TaskDecorator | None:
    """What `Registry.decorate` is; None when tasks are left as they are."""
    if task_decorator is None:
        return _in_copied_context if copies_context else None
    if not callable(task_decorator):
        raise TypeError(f"task_decorator must be a callable that is given a callable, not {task_decorator!r}")

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(fn, partial):  # most often what `submit` made, to bind keywords: it gets the name of the function
            fn = update_wrapper(partial(fn), fn.func, updated=())
        decorated = task_decorator(fn)
        if not callable(decorated):
            raise TypeError(
                f"task_decorator {name_of(task_decorator)} returned {decorated!r} for {name_of(fn)}, and no callable: "
                "have it return the function, or one that calls it"
            )
        return _in_copied_context(decorated) if copies_context else decorated

    return decorate


def _in_copied_context(fn: Callable[..., Any]) -> Callable[..., Any]:
    return partial(run_in, copy_context(), fn)  # without a bound method, which would take 150 ns more
