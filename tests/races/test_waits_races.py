"""Workers that begin to wait, start, leave and are told at the same moment: staged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from inside import hook, inside
from threads import PATIENCE, until, where

from stateful_executor import StatefulThreadPoolExecutor

LATE = 0.05  # seconds: not over before the first worker is where it is to be held


class Staged:
    """Two workers in tasks that submit one more and wait for it; the first is held between two steps of that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: str, workers: int = 2) -> None:
        self.moment = moment
        self.there, self.go_on = threading.Event(), threading.Event()
        self.held: list[int] = []
        self.pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(workers)
        self.look = getattr(*hook("Waits.look"))
        monkeypatch.setattr(*hook("Waits.look"), self.staged_look())

    def staged_look(self) -> Callable[..., None]:
        true_look, stage = self.look, self

        def look(waits: Any, **kwargs: Any) -> None:
            mine = not stage.held and not kwargs  # of a worker, and not of who finds no room for one
            if mine:
                stage.held.append(threading.get_ident())
            if mine and stage.moment == "before it looks":
                stage.hold()
            true_look(waits, **kwargs)
            if mine and stage.moment == "after it has looked":
                stage.hold()

        return look

    def hold(self) -> None:
        self.there.set()
        assert self.go_on.wait(PATIENCE)

    def outer(self) -> tuple[str, str]:
        return where(), self.pool.submit(where).result(PATIENCE)

    def start(self) -> tuple[Future[tuple[str, str]], Future[tuple[str, str]]]:
        """Both outer tasks have begun, and the first one's worker is held."""
        both = threading.Barrier(2)

        def second() -> tuple[str, str]:
            both.wait(PATIENCE)
            self.there.wait(PATIENCE)
            return self.outer()

        def first() -> tuple[str, str]:
            both.wait(PATIENCE)
            return self.outer()

        futures = self.pool.submit(first), self.pool.submit(second)
        assert self.there.wait(PATIENCE)
        return futures


@pytest.mark.parametrize("moment", ["before it looks", "after it has looked"])
class TestLastOne:
    """Two workers begin to wait at once."""

    def test_both(self, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        """Whoever looks last sees both: neither waits for a task that nobody takes."""
        stage = Staged(monkeypatch, moment)
        with stage.pool:
            first, second = stage.start()
            one = second.result(PATIENCE)[0]
            stage.go_on.set()
            assert first.result(PATIENCE)[0] != one

    def test_cancelled(self, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        """What the first one waits for is cancelled just then: it is told that, and the second one goes on."""
        stage = Staged(monkeypatch, moment)
        inner: list[Future[Any]] = []
        submit = stage.pool.submit

        def noted(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            inner.append(submit(fn, *args, **kwargs))
            return inner[-1]

        monkeypatch.setattr(stage.pool, "submit", noted)
        with stage.pool:
            first, second = stage.start()
            # The second one's worker may have been faster, and have run it.
            cancelled = next(future for future in inner if future not in (first, second)).cancel()
            stage.go_on.set()
            assert isinstance(first.exception(PATIENCE), CancelledError) == cancelled
            assert second.result(PATIENCE)

    def test_time_is_up(self, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        """The time of the first one is up just then: it gives up, and takes the second one's task later, or not."""
        stage = Staged(monkeypatch, moment)

        def impatient() -> str:
            future = stage.pool.submit(where)
            try:
                return future.result(LATE)
            except TimeoutError:
                return "late"

        monkeypatch.setattr(stage, "outer", impatient)
        with stage.pool:
            futures = stage.start()
            late = time.monotonic() + LATE
            until(lambda: time.monotonic() > late)
            stage.go_on.set()
            assert all(future.result(PATIENCE) for future in futures)

    def test_room(self, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        """There may be more workers from that moment on: the tasks are run by one of those, or in place."""
        stage = Staged(monkeypatch, moment)
        with stage.pool:
            futures = stage.start()
            stage.pool.resize(3)
            stage.go_on.set()
            assert all(future.result(PATIENCE) for future in futures)


def test_worker_leaves_before_the_other_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has left the others, and has not looked yet, when the last one begins to wait: that one sees it gone."""
    true_look = getattr(*hook("Waits.look"))
    with StatefulThreadPoolExecutor(2) as pool:
        left, go_on, held = threading.Event(), threading.Event(), threading.Event()
        begun = threading.Barrier(3)

        def look(waits: Any, **kwargs: Any) -> None:
            if threading.current_thread().name == leaving[0]:
                left.set()
                assert go_on.wait(PATIENCE)
            true_look(waits, **kwargs)

        leaving: list[str] = []

        def first() -> None:
            leaving.append(where())
            begun.wait(PATIENCE)
            held.wait(PATIENCE)

        def second() -> tuple[str, str]:
            begun.wait(PATIENCE)
            left.wait(PATIENCE)
            return where(), pool.submit(where).result(PATIENCE)

        pool.submit(first)
        future = pool.submit(second)
        begun.wait(PATIENCE)
        monkeypatch.setattr(*hook("Waits.look"), look)
        pool.resize(1)
        held.set()
        outer, inner = future.result(PATIENCE)
        go_on.set()
    assert outer == inner


def test_worker_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits, as another one that was started can take its task; that one's thread ends: the first takes it."""
    begin = getattr(*hook("PoolThread.begin"))

    def others_die(worker: Any, **how: bool) -> None:
        if inside(worker).index == 0:
            begin(worker, **how)
            return
        until(lambda: inside(pool).waiting or any(task.running() or task.done() for task in inner))
        raise MemoryError

    def outer() -> tuple[str, str]:
        inner.append(pool.submit(where))
        return where(), inner[0].result(PATIENCE)

    inner: list[Any] = []
    monkeypatch.setattr(*hook("PoolThread.begin"), others_die)
    with StatefulThreadPoolExecutor(2) as pool:
        first, second = pool.submit(outer).result(PATIENCE)
    assert first == second
