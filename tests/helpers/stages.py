"""Containers that call a hook at a step for which the library uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class OnFirstEntry(dict[Any, None]):
    """Calls `then(key)` right after the first key has entered."""

    def __init__(self, then: Callable[[Any], object], entries: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(entries))
        self._then: Callable[[Any], object] | None = then

    def __setitem__(self, key: Any, value: None) -> None:
        super().__setitem__(key, value)
        then, self._then = self._then, None
        if then is not None:
            then(key)
