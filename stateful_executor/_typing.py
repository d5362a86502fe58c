"""What a bare import of this package needs of `typing`, without the time that this takes to import.

Type checkers see the real ones. At runtime annotations are texts, and what stands in for the rest does as much as it
takes to subscript a class, and for `typing.get_type_hints` to find every name.
"""

from __future__ import annotations

import sys

__all__ = [
    "TYPE_CHECKING",
    "Any",
    "Concatenate",
    "Generic",
    "NoReturn",
    "ParamSpec",
    "Protocol",
    "Self",
    "TypeAlias",
    "TypeVar",
    "TypeVarTuple",
    "Unpack",
    "cast",
    "overload",
]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import (
        Any,
        Concatenate,
        Generic,
        NoReturn,
        ParamSpec,
        Protocol,
        Self,
        TypeAlias,
        TypeVarTuple,
        Unpack,
        cast,
        overload,
    )

    from typing_extensions import TypeVar  # with a default
else:
    from types import GenericAlias

    class Generic:
        """Base of what can be subscripted, and of protocols, at which only checkers look."""

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    class Concatenate:
        """Of parameters, of which only the last can stand for any number."""

        def __class_getitem__(cls, parameters):
            return parameters[-1]

    class Any:
        """As good as any."""

    Protocol = Unpack = Generic
    NoReturn = Self = TypeAlias = Any

    def cast(kind, value):
        return value

    def overload(function):
        return function

    if sys.version_info >= (3, 12):
        from _typing import ParamSpec, TypeVarTuple
        from _typing import TypeVar as _TypeVar
    else:

        class _TypeVar:
            """With a name."""

            def __init__(self, name):
                self.__name__ = name

        class ParamSpec(_TypeVar):
            """By its name and its module `collections.abc.Callable` knows it."""

            __module__ = "typing"
            args = kwargs = Any

        TypeVarTuple = _TypeVar

    def TypeVar(name, **kinds):
        return _TypeVar(name)
