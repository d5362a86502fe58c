"""`async with pool.scope()` and `asubmit` in event loops that others run: anyio, trio, and none at all."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import trio
from child import run_well
from threads import beside, run_in_thread, until

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor

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


class TestFullPool:
    """A submit that blocks its thread's event loop is warned of; nothing else is."""

    @contextmanager
    def full(self, **options: Any) -> Iterator[tuple[Pool, threading.Event]]:
        """A pool whose one worker is held until the event is set, and which has the tasks that it takes."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1, "the pool", **({"max_backlog": 1} | options)) as pool:
            try:
                pool.submit(go_on.wait)
                until(lambda: pool.stats().running == 1)
                pool.submit(int)
                yield pool, go_on
            finally:
                go_on.set()

    def let_go(self, pool: Pool, go_on: threading.Event) -> None:
        until(lambda: pool.stats().blocked_submitters == 1)
        go_on.set()

    @pytest.mark.parametrize("door", ["run_in_executor", "submit", "scope", "map"])
    def test_warning(self, door: str, caplog: pytest.LogCaptureFixture) -> None:
        """It names the pool, the bound and the remedy, and is said once for each pool."""

        async def submit(pool: Pool) -> None:
            if door == "run_in_executor":
                await asyncio.get_running_loop().run_in_executor(pool, int)
            elif door == "scope":
                with pool.scope() as scope:
                    scope.submit(int)
            elif door == "map":
                list(pool.map(int, [1]))
            else:
                pool.submit(int).result()

        for pools in (1, 2):
            with self.full() as (pool, go_on):
                with beside(self.let_go, pool, go_on):
                    asyncio.run(submit(pool))
                go_on.clear()
                pool.submit(go_on.wait)
                until(lambda: pool.stats().running == 1)
                pool.submit(int)
                with beside(self.let_go, pool, go_on):
                    asyncio.run(submit(pool))
            assert len(caplog.records) == pools
        record = caplog.records[0]
        assert (record.name, record.levelno) == ("stateful_executor", logging.WARNING)
        text = r"the pool has all 1 places of its backlog taken.*use `await pool\.asubmit\("
        assert re.match(text, record.getMessage())

    def test_other_threads(self, caplog: pytest.LogCaptureFixture) -> None:
        """They may block, be it beside a running loop."""

        async def main() -> None:
            with beside(self.let_go, pool, go_on):
                run_in_thread(lambda: pool.submit(int).result())

        with self.full() as (pool, go_on):
            asyncio.run(main())
        assert not caplog.records

    def test_no_loop_any_more(self, caplog: pytest.LogCaptureFixture) -> None:
        """A thread that has run one."""
        asyncio.run(asyncio.sleep(0))
        with self.full() as (pool, go_on), beside(self.let_go, pool, go_on):
            pool.submit(int).result()
        assert not caplog.records

    def test_asubmit(self, caplog: pytest.LogCaptureFixture) -> None:
        """The remedy."""

        async def main() -> None:
            with beside(self.let_go, pool, go_on):
                await (await pool.asubmit(int))

        with self.full() as (pool, go_on):
            asyncio.run(main())
        assert not caplog.records

    def test_asubmit_of_tasks_that_wait_for_the_loop(self, caplog: pytest.LogCaptureFixture) -> None:
        """With `run_in_executor` neither would ever go on."""

        async def main(pool: Pool) -> list[int]:
            loop = asyncio.get_running_loop()

            def task(number: int) -> int:
                return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, number), loop).result(PATIENCE)

            return [await future for future in [await pool.asubmit(task, number) for number in range(20)]]

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            assert asyncio.run(main(pool)) == list(range(20))
        assert not caplog.records

    def test_never_waits(self, caplog: pytest.LogCaptureFixture) -> None:
        """With a `submit_timeout` of 0 nothing is blocked."""

        async def main() -> None:
            with pytest.raises(BacklogFull):
                pool.submit(int)

        with self.full(submit_timeout=0) as (pool, _):
            asyncio.run(main())
        assert not caplog.records

    def test_in_a_worker(self, caplog: pytest.LogCaptureFixture) -> None:
        """Which runs the new task in place, in the loop that its own task runs."""

        async def main() -> int:
            pool.submit(int)  # the backlog is full
            return pool.submit(int).result()

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            assert pool.submit(lambda: asyncio.run(main())).result() == 0
        assert not caplog.records

    def test_places_left(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nobody need wait, however many there were made at first."""

        async def main() -> None:
            for _ in range(1_999):
                pool.submit(int)

        with self.full(max_backlog=2_000) as (pool, _):
            asyncio.run(main())
            assert pool.stats().backlog == 2_000
        assert not caplog.records

    def test_log_handler_raises(self) -> None:
        """It goes to `threading.excepthook`, and the submit goes on."""

        def fail(record: logging.LogRecord) -> bool:
            raise LookupError

        async def main() -> None:
            with beside(self.let_go, pool, go_on):
                assert pool.submit(int).result() == 0

        raised: list[object] = []
        logger, hook = logging.getLogger("stateful_executor"), threading.excepthook
        logger.addFilter(fail)
        threading.excepthook = lambda args: raised.append(args.exc_type)
        try:
            with self.full() as (pool, go_on):
                asyncio.run(main())
        finally:
            threading.excepthook = hook
            logger.removeFilter(fail)
        assert raised == [LookupError]


def test_asyncio_is_not_imported() -> None:
    """By a pool that blocks a submit, for those who don't use it."""
    assert run_well(BLOCKED) == ["False"]


BLOCKED = """
def let_go():
    until(lambda: pool.stats().blocked_submitters)
    go_on.set()

go_on = threading.Event()
with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
    pool.submit(go_on.wait)
    pool.submit(int)
    threading.Thread(target=let_go).start()
    pool.submit(int)
    pool.submit(int)
say("asyncio" in sys.modules)
"""
