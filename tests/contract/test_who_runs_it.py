"""Waiting in a worker: another one runs the awaited task while one can; when all of them wait, each runs its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import Any

import pytest
from inside import HAS_GIL, hook, inside
from starts import fail_to_start
from threads import PATIENCE, until, where

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]

WAYS: dict[str, Callable[[Pool, Callable[[], Any]], Any]] = {
    "result": lambda pool, fn: pool.submit(fn).result(PATIENCE),
    "exception": lambda pool, fn: (future := pool.submit(fn)).exception(PATIENCE) or future.result(0),
    "map": lambda pool, fn: next(pool.map(lambda _: fn(), [0])),
    "chunks": lambda pool, fn: next(pool.map(lambda _: fn(), [0, 1], chunksize=2)),
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Callable[[Pool, Callable[[], Any]], Any]:
    """Submit and wait, at one of the standard library's doors."""
    return WAYS[request.param]


@contextmanager
def busy(pool: Pool, workers: int = 1) -> Iterator[Callable[[], None]]:
    """So many workers run a task that does not wait in the pool, until the end, or until what this yields is called."""
    begun = threading.Barrier(workers + 1)
    held = threading.Event()
    futures = [pool.submit(lambda: (begun.wait(PATIENCE), held.wait(PATIENCE))) for _ in range(workers)]
    begun.wait(PATIENCE)
    try:
        yield held.set
    finally:
        held.set()
        wait(futures)


def waiting(pool: Pool) -> int:
    """How many workers wait in a task."""
    return len(inside(pool).waiting)


class TestAnotherOne:
    """Some worker can take the awaited task: it does, and what belongs to a thread is not mixed up."""

    def test_idle_one(self, ask: Any) -> None:
        """One sleeps."""
        with StatefulThreadPoolExecutor(2) as pool:
            with busy(pool, 2):
                pass
            until(lambda: len(inside(pool).idle) == 2)
            outer, inner = pool.submit(lambda: (where(), ask(pool, where))).result(PATIENCE)
        assert outer != inner

    def test_one_that_can_be_started(self, ask: Any) -> None:
        """There is none yet."""
        with StatefulThreadPoolExecutor(2) as pool:
            outer, inner = pool.submit(lambda: (where(), ask(pool, where))).result(PATIENCE)
        assert outer != inner

    def test_one_that_is_busy(self, ask: Any) -> None:
        """It takes the awaited task when its own has ended, which the waiting one waits for."""
        with StatefulThreadPoolExecutor(2) as pool:
            with busy(pool) as free:
                future = pool.submit(lambda: (where(), ask(pool, where)))
                until(lambda: waiting(pool))
                until(lambda: pool.stats().backlog)
                free()
                outer, inner = future.result(PATIENCE)
        assert outer != inner

    def test_one_that_waits_elsewhere(self) -> None:
        """Only waits in this pool count: an event, another pool, `concurrent.futures.wait`."""
        with StatefulThreadPoolExecutor(2) as pool, StatefulThreadPoolExecutor(1) as other:
            with busy(other) as free:
                queued = other.submit(int)
                first = pool.submit(lambda: wait([queued]))
                until(lambda: pool.stats().running == 1)
                future = pool.submit(lambda: (where(), pool.submit(where).result(PATIENCE)))
                until(lambda: waiting(pool))
                free()
                outer, inner = future.result(PATIENCE)
            first.result(PATIENCE)
        assert outer != inner

    def test_event_loop(self) -> None:
        """A task of a task may run an event loop, whatever the outer one does."""

        async def inner() -> str:
            return where()

        async def outer(pool: Pool) -> tuple[str, str]:
            return where(), pool.submit(lambda: asyncio.run(inner())).result(PATIENCE)

        with StatefulThreadPoolExecutor(2) as pool:
            first, second = pool.submit(lambda: asyncio.run(outer(pool))).result(PATIENCE)
        assert first != second

    def test_thread_local(self) -> None:
        """The transaction of a thread's session is not the waiting task's."""
        local = threading.local()
        committed: list[list[str]] = []

        def audit() -> None:
            local.rows = ["audit"]
            committed.append(local.rows)

        def pay() -> list[str]:
            local.rows = ["payment"]
            pool.submit(audit).result(PATIENCE)
            return list(local.rows)

        with StatefulThreadPoolExecutor(2) as pool:
            assert pool.submit(pay).result(PATIENCE) == ["payment"]
        assert committed == [["audit"]]

    @pytest.mark.skipif(
        not HAS_GIL, reason="there, an object goes when the thread that made it runs, and that is asleep"
    )
    def test_destructor(self) -> None:
        """Of a result, which a worker drops when it seems idle already: the other idle one is woken for the task."""
        pairs: list[tuple[str, str]] = []

        class Result:
            def __del__(self) -> None:
                pairs.append((where(), pool.submit(where).result(PATIENCE)))

        with StatefulThreadPoolExecutor(2) as pool:
            with busy(pool, 2):
                pass
            until(lambda: len(inside(pool).idle) == 2)
            pool.submit(Result)
            until(lambda: pairs)
        [(outer, inner)] = pairs
        assert outer != inner


class TestNobodyElse:
    """Every worker waits: each runs what it waits for."""

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_each_its_own(self, ask: Any, workers: int) -> None:
        """In its own thread."""
        with StatefulThreadPoolExecutor(workers) as pool:
            both = threading.Barrier(workers)

            def outer() -> tuple[str, str]:
                both.wait(PATIENCE)
                return where(), ask(pool, where)

            pairs = [future.result(PATIENCE) for future in [pool.submit(outer) for _ in range(workers)]]
            assert len({first for first, _ in pairs}) == workers
            until(lambda: not waiting(pool))
        assert workers > 1 or pairs[0][0] == pairs[0][1]

    @pytest.mark.parametrize("way", ["scope", "map_unordered"])
    def test_last_one_waits_at_our_own_door(self, way: str) -> None:
        """The end of a scope, or `map_unordered`: it waits for what another worker runs, which waits in turn."""
        with StatefulThreadPoolExecutor(2) as pool:
            begun, go_on = threading.Event(), threading.Event()

            def inner() -> tuple[str, str]:
                begun.set()
                go_on.wait(PATIENCE)
                return where(), pool.submit(where).result(PATIENCE)

            def outer() -> list[tuple[str, str]]:
                if way == "map_unordered":
                    tasks = pool.map_unordered(lambda _: inner(), [0])
                    begun.wait(PATIENCE)
                    until_waiting.set()
                    return list(tasks)
                with pool.scope() as scope:
                    future = scope.submit(inner)
                    begun.wait(PATIENCE)
                    until_waiting.set()
                return [future.result(0)]

            until_waiting = threading.Event()
            future = pool.submit(outer)
            until_waiting.wait(PATIENCE)
            until(lambda: waiting(pool))
            go_on.set()
            [(first, second)] = future.result(PATIENCE)
        assert first == second

    def test_worker_that_leaves(self) -> None:
        """The other one is one too many, and leaves after its task: the waiting one runs its own."""
        with StatefulThreadPoolExecutor(2) as pool:
            with busy(pool) as free:
                future = pool.submit(lambda: (where(), pool.submit(where).result(PATIENCE)))
                until(lambda: waiting(pool))
                pool.resize(1)
                free()
                outer, inner = future.result(PATIENCE)
        assert outer == inner

    def test_worker_that_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No thread is to be had: the waiting one runs its own."""
        with StatefulThreadPoolExecutor(2) as pool:
            pool.submit(int).result(PATIENCE)
            fail_to_start(monkeypatch)
            outer, inner = pool.submit(lambda: (where(), pool.submit(where).result(PATIENCE))).result(PATIENCE)
            monkeypatch.undo()
        assert outer == inner

    def test_inside_of_another_wait(self) -> None:
        """A worker that waits answers a request meanwhile, and waits for a task in there when the last one comes."""
        with StatefulThreadPoolExecutor(2) as pool:
            inside_the_other = threading.Event()

            def finalize(_: object) -> None:
                future = pool.submit(where)
                inside_the_other.set()
                future.result(PATIENCE)

            view = pool.with_state(object, finalizer=finalize)
            begun = threading.Barrier(2)

            def first() -> tuple[str, str]:
                view.bind(id)()
                begun.wait(PATIENCE)
                return where(), pool.submit(where).result(PATIENCE)

            def second() -> tuple[str, str]:
                begun.wait(PATIENCE)
                until(lambda: waiting(pool))
                view.discard_all()
                inside_the_other.wait(PATIENCE)
                until(lambda: len(inside(pool).tail) == 2)
                until(lambda: all(wait.outer for wait in list(inside(pool).waiting.values())))
                return future.result(PATIENCE)

            future = pool.submit(first)
            outer, inner = pool.submit(second).result(PATIENCE)
        assert outer == inner

    def test_broadcast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task for one worker only is waited for asleep, while that worker runs another one in place."""
        true_look = getattr(*hook("Waits.look"))
        looks: list[str] = []

        def look(waits: Any, **kwargs: Any) -> None:
            looks.append(where())
            true_look(waits, **kwargs)

        monkeypatch.setattr(*hook("Waits.look"), look)
        with StatefulThreadPoolExecutor(2) as pool:
            begun, sent, broadcast = threading.Barrier(3), threading.Event(), dict[str, Future[str]]()

            def other_ones(mine: str) -> str:
                return next(future for name, future in broadcast.items() if name != mine).result(PATIENCE)

            def first() -> str:
                begun.wait(PATIENCE)
                sent.wait(PATIENCE)
                return other_ones(where())

            def inner() -> list[str]:
                before = len(looks)
                for _ in range(100):
                    time.sleep(0)
                return looks[before:]

            def second() -> list[str]:
                begun.wait(PATIENCE)
                until(lambda: waiting(pool) and set(looks) - {where()})  # the first one has begun to wait, and looked
                return pool.submit(inner).result(PATIENCE)

            one, two = pool.submit(first), pool.submit(second)
            begun.wait(PATIENCE)
            workers = [worker.thread.name for worker in inside(pool).workers]
            broadcast.update(zip(workers, pool.broadcast(where), strict=True))
            sent.set()
            assert two.result(PATIENCE) == []
            one.result(PATIENCE)


class TestTimeouts:
    """A timeout covers the wait for another worker."""

    @pytest.mark.parametrize("ask", ["result", "exception"])
    def test_passes(self, ask: str) -> None:
        """The other one is busy: the task is not run in place meanwhile, but later by whoever is free first."""
        with StatefulThreadPoolExecutor(2) as pool:
            inner: list[Future[str]] = []

            def outer() -> bool:
                inner.append(pool.submit(where))
                with pytest.raises(TimeoutError):
                    getattr(inner[0], ask)(0.01)
                return inner[0].running() or inner[0].done()

            with busy(pool):
                assert not pool.submit(outer).result(PATIENCE)
            assert inner[0].result(PATIENCE)
            assert not waiting(pool)

    def test_cancelled_meanwhile(self) -> None:
        """Who waits for it is told, and it is not run."""
        with StatefulThreadPoolExecutor(2) as pool:
            inner: list[Future[str]] = []

            def outer() -> None:
                inner.append(pool.submit(where))
                inner[0].result(PATIENCE)

            with busy(pool):
                future = pool.submit(outer)
                until(lambda: waiting(pool))
                assert inner[0].cancel()
                assert isinstance(future.exception(PATIENCE), CancelledError)
