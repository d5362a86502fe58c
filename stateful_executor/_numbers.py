"""Numbers that users give, counts and seconds: as the rest takes them, or an error that names them."""

from __future__ import annotations

import operator
from contextlib import suppress

from ._typing import Any


def whole_number(name: str, number: object, meaning: str) -> int:
    """`number` as an int; TypeError when it is none. `meaning` is what it may be, for a person."""
    try:
        return operator.index(number)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise TypeError(f"{name} must be {meaning}, not {number!r}") from None


def in_seconds(name: str, number: Any, meaning: str) -> float:
    """`number` as clocks and locks take it: they know no `Fraction`, no `Decimal`, and no float of numpy's."""
    if isinstance(number, (int, float)):
        return number
    if not isinstance(number, (str, bytes)):  # which `float` would take
        with suppress(TypeError, ValueError):
            return float(number)
    raise TypeError(f"{name} must be {meaning}, not {number!r}")


def timeout_in_seconds(name: str, number: Any, none: str) -> float | None:
    """`number` of at least 0 seconds, or None; `none` is what None means, for a person."""
    if number is None:
        return None
    seconds = in_seconds(name, number, f"a number of seconds, or None to {none}")
    if not seconds >= 0:  # neither is nan
        raise ValueError(f"{name} must be at least 0 seconds, or None to {none}, not {number}")
    return seconds
