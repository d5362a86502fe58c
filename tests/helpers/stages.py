"""Containers that call a hook at a step for which the library uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class Stage(deque[Any]):
    """A deque that tasks are put into, with hooks around its steps; each runs once."""

    before_append: Callable[[], object] | None = None
    after_append: Callable[[], object] | None = None
    before_popleft: Callable[[], object] | None = None
    before_look: Callable[[], object] | None = None  # before what locks it for a worker's look: extend(())

    def _run(self, moment: str) -> None:
        fn = getattr(self, moment)
        if fn is not None:
            setattr(self, moment, None)
            fn()

    def append(self, task: Any) -> None:
        self._run("before_append")
        super().append(task)
        self._run("after_append")

    def popleft(self) -> Any:
        self._run("before_popleft")
        return super().popleft()

    def extend(self, nothing: Any) -> None:
        self._run("before_look")
        super().extend(nothing)


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
