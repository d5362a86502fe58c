"""The bound on the backlog."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from inside import Parker, inside
from threads import until

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor


class Blocked:
    """A pool of one worker, which a task holds until `go_on`; `n` more tasks fill the backlog."""

    def __init__(self, n: int, submit_timeout: float | None = None) -> None:
        self.pool = StatefulThreadPoolExecutor(1, max_backlog=n, submit_timeout=submit_timeout)
        self.go_on = threading.Event()
        begun = threading.Event()
        self.pool.submit(lambda: (begun.set(), self.go_on.wait()))
        begun.wait()
        self.queued = [self.pool.submit(int) for _ in range(n)]

    def submit_in_threads(self, n: int) -> list[threading.Thread]:
        """Start `n` threads that submit, and wait until all of them are blocked."""
        self.outcomes: list[object] = []

        def submit() -> None:
            try:
                self.outcomes.append(self.pool.submit(int).result())
            except RuntimeError as exc:
                self.outcomes.append(exc)

        threads = [threading.Thread(target=submit) for _ in range(n)]
        for thread in threads:
            thread.start()
        until(lambda: len(inside(self.pool).waiters) == n)
        return threads

    def free(self) -> int:
        """Places that are free."""
        registry = inside(self.pool)
        assert registry.free_permits is not None
        return inside(self.pool).permits_left()


@pytest.fixture(params=[1, 3])
def blocked(request: pytest.FixtureRequest) -> Iterator[Blocked]:
    """A full backlog; at the end everything is let go, and no place is lost."""
    blocked = Blocked(request.param)
    yield blocked
    blocked.go_on.set()
    blocked.pool.shutdown()
    assert blocked.free() == request.param


@pytest.mark.parametrize("n", [1, 3, 1024, 1025, 3000])
def test_exact(n: int) -> None:
    """At most n tasks accepted and not begun: n are taken, the next is not, whatever the worker runs."""
    blocked = Blocked(n, submit_timeout=0)
    with pytest.raises(BacklogFull):
        blocked.pool.submit(int)
    assert blocked.pool._work_queue.qsize() == n
    blocked.go_on.set()
    blocked.pool.shutdown()
    assert blocked.free() == n
    assert all(future.result() == 0 for future in blocked.queued)


def test_huge_bound_costs_nothing() -> None:
    """A bound of a quintillion tasks takes no memory until they come."""
    with StatefulThreadPoolExecutor(1, max_backlog=10**18) as pool:
        assert pool.submit(int).result() == 0


def test_no_submit_sleeps_while_there_are_places() -> None:
    """Places beyond the first thousand are made when they are needed: submits that come at once all get theirs."""
    for _ in range(5):
        blocked = Blocked(1024, submit_timeout=20)
        inside(blocked.pool).unissued = 400
        start = threading.Barrier(8)

        def submit(blocked: Blocked = blocked, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(50):
                blocked.queued.append(blocked.pool.submit(int))

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blocked.pool._work_queue.qsize() == len(blocked.queued) == 1424
        blocked.go_on.set()
        blocked.pool.shutdown()


def test_timeout_names_pool_bound_and_wait() -> None:
    """`BacklogFull` says which pool, how many places, and how long it waited."""
    blocked = Blocked(2, submit_timeout=0.01)
    with pytest.raises(BacklogFull, match=r"StatefulThreadPoolExecutor-\d+ had all 2 places .* for 0.01 seconds"):
        blocked.pool.submit(int)
    blocked.go_on.set()
    blocked.pool.shutdown()


def test_blocked_submits_go_on_in_order(blocked: Blocked) -> None:
    """As places come free, blocked submits take them, and none is forgotten."""
    threads = blocked.submit_in_threads(5)
    blocked.go_on.set()
    for thread in threads:
        thread.join()
    assert blocked.outcomes == [0] * 5


def test_enough_places_for_the_line() -> None:
    """Who finds more places than there are submitters in line takes one; otherwise stands behind them."""
    blocked = Blocked(3, submit_timeout=0)
    registry = inside(blocked.pool)
    first = Parker()  # of a submit that has not looked yet
    registry.waiters[first] = 0.0
    for future in blocked.queued[:2]:
        assert future.cancel()
    try:
        late = blocked.pool.submit(int)  # two places, one for the first in line
        with pytest.raises(BacklogFull):
            blocked.pool.submit(int)
        assert first.is_awake()
    finally:
        del registry.waiters[first]
        blocked.go_on.set()
    assert late.result() == 0
    blocked.pool.shutdown()


def test_cancel_frees_a_place_at_once(blocked: Blocked) -> None:
    """A cancelled task leaves the backlog, and a blocked submit takes its place."""
    threads = blocked.submit_in_threads(1)
    assert blocked.queued[0].cancel()
    until(lambda: not inside(blocked.pool).waiters)
    blocked.go_on.set()
    threads[0].join()
    assert blocked.outcomes == [0]


def test_shutdown_wakes_blocked_submits(blocked: Blocked) -> None:
    """Each raises the standard library's error; what was accepted before still runs."""
    threads = blocked.submit_in_threads(3)
    blocked.pool.shutdown(wait=False)
    for thread in threads:
        thread.join()
    assert [str(error) for error in blocked.outcomes] == ["cannot schedule new futures after shutdown"] * 3
    blocked.go_on.set()
    assert [future.result() for future in blocked.queued] == [0] * len(blocked.queued)


@pytest.mark.parametrize("entry_point", ["pool", "scope", "view", "map"])
def test_every_entry_point_counts(entry_point: str) -> None:
    """Whichever way a task comes in, it needs a place."""
    blocked = Blocked(1, submit_timeout=0)
    pool = blocked.pool
    with pool.scope() as scope:
        entry_points = {
            "pool": lambda: pool.submit(int),
            "scope": lambda: scope.submit(int),
            "view": lambda: pool.with_state(list).submit(len),
            "map": lambda: pool.map(int, "12"),
        }
        with pytest.raises(BacklogFull):
            entry_points[entry_point]()
        blocked.go_on.set()
    pool.shutdown()
    assert blocked.free() == 1


@pytest.mark.parametrize("n", [1, 5])
def test_a_worker_never_blocks(n: int) -> None:
    """A task that submits to its own full pool runs the new task at once, and gets its finished future."""
    with StatefulThreadPoolExecutor(1, max_backlog=n) as pool:

        def outer() -> tuple[list[bool], list[int]]:
            futures = [pool.submit(threading.get_ident) for _ in range(n + 3)]
            return [future.done() for future in futures], [future.result() for future in futures]

        done, threads = pool.submit(outer).result()
        assert done == [False] * n + [True] * 3
        assert len(set(threads)) == 1


def test_inline_levels_end() -> None:
    """Tasks that submit one inside another run inline 32 levels deep; beyond that they are queued over the bound."""
    depth = threading.local()
    deepest: list[int] = []
    end = threading.Event()

    def dive(levels: int) -> None:
        depth.value = getattr(depth, "value", 0) + 1
        deepest.append(depth.value)
        if levels:
            pool.submit(dive, levels - 1)
        else:
            end.set()
        depth.value -= 1

    with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:

        def fill_and_dive() -> None:
            pool.submit(int)
            dive(500)

        pool.submit(fill_and_dive).result()
        end.wait()
    assert len(deepest) == 501
    assert max(deepest) == 33  # the first, and 32 inline


def test_cancelling_for_ever_grows_nothing() -> None:
    """On a stuck pool, submitting and cancelling 100,000 times leaves no trace, with live tasks in between."""
    for bound in (None, 10):
        go_on = threading.Event()
        pool = StatefulThreadPoolExecutor(1, max_backlog=bound)
        pool.submit(go_on.wait)
        kept = []
        for number in range(100_000):
            future = pool.submit(int)
            if number % 20_000 == 0:
                kept.append(future)
            else:
                assert future.cancel()
            assert len(inside(pool).tail) + len(inside(pool).head) < 500
        go_on.set()
        assert [future.result() for future in kept] == [0] * 5
        pool.shutdown()


def test_cancelling_a_long_backlog_takes_linear_time() -> None:
    """A compaction looks at all entries: there are the fewer the longer the backlog is, one for each half cancelled."""
    go_on = threading.Event()
    compactions: list[int] = []
    with StatefulThreadPoolExecutor(1) as pool:
        registry = inside(pool)
        compact = registry.compact

        def counted() -> None:
            compactions.append(len(registry.tail) + len(registry.head))
            compact()

        registry.compact = counted
        pool.submit(go_on.wait)
        for future in [pool.submit(int) for _ in range(20_000)]:
            future.cancel()
        go_on.set()
    assert 20_000 < sum(compactions) < 5 * 20_000


def test_sweeping_keeps_the_order() -> None:
    """Thousands of cancelled tasks are taken out from among live ones, which run in the order submitted."""
    go_on = threading.Event()
    order: list[int] = []
    with StatefulThreadPoolExecutor(1) as pool:
        until(pool.submit(go_on.wait).running)
        futures = [pool.submit(order.append, number) for number in range(5_000)]
        for number, future in reversed(list(enumerate(futures))):
            if number % 7:
                assert future.cancel()
        more = [pool.submit(order.append, number) for number in range(5_000, 6_000)]
        assert pool._work_queue.qsize() == len(range(0, 5_000, 7)) + len(more)
        go_on.set()
    assert order == [*range(0, 5_000, 7), *range(5_000, 6_000)]


def test_submit_cancel_and_run_at_once(nervous: None) -> None:
    """Threads submit and cancel while workers run: each task ends in one way, each place comes back."""
    ran: list[int] = []
    with StatefulThreadPoolExecutor(3, max_backlog=7) as pool:
        cancelled = []

        def submit_and_cancel(number: int) -> None:
            for step in range(300):
                future = pool.submit(ran.append, number)
                if step % 2 and future.cancel():
                    cancelled.append(future)

        threads = [threading.Thread(target=submit_and_cancel, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ran) + len(cancelled) == 1_200
    registry = inside(pool)
    assert registry.free_permits is not None
    assert len(registry.free_permits) == 7


def test_polling_a_full_backlog_grows_nothing() -> None:
    """Who asks again and again for a place that never comes leaves nothing behind."""
    blocked = Blocked(1, 0)
    for _ in range(100):
        with pytest.raises(BacklogFull):
            blocked.pool.submit(int)
    assert len(inside(blocked.pool).needs_notify) <= 1
    assert not inside(blocked.pool).waiters
    blocked.go_on.set()
    blocked.pool.shutdown()


class TestAsubmit:
    """`asubmit` waits for a place without blocking the event loop."""

    def test_waits_in_turn(self) -> None:
        """The loop runs on while a submit waits; it goes on when a place comes free."""
        blocked = Blocked(1)

        async def main() -> list[int]:
            waiting = [asyncio.create_task(blocked.pool.asubmit(pow, 2, n)) for n in range(3)]
            while len(inside(blocked.pool).waiters) < 3:
                await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            blocked.go_on.set()
            return [await (await task) for task in waiting]

        assert asyncio.run(main()) == [1, 2, 4]
        blocked.pool.shutdown()
        assert blocked.free() == 1

    def test_cancelled_while_waiting(self) -> None:
        """A cancelled asubmit accepts nothing and loses nothing."""
        blocked = Blocked(1)

        async def main() -> None:
            first, second = (asyncio.create_task(blocked.pool.asubmit(int)) for _ in range(2))
            while len(inside(blocked.pool).waiters) < 2:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            blocked.go_on.set()
            assert await (await second) == 0

        asyncio.run(main())
        blocked.pool.shutdown()
        assert blocked.free() == 1

    def test_timeout_and_shutdown(self) -> None:
        """`BacklogFull` after submit_timeout, `RuntimeError` on shutdown, as for submit."""
        blocked = Blocked(1, submit_timeout=0)

        async def main() -> None:
            with pytest.raises(BacklogFull):
                await blocked.pool.asubmit(int)
            blocked.pool.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="after shutdown"):
                await blocked.pool.asubmit(int)

        asyncio.run(main())
        blocked.go_on.set()
        blocked.pool.shutdown()
        assert blocked.free() == 1

    def test_in_a_worker(self) -> None:
        """An event loop in a task of the pool queues over the bound instead of waiting for itself."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:

            async def inner() -> int:
                futures = [await pool.asubmit(pow, 2, n) for n in range(3)]
                return len(futures)

            assert pool.submit(lambda: asyncio.run(inner())).result() == 3

    def test_entry_points(self) -> None:
        """Scopes and views have it too."""

        async def main() -> None:
            with StatefulThreadPoolExecutor(1, initializer=str, max_backlog=1) as pool, pool.scope() as scope:
                assert await (await scope.asubmit(pow, 2, 3)) == 8
                assert await (await scope.with_state().asubmit(str.join, "ab")) == "ab"
                assert await (await pool.with_state().asubmit(str.join, "cd")) == "cd"

        asyncio.run(main())

    def test_closed_loop(self) -> None:
        """A loop closed under a waiting asubmit does not hold up those behind it."""
        blocked = Blocked(1)
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(blocked.pool.asubmit(int))
        while not inside(blocked.pool).waiters:
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        thread = threading.Thread(target=blocked.pool.submit, args=(int,))
        thread.start()
        until(lambda: len(inside(blocked.pool).waiters) == 2)
        blocked.go_on.set()
        thread.join()
        blocked.pool.shutdown()
        assert blocked.free() == 1
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_many_in_a_closed_loop(self) -> None:
        """Hundreds of them leave the line at once, and the worker that frees a place survives it."""
        blocked = Blocked(1)
        loop = asyncio.new_event_loop()
        waiting = [loop.create_task(blocked.pool.asubmit(int)) for _ in range(500)]
        while len(inside(blocked.pool).waiters) < 500:
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        blocked.go_on.set()
        assert blocked.queued[0].result(10) == 0
        assert blocked.pool.submit(int).result(10) == 0
        blocked.pool.shutdown()
        assert blocked.free() == 1
        for task in waiting:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_loop_closed_after_it_was_called(self) -> None:
        """A loop that was told of a place, and closed before it came to that, is passed over at the next one."""
        pool = StatefulThreadPoolExecutor(1, max_backlog=2)
        begun, ends = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]
        for one_begun, end in zip(begun, ends, strict=True):
            pool.submit(lambda one_begun=one_begun, end=end: (one_begun.set(), end.wait()))
            if one_begun is begun[0]:
                assert one_begun.wait(20)
        loop = asyncio.new_event_loop()
        first = loop.create_task(pool.asubmit(int))
        loop.run_until_complete(asyncio.sleep(0))
        assert len(inside(pool).waiters) == 1
        futures: list[object] = []
        second = threading.Thread(target=lambda: futures.append(pool.submit(int)))
        second.start()
        until(lambda: len(inside(pool).waiters) == 2 and inside(pool).needs_notify)
        ends[0].set()
        assert begun[1].wait(20)
        until(lambda: loop._ready)  # type: ignore[attr-defined]  # it was called, and does not run
        loop.close()
        ends[1].set()
        assert begun[2].wait(20)
        second.join(10)
        ends[2].set()
        pool.shutdown()
        assert futures
        first._log_destroy_pending = False  # type: ignore[attr-defined]
