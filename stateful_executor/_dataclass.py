"""Frozen dataclasses without `dataclasses`, which takes longer to import than all of this package.

That module takes these for its own: `fields`, `replace`, `asdict` and the rest find what they look for. Type checkers
see its decorator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from reprlib import recursive_repr
from types import FunctionType

from ._typing import Any


def dataclass(*, frozen: bool, kw_only: bool = False) -> Callable[[type[Any]], type[Any]]:
    """As `dataclasses.dataclass`, for a class that is frozen, has no such base, and only plain fields."""
    assert frozen

    def decorate(cls: type[Any]) -> type[Any]:
        names = tuple(cls.__annotations__)
        attributes: dict[str, object] = {method.__name__: method for method in _methods(cls, names)}
        attributes["__match_args__"] = () if kw_only else names
        attributes["__init__"] = _init(cls, names, kw_only)
        for name in "__dataclass_fields__", "__dataclass_params__":
            attributes[name] = _MadeLater(cls, name, kw_only)
        for name, value in attributes.items():
            setattr(cls, name, value)
        return cls

    return decorate


class _MadeLater:
    """What `dataclasses` looks at in such a class, made by itself when it first does."""

    def __init__(self, cls: type[Any], name: str, kw_only: bool) -> None:
        self._cls = cls
        self._name = name
        self._kw_only = kw_only

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        from dataclasses import MISSING, field, make_dataclass

        cls, name = self._cls, self._name
        kinds = cls.__annotations__.items()
        fields = [(name, kind, field(default=vars(cls).get(name, MISSING))) for name, kind in kinds]
        made = getattr(make_dataclass(cls.__name__, fields, frozen=True, kw_only=self._kw_only), name)
        setattr(cls, name, made)
        return made


def _init(cls: type[Any], names: tuple[str, ...], kw_only: bool) -> Callable[..., None]:
    """Has the signature at which people and tools look. Not compiled for that, which would take longer."""
    variables = ("self", *names)
    positional = 1 if kw_only else len(variables)
    code = _template.__code__.replace(
        co_varnames=variables,
        co_nlocals=len(variables),
        co_argcount=positional,
        co_kwonlyargcount=len(variables) - positional,
        co_name="__init__",
        co_qualname="__init__",
        co_filename="<string>",  # as `dataclasses` has it
    )
    init = FunctionType(code, vars(sys.modules[cls.__module__]) | {"_fill": _fill}, "__init__")
    defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    if kw_only:
        init.__kwdefaults__ = defaults or None
    else:
        assert names[len(names) - len(defaults) :] == tuple(defaults)
        init.__defaults__ = tuple(defaults.values())
    init.__module__ = cls.__module__
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {**cls.__annotations__, "return": None}
    return init


def _template() -> None:
    _fill(**locals())


def _fill(self: Any, **values: object) -> None:
    vars(self).update(values)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _methods(cls: type[Any], names: tuple[str, ...]) -> list[Callable[..., Any]]:
    def values(self: object) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in names])

    def __repr__(self: object) -> str:
        fields = [f"{name}={value!r}" for name, value in zip(names, values(self), strict=True)]
        return f"{type(self).__qualname__}({', '.join(fields)})"

    __repr__.__qualname__ = "__create_fn__.<locals>.__repr__"  # by which `pprint` knows a dataclass
    shown: Any = recursive_repr()(__repr__)
    shown.__wrapped__ = __repr__

    def __eq__(self: object, other: object) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: object) -> int:
        return hash(values(self))

    def refuse(self: object, name: str, what: str) -> None:
        from dataclasses import FrozenInstanceError

        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot {what} field {name!r}")

    def __setattr__(self: object, name: str, value: object) -> None:
        refuse(self, name, "assign to")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: object, name: str) -> None:
        refuse(self, name, "delete")
        super(cls, self).__delattr__(name)

    def __replace__(self: Any, /, **changes: object) -> Any:  # from Python 3.13 on, for `copy.replace`
        from dataclasses import replace

        return replace(self, **changes)

    return [shown, __eq__, __hash__, __setattr__, __delattr__, __replace__]
