"""Every lock that the library's objects hold, found by walking through them: by what they are, not by their names."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

PACKAGE = "stateful_executor"
LOCKS = (
    *(type(threading.Lock()), type(threading.RLock()), queue.SimpleQueue, queue.Queue),
    *(threading.Condition, threading.Event, threading.Semaphore, threading.Barrier),
)


def locks(*roots: object) -> dict[int, tuple[str, object]]:
    """What the package's modules, and `roots`, lead to: the lock by its number, and who holds it as "Class.attribute".

    The lock stands there as well, so that no other one gets its number.
    """
    found: dict[int, tuple[str, object]] = {}
    seen: dict[int, object] = {}
    todo: list[tuple[str, object]] = [("", root) for root in roots]
    todo += [(name, module) for name, module in list(sys.modules.items()) if name.partition(".")[0] == PACKAGE]
    while todo:
        name, thing = todo.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, LOCKS):
            found[id(thing)] = name, thing
        else:
            todo.extend((inner_name or name, inner) for inner_name, inner in held_by(thing))
    return found


def held_by(thing: object) -> Iterator[tuple[str, object]]:
    """What `thing` holds, with the name it has there, if it has one."""
    items: Iterable[object] = ()
    if isinstance(thing, dict):
        items = [*thing, *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        items = list(thing)
    elif isinstance(thing, (BuiltinMethodType, MethodType)):
        items = [thing.__self__]
    elif isinstance(thing, partial):
        items = [thing.func, *thing.args]
    elif isinstance(thing, FunctionType):
        items = [thing.__defaults__, thing.__kwdefaults__, [cell.cell_contents for cell in thing.__closure__ or ()]]
    elif is_ours(thing):
        yield from attributes(thing)
    for item in items:
        yield "", item


def is_ours(thing: object) -> bool:
    """Whether it is a module or a class of the package, or an object of one."""
    if isinstance(thing, ModuleType):
        return thing.__name__.partition(".")[0] == PACKAGE
    return (thing if isinstance(thing, type) else type(thing)).__module__.partition(".")[0] == PACKAGE


def attributes(thing: Any) -> Iterator[tuple[str, object]]:
    """What stands in an object, class or module of the package."""
    owner = thing.__name__ if isinstance(thing, (type, ModuleType)) else type(thing).__name__
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        yield f"{owner}.{name}", value
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name != "__weakref__" and hasattr(thing, name):
                yield f"{owner}.{name}", getattr(thing, name)
