"""`resize`: more workers for the tasks that wait, and those too many leave after their task, with teardown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from typing import Any, Self

import pytest
from inside import hook, inside, is_parked
from starts import fail_to_start
from states import States
from threads import beside, run_in_thread, until, where

from stateful_executor import InitializerError, StatefulThreadPoolExecutor
from stateful_executor.errors import BrokenThreadPool

Pool = StatefulThreadPoolExecutor[Any]


class Held:
    """A pool `w` of `n` workers, each with a state, which run a task until theirs is released, or the block ends."""

    def __init__(self, n: int, **kwargs: Any) -> None:
        self.states = States()
        self.pool: Pool = StatefulThreadPoolExecutor(
            n, "w", self.states.make, finalizer=self.states.tear_down, **kwargs
        )
        self.gates = {f"w_{number}": threading.Event() for number in range(n)}
        begun = threading.Barrier(n + 1)

        def hold() -> str:
            begun.wait(20)
            self.gates[where()].wait(20)
            return where()

        self.held = [self.pool.submit(hold) for _ in range(n)]
        begun.wait(20)

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[f"w_{number}"].set()

    def workers(self) -> list[str]:
        """Those that count as workers."""
        return sorted(worker.thread.name for worker in list(inside(self.pool).workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release(*range(len(self.gates)))
        self.pool.shutdown()
        self.states.check()


def all_idle(pool: Pool, number: int) -> bool:
    """There are `number` workers, and each is asleep."""
    registry = inside(pool)
    workers = list(registry.workers)
    return len(workers) == number and all(w in registry.idle and is_parked(w) for w in workers)


def begun(pool: Pool, number: int) -> None:
    """Return when `number` workers run at the same time, each a task of its own."""
    everyone = threading.Barrier(number)
    futures = [pool.submit(everyone.wait, 20) for _ in range(number)]
    assert sorted(future.result(20) for future in futures) == list(range(number))


@pytest.fixture(params=["resize", "assignment"])
def resize(request: pytest.FixtureRequest) -> Callable[[Pool, Any], None]:
    """Both ways to do it."""

    def assign(pool: Pool, max_workers: Any) -> None:
        pool._max_workers = max_workers

    return StatefulThreadPoolExecutor.resize if request.param == "resize" else assign


class TestArguments:
    """As the constructor has it, and never None."""

    @pytest.mark.parametrize("number", [0, -1])
    def test_less_than_one(self, resize: Callable[[Pool, Any], None], number: int) -> None:
        with StatefulThreadPoolExecutor(3) as pool:
            with pytest.raises(ValueError, match=f"max_workers must be greater than 0, not {number}"):
                resize(pool, number)
            assert pool._max_workers == 3

    @pytest.mark.parametrize("value", [None, "4", 2.5])
    def test_no_number(self, resize: Callable[[Pool, Any], None], value: Any) -> None:
        with StatefulThreadPoolExecutor(3) as pool:
            with pytest.raises(TypeError, match=f"max_workers must be a whole number of threads, not {value!r}"):
                resize(pool, value)
            assert pool._max_workers == 3

    def test_seen(self, resize: Callable[[Pool, Any], None]) -> None:
        """By who reads the standard library's name, and in the `repr`."""
        with StatefulThreadPoolExecutor(3, "w") as pool:
            resize(pool, True)
            assert type(pool._max_workers) is int
            resize(pool, 5)
            assert pool._max_workers == 5
            assert "0 of 5 workers" in repr(pool)
            assert not pool._threads  # they start on demand


class TestGrowing:
    """More workers than before."""

    def test_on_demand(self, resize: Callable[[Pool, Any], None]) -> None:
        """Later submits find more, never more than there may be."""
        with Held(1) as held:
            resize(held.pool, 3)
            assert held.workers() == ["w_0"]
            begun(held.pool, 2)
            assert held.workers() == ["w_0", "w_1", "w_2"]
            gate = threading.Event()
            for _ in range(3):
                held.pool.submit(gate.wait, 20)
            until(lambda: held.pool.stats().running == 3)
            assert (held.pool.stats().workers, held.pool.stats().backlog) == (3, 1)
            gate.set()

    @pytest.mark.parametrize(("waiting", "to", "workers"), [(1, 4, 2), (2, 4, 3), (5, 4, 4), (5, 2, 2)])
    def test_tasks_that_wait(
        self, resize: Callable[[Pool, Any], None], waiting: int, to: int, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They need no further submit, and as many start as there are tasks, or may be.

        A worker about to take a task is missed by one that looks just then. Here they take none until all have looked.
        """
        with Held(1) as held:
            coming = inside(held.pool).coming
            serves = getattr(*hook("Workers.serves"))

            def wait_and_serve(workers: object, worker: object) -> None:
                until(lambda: not coming)
                serves(workers, worker)

            monkeypatch.setattr(*hook("Workers.serves"), wait_and_serve)
            gate = threading.Event()
            queued = [held.pool.submit(gate.wait, 20) for _ in range(waiting)]
            resize(held.pool, to)
            until(lambda: held.pool.stats().running == workers)
            assert len(held.workers()) == workers
            gate.set()
            wait(queued, 20)

    def test_submits_that_wait(self) -> None:
        """A place in the backlog comes free by it."""
        with Held(1, max_backlog=1) as held:
            gate = threading.Event()
            held.pool.submit(gate.wait, 20)
            with beside(lambda: held.pool.submit(gate.wait, 20)):
                until(lambda: held.pool.stats().blocked_submitters)
                held.pool.resize(2)
            until(lambda: held.pool.stats().running == 2)
            assert held.pool.stats().backlog == 1
            gate.set()

    def test_cancelled(self) -> None:
        """Nobody starts for those."""
        with Held(1) as held:
            assert all(future.cancel() for future in [held.pool.submit(int) for _ in range(3)])
            held.pool.resize(3)
            assert held.workers() == ["w_0"]

    def test_in_a_task(self) -> None:
        """That is where a pool learns that it could do with more."""

        def grow() -> None:
            gate = threading.Event()
            other = pool.submit(gate.wait, 20)
            assert other.running() is False
            pool.resize(2)
            until(other.running)
            gate.set()

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(grow).result(20)

    def test_idle_ones_first(self) -> None:
        """Nobody is started whom nobody needs."""
        with StatefulThreadPoolExecutor(2) as pool:
            begun(pool, 2)
            until(lambda: all_idle(pool, 2))
            pool.resize(8)
            begun(pool, 2)
            assert pool.stats().workers == 2

    def test_no_more_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those that are there will do."""
        with Held(1) as held:
            queued = held.pool.submit(where)
            with monkeypatch.context() as patch:
                fail_to_start(patch)
                held.pool.resize(2)
            held.release(0)
            assert queued.result(20) == "w_0"


class TestShrinking:
    """Fewer workers than before."""

    def test_idle_ones_at_once(self, resize: Callable[[Pool, Any], None]) -> None:
        """They tear down in their threads, and the one that was busy last stays."""
        with Held(4) as held:
            for number in (3, 1, 0, 2):
                held.release(number)
                until(lambda: held.pool.stats().idle == len([gate for gate in held.gates.values() if gate.is_set()]))
            until(lambda: all_idle(held.pool, 4))
            resize(held.pool, 2)
            until(lambda: all_idle(held.pool, 2))
            assert held.workers() == ["w_0", "w_2"]
            assert len(held.states.torn_down) == 2
            until(lambda: len([thread for thread in threading.enumerate() if thread.name.startswith("w_")]) == 2)

    def test_idle_ones_first(self) -> None:
        """The busy ones stay, and so does what they do."""
        with Held(4) as held:
            held.release(1, 2)
            until(lambda: held.pool.stats().idle == 2)
            held.pool.resize(2)
            until(lambda: held.workers() == ["w_0", "w_3"])
            held.release(0, 3)
            until(lambda: all_idle(held.pool, 2))

    def test_busy_ones_after_their_task(self) -> None:
        """Whoever ends first; `resize` does not wait, and the tasks that wait are run by those who stay."""
        with Held(3) as held:
            queued = [held.pool.submit(where) for _ in range(3)]
            held.pool.resize(1)
            assert held.workers() == ["w_0", "w_1", "w_2"]
            assert "3 of 1 workers" in repr(held.pool)
            held.release(1)
            until(lambda: held.workers() == ["w_0", "w_2"])
            assert not queued[0].done()
            held.release(2)
            until(lambda: held.workers() == ["w_0"])
            assert not queued[0].done()
            held.release(0)
            assert [future.result(20) for future in queued] == ["w_0"] * 3
            assert held.pool.stats().workers == 1
            assert len(held.pool._threads) == 1

    def test_below_those_busy(self) -> None:
        """Idle ones and busy ones, all but one."""
        with Held(4) as held:
            held.release(0)
            until(lambda: held.pool.stats().idle == 1)
            held.pool.resize(1)
            until(lambda: held.workers() == ["w_1", "w_2", "w_3"])
            held.release(3, 2)
            until(lambda: held.workers() == ["w_1"])
            held.release(1)
            assert held.pool.submit(where).result(20) == "w_1"

    def test_in_a_task(self) -> None:
        """That task's own worker may be the one that leaves."""
        with Held(2) as held:
            held.pool.submit(held.pool.resize, 1)
            queued = held.pool.submit(where)
            held.release(0)
            until(lambda: held.workers() == ["w_1"])
            assert not queued.done()
            held.release(1)
            assert queued.result(20) == "w_1"

    def test_a_task_that_waits_for_another(self) -> None:
        """Its worker is busy until both have ended, though there is only one left to run them."""
        gate, resized = threading.Event(), threading.Event()

        def outer() -> str:
            gate.set()
            resized.wait(20)
            return str(pool.submit(lambda: pool.submit(where).result(20)).result(20))

        with StatefulThreadPoolExecutor(2, "w") as pool:
            futures = [pool.submit(outer) for _ in range(2)]
            gate.wait(20)
            pool.resize(1)
            resized.set()
            assert {future.result(20) for future in futures} <= {"w_0", "w_1"}
            until(lambda: all_idle(pool, 1))

    def test_while_a_task_waits(self) -> None:
        """It is asleep in there, and goes on."""
        go_on = threading.Event()
        with Held(2) as held:
            held.pool.resize(3)
            other = held.pool.submit(go_on.wait, 20)
            until(other.running)
            held.pool.resize(4)
            waits = held.pool.submit(lambda: (other.result(20), where())[1])
            until(lambda: any(inside(worker).parker for worker in inside(held.pool).workers))
            held.pool.resize(1)
            held.release(0, 1)
            until(lambda: held.workers() == ["w_2", "w_3"])
            go_on.set()
            assert waits.result(20) == "w_3"
            until(lambda: all_idle(held.pool, 1))

    def test_with_idle_timeout(self) -> None:
        """It has workers leave as well: no task is stranded by both."""
        states = States()
        with StatefulThreadPoolExecutor(3, "w", states.make, finalizer=states.tear_down, idle_timeout=0.001) as pool:
            for size in [1, 3, 2] * 20:
                pool.resize(size)
                assert pool.with_state().submit(type).result(20) is int
            until(lambda: not pool.stats().workers)
        states.check()

    def test_one_many_one(self) -> None:
        """Again and again, with the names used again."""
        with StatefulThreadPoolExecutor(1, "w") as pool:
            for _ in range(10):
                pool.resize(4)
                begun(pool, 4)
                assert {thread.name for thread in pool._threads} == {"w_0", "w_1", "w_2", "w_3"}
                pool.resize(1)
                until(lambda: all_idle(pool, 1))

    def test_every_state(self) -> None:
        """Those of views and scopes, too; and the scope does not wait for what is gone."""
        log: list[str] = []
        with StatefulThreadPoolExecutor(2, "w", list, finalizer=lambda _: log.append("own")) as pool:
            everyone = threading.Barrier(2)
            with pool.scope() as scope:
                view = pool.with_state(set, finalizer=lambda _: log.append("view"))
                scoped = scope.with_state(set, finalizer=lambda _: log.append("scope"))
                wait([view.submit(lambda _: everyone.wait(20)) for _ in range(2)])
                wait([scoped.submit(lambda _: everyone.wait(20)) for _ in range(2)])
                until(lambda: all_idle(pool, 2))
                pool.resize(1)
                until(lambda: all_idle(pool, 1))
                assert log == ["scope", "view", "own"]
            assert log == ["scope", "view", "own", "scope"]

    def test_during_the_teardown(self) -> None:
        """The finalizer resizes the pool that its worker leaves."""

        def tear_down(_: object) -> None:
            with suppress(RuntimeError):  # after `shutdown`
                pool.resize(1)

        with StatefulThreadPoolExecutor(3, "w", list, finalizer=tear_down) as pool:
            begun(pool, 3)
            until(lambda: all_idle(pool, 3))
            pool.resize(2)
            until(lambda: all_idle(pool, 1))


class TestGrowingAgain:
    """Those who are to leave have not left yet."""

    def test_before_they_end_their_task(self) -> None:
        """Then they stay."""
        with Held(3) as held:
            held.pool.resize(1)
            held.pool.resize(3)
            held.release(0, 1, 2)
            until(lambda: all_idle(held.pool, 3))
            assert not held.states.torn_down

    @pytest.mark.parametrize("queued", [0, 1, 3])
    def test_while_they_tear_down(self, queued: int) -> None:
        """They stay if there are tasks for them, and then make a new state."""
        tearing, go_on, hold = threading.Semaphore(0), threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(3, "w", list, finalizer=lambda _: (tearing.release(), go_on.wait(20))) as pool:
            begun(pool, 3)
            until(lambda: all_idle(pool, 3))
            pool.resize(1)
            for _ in range(2):
                assert tearing.acquire(timeout=20)
            futures = [pool.submit(hold.wait, 20) for _ in range(queued + 1)]
            pool.resize(3)
            assert pool.stats().workers == 3  # those count until they have torn down
            assert pool.stats().running <= 1
            go_on.set()
            until(lambda: pool.stats().running == min(queued + 1, 3))
            hold.set()
            wait(futures, 20)
            begun(pool, 3)


class TestBroadcasts:
    """What a worker has accepted it runs before it leaves; one that leaves is asked no more."""

    def test_accepted_before(self) -> None:
        """By busy workers, of which all but one are to leave."""
        with Held(3) as held:
            futures = held.pool.broadcast(where)
            held.pool.resize(1)
            later = held.pool.broadcast(where)
            held.release(0, 1, 2)
            assert [future.result(20) for future in futures + later] == ["w_0", "w_1", "w_2"] * 2
            until(lambda: len(held.workers()) == 1)
            assert [future.result(20) for future in held.pool.broadcast(where)] == held.workers()

    def test_to_one_that_tears_down(self) -> None:
        """It is none of those that are asked."""
        tearing, go_on = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(2, "w", list, finalizer=lambda _: (tearing.set(), go_on.wait(20))) as pool:
            begun(pool, 2)
            until(lambda: all_idle(pool, 2))
            pool.resize(1)
            assert tearing.wait(20)
            assert len(pool.broadcast(where)) == 1
            go_on.set()

    def test_in_the_middle(self) -> None:
        """One worker runs its part, the other one waits for it there."""
        go_on, entered = threading.Event(), threading.Barrier(3)
        with StatefulThreadPoolExecutor(2, "w") as pool:
            begun(pool, 2)
            futures = pool.broadcast(lambda: (entered.wait(20), go_on.wait(20), where())[2])
            entered.wait(20)
            pool.resize(1)
            go_on.set()
            assert [future.result(20) for future in futures] == ["w_0", "w_1"]
            until(lambda: all_idle(pool, 1))


class TestNoLongerOpen:
    """As `submit` has it then, and nothing changes."""

    def test_shut_down(self, resize: Callable[[Pool, Any], None]) -> None:
        with Held(2) as held:
            held.pool.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="after shutdown"):
                resize(held.pool, 1)
            assert held.pool._max_workers == 2

    def test_broken(self, resize: Callable[[Pool, Any], None], caplog: pytest.LogCaptureFixture) -> None:
        def fail() -> None:
            raise LookupError

        with StatefulThreadPoolExecutor(2, "w", fail) as pool:
            with suppress(BrokenThreadPool):
                pool.submit(int).exception(20)
            with pytest.raises(BrokenThreadPool, match="its initializer raised LookupError"):
                resize(pool, 3)
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("cancels", [False, True])
    def test_shut_down_after_it(self, cancels: bool) -> None:
        """Those too many leave, and the rest does what is queued."""
        with Held(3) as held:
            queued = [held.pool.submit(where) for _ in range(5)]
            held.pool.resize(1)
            held.pool.shutdown(wait=False, cancel_futures=cancels)
            held.release(0, 1)
            until(lambda: held.pool.stats().workers == 1)
            held.release(2)
            held.pool.shutdown()
            if cancels:
                assert all(future.cancelled() for future in queued)
            else:
                assert [future.result(0) for future in queued] == ["w_2"] * 5

    def test_dropped_after_it(self) -> None:
        """Nobody refers to the pool any more, and the idle ones are just leaving."""
        pool: Pool | None = StatefulThreadPoolExecutor(3)
        assert pool is not None
        begun(pool, 3)
        registry = inside(pool)
        pool.resize(1)
        pool = None
        assert registry.join(20)


class TestInitializerThatFails:
    """In a pool that has worked before: a worker has no state, and waits for a task that it will fail."""

    def test_leaves(self) -> None:
        """It is as good as idle, or, with tasks that wait, between two of them."""
        fails, gate = threading.Event(), threading.Event()

        def initialize() -> None:
            if fails.is_set():
                raise OSError("no")

        with StatefulThreadPoolExecutor(2, "w", initialize) as pool:
            entered = threading.Event()
            held = pool.submit(lambda: (entered.set(), gate.wait(20), where())[2])
            assert entered.wait(20)
            fails.set()
            assert isinstance(pool.submit(int).exception(20), InitializerError)
            until(lambda: pool.stats().idle == 1)
            pool.resize(1)
            until(lambda: pool.stats().workers == 1)
            queued = pool.submit(where)
            gate.set()
            assert held.result(20) == queued.result(20) == "w_0"


class TestTogether:
    """Several at once, from threads that know nothing of each other."""

    @pytest.mark.parametrize("idle_timeout", [None, 0])
    def test_hammered(self, idle_timeout: float | None, nervous: None) -> None:
        """Every task is run, every state torn down, and at the end there are as many workers as may be."""
        states = States()
        pool: Pool = StatefulThreadPoolExecutor(
            2, "w", states.make, finalizer=states.tear_down, idle_timeout=idle_timeout, max_backlog=4
        )
        results: list[int] = []

        def submit(start: int) -> None:
            view = pool.with_state()
            results.extend(view.submit(lambda _, n=number: n).result(20) for number in range(start, start + 60))

        def change(sizes: list[int]) -> None:
            for size in sizes * 20:
                pool.resize(size)
                with suppress(CancelledError):
                    for future in pool.broadcast(int):
                        future.result(20)

        with pool:
            threads = [threading.Thread(target=submit, args=(start,)) for start in (0, 100)]
            threads += [threading.Thread(target=change, args=(sizes,)) for sizes in ([1, 4], [3, 2, 1])]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            pool.resize(2)
            assert sorted(results) == [*range(60), *range(100, 160)]
            until(lambda: pool.stats().workers <= 2)
            begun(pool, 2)
        states.check()

    def test_last_one_wins(self) -> None:
        """In the order in which they return."""
        with StatefulThreadPoolExecutor(4) as pool:
            begun(pool, 4)
            for size in (2, 4, 1, 3):
                run_in_thread(lambda size=size: pool.resize(size))
            assert pool._max_workers == 3
            begun(pool, 3)
