"""Where the library starts the thread of a worker: a call before it, or a failure instead of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from inside import Worker, hook


def before_start(then: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `then(worker)` called where each thread of a worker is started, with the lock of the workers held.

    What it raises is taken for a failure of the start.
    """
    original = getattr(*hook("PoolThread.starts"))

    def starts(worker: Worker) -> Iterator[object]:
        true_starts = original(worker)

        def start() -> object:
            then(worker)
            return next(true_starts)

        return iter(start, true_starts)

    monkeypatch.setattr(*hook("PoolThread.starts"), starts)


def fail_to_start(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """There is no thread to be had."""

    def fail(_: Any) -> NoReturn:
        raise type(error)(*error.args) if error is not None else RuntimeError("can't start new thread")

    before_start(fail, monkeypatch)


class Shortage:
    """Some of the pools' threads don't start: those whose number `fails` says so, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception | None = None) -> None:
        """`where`: "start" itself fails; "new_worker", before that; or a "Thread.start" that a tool has put there."""
        self.number = 0
        self.fails: Callable[[int], bool] = lambda number: True
        self.first: Callable[[], object] = int  # before the first one fails
        self.error = RuntimeError("can't start new thread") if error is None else error
        if where == "start":
            before_start(lambda _: self.count(), monkeypatch)
            return
        place: tuple[Any, str] = (
            (threading.Thread, "start") if where == "Thread.start" else hook("PoolThread.new_thread")
        )
        original = getattr(*place)

        def rationed(*args: Any) -> Any:
            if where == "new_worker" or isinstance(getattr(args[0]._target, "__self__", None), Worker):
                self.count()
            return original(*args)

        monkeypatch.setattr(*place, rationed)

    def count(self) -> None:
        self.number += 1
        if self.fails(self.number):
            first, self.first = self.first, int
            first()
            raise type(self.error)(*self.error.args)
