"""What a person is told: names of functions, errors, and log calls that can't fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import BuiltinMethodType

from ._current import current
from ._typing import Any

run_in: Callable[..., Any] = Context.run  # of a context, a function and its arguments


def name_of(fn: object) -> str:
    """What a person calls `fn`."""
    fn = _unwrapped(fn)
    try:
        name = fn.__qualname__  # type: ignore[attr-defined]
    except BaseException as exc:  # anything with a __getattr__ of its own; also SystemExit: there is a task to end
        _raise_interrupt(exc)
        name = None
    return name if type(name) is str else _name_of_type(type(fn))


_name_of_type: Callable[[type], str] = type.__dict__["__qualname__"].__get__  # whatever the class or its own type says


def described(thing: object) -> str:
    """`repr(thing)`, or what stands for it when that raises."""
    try:
        return repr(thing)
    except BaseException as exc:
        _raise_interrupt(exc)
        return f"<{_name_of_type(type(thing))}, whose repr raises>"


def tell(log: Callable[..., None], text: str, *args: object, exc_info: BaseException | bool | None = True) -> None:
    """`log(text, *args)` where nothing may be raised: handlers and filters are users' code."""
    try:
        log(text, *args, exc_info=exc_info, stacklevel=2)
    except BaseException as exc:
        _raise_interrupt(exc)
        with suppress(Exception):
            threading.excepthook(threading.ExceptHookArgs((type(exc), exc, exc.__traceback__, None)))


def _raise_interrupt(error: BaseException) -> None:
    """Ctrl-C is no user code's doing; in a worker, to which it does not come, KeyboardInterrupt is."""
    if isinstance(error, KeyboardInterrupt) and current.worker is None:
        raise error


def _unwrapped(fn: object) -> object:
    """`fn` without its partials, and the context that it runs in (see `_decorator`). Asks no user's code."""
    for _ in range(100):  # a partial of itself can be made
        if not issubclass(type(fn), partial):
            break
        func, args = fn.func, fn.args  # type: ignore[attr-defined]
        if func is run_in and len(args) > 1:
            fn = args[1]
        elif args and type(func) is BuiltinMethodType and type(func.__self__) is Context:
            fn = args[0]
        else:
            fn = func
    return fn


def cannot_copy(thing: object, remedy: str) -> TypeError:
    """The error of `pickle` and `copy`."""
    return TypeError(
        f"{thing!r} can't be pickled or copied, as its workers and their states live in this process: {remedy}"
    )
