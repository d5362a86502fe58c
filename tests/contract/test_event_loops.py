"""`async with pool.scope()` and `asubmit` in event loops that others run: anyio, trio, and none at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import trio
from child import run_well

from stateful_executor import StatefulThreadPoolExecutor

PATIENCE = 20  # seconds

Pool = StatefulThreadPoolExecutor[Any]


def by_hand(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Drive a coroutine with no event loop at all."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


def under_trio(coroutine: Coroutine[Any, Any, Any]) -> None:
    async def main() -> None:
        await coroutine

    trio.run(main)


@pytest.fixture(params=[by_hand, under_trio])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], None]:
    """What runs a coroutine without a running asyncio event loop."""
    return request.param  # type: ignore[no-any-return]


class TestWithoutAsyncio:
    """There is nothing that could wake the coroutine: it is told so before anything is accepted."""

    def test_scope(self, run: Callable[[Coroutine[Any, Any, Any]], None]) -> None:
        """The block is not entered, and the scope still can be."""
        ran: list[None] = []

        async def block() -> None:
            async with scope:
                ran.append(None)

        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            with pytest.raises(RuntimeError, match=r"<Scope of .*> needs a running asyncio event loop.*trio.to_thread"):
                run(block())
            with scope:
                assert scope.submit(int).result(PATIENCE) == 0
        assert ran == []

    @pytest.mark.parametrize("max_backlog", [None, 1])
    @pytest.mark.parametrize("entry_point", ["pool", "view", "scope"])
    def test_asubmit(
        self, run: Callable[[Coroutine[Any, Any, Any]], None], entry_point: str, max_backlog: int | None
    ) -> None:
        """Nothing runs."""
        ran: list[object] = []
        with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=max_backlog) as pool:
            with pool.scope() as scope:
                submit = {"pool": pool, "view": pool.with_state(), "scope": scope}[entry_point].asubmit
                with pytest.raises(RuntimeError, match=r"asubmit of .* needs a running asyncio event loop"):
                    run(submit(ran.append, *[None] * (entry_point != "view")))
        assert ran == []
        assert pool.stats().submitted == 0

    def test_in_a_thread_of_trios(self) -> None:
        """What the error recommends: the blocking forms, in threads of trio's, which it keeps for ten seconds."""
        assert run_well(IN_TRIOS_THREADS, "") == ["[1, 2, 4, 8, 16] 8"]


IN_TRIOS_THREADS = """
import trio
from stateful_executor import StatefulThreadPoolExecutor

def block():
    with pool.scope() as scope:
        futures = [scope.submit(pow, 2, n) for n in range(5)]
    return [future.result() for future in futures]

async def main():
    print(await trio.to_thread.run_sync(block), await trio.to_thread.run_sync(pool.submit(pow, 2, 3).result))

with StatefulThreadPoolExecutor(2) as pool:
    trio.run(main)
"""


class Gate:
    """Holds a task until the event loop sleeps, with nothing to do, after `armed` was set."""

    def __init__(self) -> None:
        self.armed = False
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.wakes = 0

    def hold(self) -> bool:
        self.begun.set()
        return self.go_on.wait(PATIENCE)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look at what the loop of this thread waits for."""
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select = selector.select

        def look(timeout: float | None) -> Any:
            self.wakes += self.armed
            if self.armed and timeout is None:
                self.go_on.set()
            return select(timeout)

        selector.select = look
        try:
            yield
        finally:
            del selector.select


class TestCancelledAgainAndAgain:
    """The join goes on, and the loop sleeps meanwhile; the cancellation is delivered when it has ended."""

    def run(self, main: Callable[[Pool, Gate], Coroutine[Any, Any, None]]) -> None:
        """Run `main` in an event loop; it has the scope joined while it is cancelled."""

        async def watched() -> None:
            with gate.watch():
                await main(pool, gate)

        gate = Gate()
        with StatefulThreadPoolExecutor(1) as pool:
            try:
                asyncio.run(watched())
            finally:
                gate.go_on.set()
        assert gate.wakes < 20

    def test_by_anyio(self) -> None:
        """Its cancel scopes cancel at each turn of the loop."""

        async def main(pool: Pool, gate: Gate) -> None:
            with anyio.CancelScope() as cancel_scope:
                async with pool.scope() as scope:
                    held, queued = scope.submit(gate.hold), scope.submit(int)
                    await anyio.to_thread.run_sync(gate.begun.wait)
                    cancel_scope.cancel()
                    gate.armed = True
            assert cancel_scope.cancelled_caught
            assert held.result() is True
            assert queued.cancelled()
            await anyio.lowlevel.checkpoint()  # there is no cancellation left

        self.run(main)

    def test_by_anyios_timeout(self) -> None:
        """The same, from outside of the block's own task."""

        async def block(pool: Pool, gate: Gate, done: list[bool]) -> None:
            async with pool.scope() as scope:
                held = scope.submit(gate.hold)
            done.append(held.result())

        async def main(pool: Pool, gate: Gate) -> None:
            done: list[bool] = []
            async with anyio.create_task_group() as group:
                group.start_soon(block, pool, gate, done)
                await anyio.to_thread.run_sync(gate.begun.wait)
                gate.armed = True
                group.cancel_scope.cancel()
            assert done == []  # it was cancelled, but only after the join
            assert gate.go_on.is_set()

        self.run(main)

    @pytest.mark.parametrize("times", [1, 2, 5])
    def test_by_asyncio(self, times: int) -> None:
        """However often, it is one `CancelledError` for the block, and after the join."""

        async def block(pool: Pool, gate: Gate) -> None:
            async with pool.scope() as scope:
                scope.submit(gate.hold)

        async def main(pool: Pool, gate: Gate) -> None:
            task = asyncio.create_task(block(pool, gate))
            await asyncio.to_thread(gate.begun.wait)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            gate.armed = True
            with pytest.raises(asyncio.CancelledError):
                await task
            assert gate.go_on.is_set()
            assert task.cancelling() == times

        self.run(main)

    def test_states_of_the_scope(self) -> None:
        """They are torn down before the cancellation goes on."""
        torn_down: list[object] = []

        async def main(pool: Pool, gate: Gate) -> None:
            with anyio.CancelScope() as cancel_scope:
                async with pool.scope() as scope:
                    scope.with_state(list, finalizer=torn_down.append).submit(lambda _: gate.hold())
                    await anyio.to_thread.run_sync(gate.begun.wait)
                    cancel_scope.cancel()
                    gate.armed = True
            assert torn_down == [[]]

        self.run(main)


def test_under_anyio() -> None:
    """On anyio's asyncio backend everything works as under asyncio, in task groups too."""
    results: list[int] = []

    async def one(pool: Pool, number: int) -> None:
        results.append(await (await pool.asubmit(pow, number, 2)))

    async def main() -> None:
        with StatefulThreadPoolExecutor(2, max_backlog=1) as pool:
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, pool, number)
            async with pool.scope() as scope:
                futures = [await scope.asubmit(pow, number, 2) for number in range(20)]
            # They have ended; asyncio's own futures hear of it at the next turn of the loop.
            assert [await future for future in futures] == [number**2 for number in range(20)]

    anyio.run(main)
    assert sorted(results) == [number**2 for number in range(20)]
