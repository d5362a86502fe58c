"""Broadcast: each worker once, between its tasks."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Self

import pytest
from inside import Worker, inside
from stages import OnFirstEntry
from starts import before_start
from threads import run_in_thread, until, where

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy
from stateful_executor.errors import BrokenThreadPool


def names(numbers: range | list[int]) -> list[str]:
    return [f"w_{number}" for number in numbers]


class Held:
    """A pool `w` whose `n` workers run a task until `go_on`, or the end of the block; `spare` more may start."""

    def __init__(
        self, n: int, entry_point: Callable[[Any], Any] = lambda pool: pool, *, spare: int = 0, **kwargs: Any
    ) -> None:
        self.pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(n + spare, "w", **kwargs)
        self.go_on = threading.Event()
        begun = threading.Barrier(n + 1)

        def hold(*state: object) -> str:
            begun.wait(20)
            self.go_on.wait(20)
            return where()

        self.held = [entry_point(self.pool).submit(hold) for _ in range(n)]
        begun.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.pool.shutdown()

    def waiting(self) -> int:
        """How many calls of broadcasts wait in the workers."""
        return sum(len(inside(worker).broadcasts) for worker in inside(self.pool).workers)


ENTRY_POINTS: dict[str, Callable[[Any, Any], Any]] = {
    "pool": lambda pool, scope: pool,
    "own state": lambda pool, scope: pool.with_state(),
    "another state": lambda pool, scope: pool.with_state(list),
    "scope, own state": lambda pool, scope: scope.with_state(),
    "scope, another state": lambda pool, scope: scope.with_state(list),
}


class TestOnceEach:
    """Each worker there is, exactly once, and the results in the workers' order."""

    @pytest.mark.parametrize("entry_point", ENTRY_POINTS)
    @pytest.mark.parametrize("busy", [False, True])
    def test_in_worker_order(self, entry_point: str, busy: bool) -> None:
        """Through every entry point, to workers idle or busy."""
        everyone, go_on = threading.Barrier(5), threading.Event()
        calls: list[tuple[str, tuple[Any, ...], dict[str, int]]] = []
        with StatefulThreadPoolExecutor(4, "w", set) as pool, pool.scope() as scope:
            d = ENTRY_POINTS[entry_point](pool, scope)
            held = [d.submit(lambda *state: (everyone.wait(20), go_on.wait(20))) for _ in range(4)]
            everyone.wait(20)
            if not busy:
                go_on.set()
                wait(held)
            futures = d.broadcast(lambda *args, **kwargs: (calls.append((where(), args, kwargs)), where())[1], 1, b=2)
            go_on.set()
            assert [future.result(10) for future in futures] == names(range(4))
        assert sorted(name for name, _, _ in calls) == names(range(4))
        kind = {"pool": None, "own state": set, "scope, own state": set}.get(entry_point, list)
        assert all(args == ((1,) if kind is None else (kind(), 1)) and kwargs == {"b": 2} for _, args, kwargs in calls)

    def test_a_view_reaches_those_that_hold_its_state(self) -> None:
        """And lends each its own state, of which none is made anew."""
        everyone, go_on = threading.Barrier(4), threading.Event()

        def hold(*state: Any) -> tuple[str, int]:
            everyone.wait(20)
            go_on.wait(20)
            return where(), *map(id, state)

        with StatefulThreadPoolExecutor(3, "w") as pool:
            view = pool.with_state(list)
            held = [view.submit(hold), pool.submit(hold), view.submit(hold)]
            everyone.wait(20)
            futures = view.broadcast(lambda state: (where(), id(state)))
            go_on.set()
            assert [future.result(10) for future in futures] == sorted(held[n].result() for n in (0, 2))
            assert pool.stats().states_made == 2

    def test_no_workers(self) -> None:
        """There is nobody to run anything, and who starts later was not meant."""
        calls: list[str] = []
        with StatefulThreadPoolExecutor(2, "w", list) as pool, pool.scope() as scope:
            for entry_point in ENTRY_POINTS.values():
                assert entry_point(pool, scope).broadcast(lambda *_: calls.append(where())) == []
            assert pool.stats().workers == 0
            pool.submit(int).result()
            assert pool.with_state(dict).broadcast(lambda _: calls.append(where())) == []
        assert calls == []

    def test_one_that_starts_later(self) -> None:
        """Only the workers at the time of the call."""
        with Held(1, spare=1) as held:
            futures = held.pool.broadcast(where)
            assert held.pool.submit(where).result(10) == "w_1"
            held.go_on.set()
            assert [future.result(10) for future in futures] == ["w_0"]

    def test_one_that_is_starting(self) -> None:
        """A worker whose initializer still runs is one: its part comes after that."""
        log: list[str] = []
        begun, go_on = threading.Event(), threading.Event()

        def start() -> str:
            begun.set()
            go_on.wait(20)
            log.append("started")
            return "state"

        with StatefulThreadPoolExecutor(1, "w", start) as pool:
            pool.submit(int)
            begun.wait(20)
            futures = pool.broadcast(lambda: log.append("call")) + pool.with_state().broadcast(log.append)
            go_on.set()
            for future in futures:
                future.result(10)
        assert len(futures) == 2
        assert log == ["started", "call", "state"]

    @pytest.mark.parametrize("starts", [True, False])
    def test_one_that_is_about_to_start(self, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes its part, or none; when its thread can't be started no part of it waits for ever."""
        with Held(1, spare=1) as held:
            results: list[list[Any]] = []
            thread = threading.Thread(target=lambda: results.append(held.pool.broadcast(where)))

            def meanwhile(_: Worker) -> None:
                thread.start()
                if not starts:
                    raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                before_start(meanwhile, patch)
                task = held.pool.submit(where)
            thread.join(10)
            held.go_on.set()
            assert task.result(10) in names([0, 1])
            reached = [future.result(10) for future in results[0]]
            assert reached in (names([0]), names([0, 1])[: 1 + starts])

    def test_discarded_states_are_made_anew(self) -> None:
        """`discard_all`, then broadcast: each worker makes another one for the call."""
        numbers = iter(range(100))
        with StatefulThreadPoolExecutor(3, "w") as pool:
            view = pool.with_state(lambda: next(numbers))
            everyone = threading.Barrier(3)
            wait([view.submit(lambda _: everyone.wait(20)) for _ in range(3)])
            first = [future.result() for future in view.broadcast(lambda number: number)]
            view.discard_all()
            futures = view.broadcast(lambda number: (where(), number))
            assert sorted(first) == [0, 1, 2]
            assert [future.result(10)[0] for future in futures] == names(range(3))
            assert {future.result()[1] for future in futures} == {3, 4, 5}
            assert pool.stats().states_discarded == 3

    def test_from_several_threads(self, nervous: None) -> None:
        """Each of many broadcasts at once reaches each worker once."""
        calls: Counter[tuple[str, int]] = Counter()
        lock = threading.Lock()

        def call(number: int) -> int:
            with lock:
                calls[where(), number] += 1
            return number

        def broadcast_many(thread: int) -> None:
            for number in range(thread * 100, thread * 100 + 30):
                if number % 3:
                    held.pool.submit(int)
                futures = held.pool.broadcast(call, number)
                if number % 2:
                    assert [future.result(10) for future in futures] == [number] * 3

        with Held(3) as held:
            held.go_on.set()
            threads = [threading.Thread(target=broadcast_many, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(calls) == 4 * 30 * 3
        assert set(calls.values()) == {1}

    def test_accumulators(self) -> None:
        """What many tasks counted in their workers' states, gathered by a broadcast, is what one counter counts."""
        words = ["abcdefgh"[n * n * n // 7 % 8] for n in range(2000)]

        def count(counts: Counter[str], *some: str) -> None:
            counts.update(some)

        with StatefulThreadPoolExecutor(4) as pool, pool.scope() as scope:
            for view in pool.with_state(Counter[str]), scope.with_state(Counter[str]):
                wait([view.submit(count, *words[n : n + 7]) for n in range(0, len(words), 7)])
                total: Counter[str] = Counter()
                for future in view.broadcast(Counter.copy):
                    total += future.result(10)
                assert total == Counter(words)


class TestBusy:
    """A busy worker does its part when its task has ended, before any other that waits."""

    def test_after_the_running_task_and_before_the_next(self) -> None:
        """Whatever was queued before."""
        log: dict[str, list[str]] = {name: [] for name in names(range(2))}
        with Held(2) as held:
            held.held[0].add_done_callback(lambda future: log[future.result()].append("held"))
            held.held[1].add_done_callback(lambda future: log[future.result()].append("held"))
            queued = [held.pool.submit(lambda: log[where()].append("task")) for _ in range(6)]
            futures = held.pool.broadcast(lambda: log[where()].append("call"))
            assert held.waiting() == 2
            assert not any(future.running() or future.done() for future in futures)
            held.go_on.set()
            wait(queued + futures)
        assert [entries[:2] for entries in log.values()] == [["held", "call"]] * 2
        assert sum(entries.count("task") for entries in log.values()) == 6

    def test_in_the_order_of_the_calls(self) -> None:
        """Several that wait are run in each worker in the order in which they were called."""
        log: dict[str, list[int]] = {name: [] for name in names(range(2))}
        with Held(2) as held:
            for number in range(5):
                held.pool.broadcast(lambda number=number: log[where()].append(number))
        assert log == {name: list(range(5)) for name in names(range(2))}

    def test_takes_no_place(self) -> None:
        """Nor waits for one, nor counts in the backlog."""
        with Held(1, max_backlog=1) as held:
            queued = held.pool.submit(where)
            futures = [held.pool.broadcast(where) for _ in range(3)]
            assert held.pool.stats().backlog == 1
            held.go_on.set()
            assert [future.result(10) for (future,) in futures] == ["w_0"] * 3
            assert queued.result(10) == "w_0"
            held.pool.submit(int).result(10)
        registry = inside(held.pool)
        assert len(registry.free_permits or ()) == 1

    @pytest.mark.parametrize("what", ["broadcast", "request"])
    def test_not_after_a_long_backlog(self, what: str) -> None:
        """It comes after the task that runs, before those that wait."""
        log: list[Any] = []
        torn_down: list[str] = []
        with Held(1) as held:
            pool = held.pool
            view = pool.with_state(list, finalizer=lambda _: torn_down.append(where()))
            held.go_on.set()
            view.submit(len).result(20)
            go_on = threading.Event()
            held_again = pool.submit(go_on.wait, 20)
            until(held_again.running)
            for _ in range(100):
                pool.submit(lambda: log.append(list(torn_down)))
            if what == "broadcast":
                pool.broadcast(lambda: torn_down.append(where()))
            else:
                view.discard_all()
            go_on.set()
        assert log == [names([0])] * 100

    def test_not_inside_a_task_that_waits(self) -> None:
        """A task that waits for another one goes on waiting: broadcast comes between tasks."""
        log: list[str] = []
        inner_begun, known, go_on = threading.Event(), threading.Event(), threading.Event()
        inner_future: list[Any] = []

        def outer() -> str:
            known.wait(20)
            inner_future[0].result(20)
            log.append("outer ends")
            return where()

        with StatefulThreadPoolExecutor(2, "w") as pool:
            outer_future = pool.submit(outer)
            inner_future.append(pool.submit(lambda: (inner_begun.set(), go_on.wait(20))))
            inner_begun.wait(20)
            known.set()
            until(lambda: any(inside(worker).parker is not None for worker in list(inside(pool).workers)))
            futures = pool.broadcast(lambda: log.append(where()))
            go_on.set()
            wait(futures)
            mine = [entry for entry in log if entry in ("outer ends", outer_future.result(10))]
        assert mine == ["outer ends", outer_future.result()]

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("parks", [False, True])
    def test_as_the_worker_becomes_idle(self, moment: str, parks: bool) -> None:
        """It comes just before or after the worker says that it is idle: a call that is not missed."""

        class Idle(dict[Any, None]):
            """The idle workers, with a broadcast around the first entry."""

            hook = True

            def __setitem__(self, worker: Any, value: None) -> None:
                now, self.hook = self.hook, False
                if now and moment == "before":
                    run_in_thread(lambda: futures.extend(pool.broadcast(where)))
                super().__setitem__(worker, value)
                if now and moment == "after":
                    run_in_thread(lambda: futures.extend(pool.broadcast(where)))

        futures: list[Any] = []
        with Held(1) as held:
            pool = held.pool
            inside(pool).idle = Idle()
            if parks:  # after a task with a callback it enters when it parks, after others already as they end
                held.held[0].add_done_callback(lambda _: None)
            held.go_on.set()
            until(lambda: futures)
            assert [future.result(10) for future in futures] == ["w_0"]
            assert pool.submit(where).result(10) == "w_0"

    def test_taken_for_idle_by_a_submit(self) -> None:
        """A task given to the worker that seemed idle, and has a call to run first, goes to another worker."""
        ran = threading.Event()
        in_time: list[bool] = []

        def meanwhile(worker: Any) -> None:
            """Just after the worker has said that it is idle, and before it looks at the broadcasts."""
            inside(worker).broadcasts.append(slow)
            run_in_thread(lambda: pool.submit(ran.set))
            assert worker not in inside(pool).idle

        with Held(1, spare=1) as held:
            pool = held.pool
            (slow,) = pool.broadcast(lambda: in_time.append(ran.wait(10)))
            inside(next(iter(inside(pool).workers))).broadcasts.clear()
            inside(pool).idle = OnFirstEntry(meanwhile)
            held.go_on.set()
            slow.result(20)
        assert in_time == [True]


class TestRetiring:
    """Workers that have been idle for too long."""

    def test_one_that_tears_down(self) -> None:
        """It is about to end, and no call is made for it; nor is it one of the view's."""
        tearing, go_on = threading.Event(), threading.Event()
        pool = StatefulThreadPoolExecutor(
            1, "w", list, finalizer=lambda _: (tearing.set(), go_on.wait(20)), idle_timeout=0.01
        )
        pool.submit(int).result()
        tearing.wait(20)
        assert pool.broadcast(where) == []
        assert pool.with_state().broadcast(where) == []
        go_on.set()
        pool.shutdown()

    @pytest.mark.parametrize("entry_point", ["pool", "own state"])
    def test_one_that_has_decided_to_leave(self, entry_point: str) -> None:
        """It comes when the worker is past its time, and before it tears down: run, with the state it still has."""
        log: list[str] = []
        with StatefulThreadPoolExecutor(
            1, "w", lambda: "state", finalizer=lambda _: log.append("teardown"), idle_timeout=0.05
        ) as pool:
            begun, hold = threading.Event(), threading.Event()
            pool.submit(lambda: (begun.set(), hold.wait(20)))
            begun.wait(20)
            (worker,) = map(inside, inside(pool).workers)
            stop, futures = worker.stop_broadcasts, []

            def late() -> bool:
                worker.stop_broadcasts = stop
                run_in_thread(
                    lambda: futures.extend(
                        ENTRY_POINTS[entry_point](pool, None).broadcast(lambda *_: log.append("call"))
                    )
                )
                return stop()

            worker.stop_broadcasts = late
            hold.set()
            until(lambda: log)
            wait(futures)
            assert len(futures) == 1
        assert log == ["call", "teardown"]
        assert pool.stats().states_made == 1

    def test_one_that_stays_after_all(self) -> None:
        """A worker that tore down, and starts anew since a task came meanwhile, is reached again."""
        tearing, go_on = threading.Event(), threading.Event()
        numbers = iter(range(10))
        with StatefulThreadPoolExecutor(
            1, "w", lambda: next(numbers), finalizer=lambda _: (tearing.set(), go_on.wait(20)), idle_timeout=0.05
        ) as pool:
            view = pool.with_state()
            view.submit(int).result()
            tearing.wait(20)
            begun, hold = threading.Event(), threading.Event()
            task = view.submit(lambda number: (begun.set(), hold.wait(20), number)[2])
            go_on.set()
            begun.wait(20)
            futures = pool.broadcast(where) + view.broadcast(lambda number: number)
            hold.set()
            assert task.result(10) == 1
            assert [future.result(10) for future in futures] == ["w_0", 1]

    @pytest.mark.parametrize("idle_timeout", [0, 0.0005])
    def test_hammered(self, idle_timeout: float, nervous: None) -> None:
        """Workers come and go: each call ends, none runs twice in a thread, and the order is the workers'."""
        stop = threading.Event()

        def submit_some() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                for future in [view.submit(len) for _ in range(1 + number % 4)]:
                    assert future.result(10) == 0
                if number % 3 == 0:
                    time.sleep(0.001)  # for which workers retire

        with StatefulThreadPoolExecutor(4, "w", list, idle_timeout=idle_timeout) as pool:
            view = pool.with_state()
            threads = [threading.Thread(target=submit_some) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(60):
                    for futures in (
                        pool.broadcast(lambda: threading.current_thread()),
                        view.broadcast(lambda state: threading.current_thread()),
                    ):
                        ran_in = [future.result(10) for future in futures]
                        assert len(set(ran_in)) == len(ran_in)
                        indices = [int(thread.name[2:]) for thread in ran_in]
                        assert indices == sorted(set(indices))
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        assert pool.stats().teardown_errors == 0
        assert pool.stats().states_made == pool.stats().states_torn_down


class TestFailures:
    """What a call raises, and states that can't be made."""

    def test_errors_are_in_the_futures(self) -> None:
        """Each future has its own worker's, and the workers go on."""
        with Held(3) as held:
            held.go_on.set()

            def fail() -> None:
                raise LookupError(where())

            futures = held.pool.broadcast(fail)
            errors = [future.exception(10) for future in futures]
            assert [str(error) for error in errors] == names(range(3))
            assert {type(error) for error in errors} == {LookupError}
            assert [future.result(10) for future in held.pool.broadcast(where)] == names(range(3))
            for error in (SystemExit, KeyboardInterrupt):
                futures = held.pool.broadcast(lambda error=error: (_ for _ in ()).throw(error))
                assert [type(future.exception(10)) for future in futures] == [error] * 3
            assert [future.result(10) for future in held.pool.broadcast(where)] == names(range(3))

    def test_a_lost_error_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """As a task's is."""

        def fail() -> None:
            raise LookupError

        with Held(1) as held:
            held.go_on.set()
            wait(held.pool.broadcast(fail))
        gc.collect()
        assert ["fail" in record.getMessage() for record in caplog.records] == [True]

    def test_a_check_that_fails(self) -> None:
        """The state is replaced for the call; when the new one fails too, so does the call, and that worker's only."""
        numbers, lock = iter(range(100)), threading.Lock()
        bad: set[int] = set()

        def make() -> int:
            with lock:
                return next(numbers)

        with StatefulThreadPoolExecutor(2, "w") as pool:
            view = pool.with_state(make, policy=StatePolicy(check=lambda number: number not in bad))
            both = threading.Barrier(2)
            wait([view.submit(lambda _: both.wait(20)) for _ in range(2)])
            first = [future.result(10) for future in view.broadcast(int)]
            bad.add(first[0])
            second = [future.result(10) for future in view.broadcast(int)]
            assert second == [2, first[1]]
            bad.update([2, 3])
            failed, good = view.broadcast(int)
            assert isinstance(failed.exception(10), InitializerError)
            assert good.result(10) == first[1]
            assert [future.result(10) for future in view.broadcast(int)] == [4, first[1]]

    def test_a_state_that_cannot_be_made(self) -> None:
        """The call gets `InitializerError`; the worker holds none now, but has needed one, and is reached again."""
        broken = threading.Event()

        def make() -> str:
            if broken.is_set():
                raise OSError("no more")
            return "state"

        with Held(2, lambda pool: pool.with_state(make)) as held:
            held.go_on.set()
            wait(held.held)
            view = held.pool.with_state(make)
            view.discard_all()
            broken.set()
            errors = [future.exception(10) for future in view.broadcast(str)]
            assert [type(error) for error in errors] == [InitializerError] * 2
            assert [str(error and error.__cause__) for error in errors] == ["no more"] * 2
            assert [future.result(10) for future in held.pool.broadcast(where)] == names(range(2))
            broken.clear()
            assert [future.result(10) for future in view.broadcast(str)] == ["state"] * 2

    def test_a_worker_that_cannot_start(self) -> None:
        """A later failure of the pool's initializer is the waiting call's, and the task after it tries again."""
        second, go_on = threading.Event(), threading.Event()
        starts = iter([lambda: None, lambda: (second.set(), go_on.wait(20), 1 / 0), lambda: None])
        begun, hold = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(2, "w", lambda: next(starts)()) as pool:
            pool.submit(lambda: (begun.set(), hold.wait(20)))
            begun.wait(20)
            task = pool.submit(where)
            second.wait(20)
            futures = pool.broadcast(where)
            go_on.set()
            error = futures[1].exception(10)
            assert isinstance(error, InitializerError)
            assert isinstance(error.__cause__, ZeroDivisionError)
            assert task.result(10) == "w_1"
            hold.set()
            assert futures[0].result(10) == "w_0"

    def test_a_worker_that_could_not_start_and_leaves(self) -> None:
        """No call is run in a worker whose initializer has failed, also not when it comes as that one retires."""
        local = threading.local()
        starts = iter([True, False, True, True, True])
        futures: list[Any] = []
        left = threading.Event()

        def start() -> None:
            if not next(starts):
                raise OSError
            local.started = True

        begun, hold = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(2, "w", start, idle_timeout=0.05) as pool:
            pool.submit(lambda: (begun.set(), hold.wait(20)))
            begun.wait(20)
            make_worker = inside(pool).new_worker
            worker = make_worker()
            inside(pool).new_worker = lambda: worker
            stop = inside(worker).stop_broadcasts

            def late() -> bool:
                inside(worker).stop_broadcasts = stop
                run_in_thread(lambda: futures.extend(pool.broadcast(lambda: local.started)))
                left.set()
                return stop()

            inside(worker).stop_broadcasts = late
            assert isinstance(pool.submit(int).exception(10), InitializerError)
            inside(pool).new_worker = make_worker
            left.wait(20)
            hold.set()
            errors = [future.exception(10) for future in futures]
        assert len(errors) == 2
        assert errors[0] is None
        assert errors[1] is None or isinstance(errors[1], InitializerError)

    def test_broken_pool(self) -> None:
        """What waits gets an error of its own with the cause; what comes later raises."""
        begun, go_on = threading.Event(), threading.Event()
        original = ConnectionError("no route to host")

        def connect() -> None:
            begun.set()
            go_on.wait(20)
            raise original

        with StatefulThreadPoolExecutor(1, initializer=connect) as pool:
            task = pool.submit(int)
            begun.wait(20)
            futures = pool.broadcast(where) + pool.broadcast(where) + pool.with_state().broadcast(where)
            assert futures[1].cancel()
            go_on.set()
            errors = [future.exception(10) for future in (task, futures[0], futures[2])]
            assert [type(error) for error in errors] == [BrokenThreadPool] * 3
            assert len({id(error) for error in errors}) == 3
            assert all(error is not None and error.__cause__ is original for error in errors)
            with pytest.raises(BrokenThreadPool, match="no route to host") as caught:
                pool.broadcast(where)
            assert caught.value.__cause__ is original

    def test_teardown_waits_in_a_pool_that_breaks(self) -> None:
        """For the calls, which have failed by then."""
        makes, notes = threading.Semaphore(1), []
        begun = threading.Barrier(3)
        fail, go_on = threading.Event(), threading.Event()

        def make() -> int:
            good = makes.acquire(blocking=False)
            begun.wait(20)
            if good and go_on.wait(20):
                return 1
            fail.wait(20)
            raise OSError

        pool = StatefulThreadPoolExecutor(2, "w", make, finalizer=lambda _: notes.append(wait(futures, 20).not_done))
        tasks = [pool.submit(int) for _ in range(2)]
        begun.wait(20)
        futures = pool.broadcast(where)
        fail.set()
        wait(tasks, 20)  # the other worker has broken the pool
        go_on.set()
        pool.shutdown()
        assert notes == [set()]
        assert {type(future.exception(0)) for future in futures} == {BrokenThreadPool}

    def test_view_of_a_broken_pool(self) -> None:
        """A view says the same."""
        with StatefulThreadPoolExecutor(1, initializer=lambda: 1 / 0) as pool:
            pool.submit(int).exception(10)
            with pytest.raises(BrokenThreadPool):
                pool.with_state().broadcast(where)


class TestCancel:
    """Calls that have not begun can be cancelled."""

    def test_leaves_nothing_behind(self) -> None:
        """Neither in the worker, nor of the arguments; the other workers' calls run."""

        class Argument:
            pass

        argument = Argument()
        gone = weakref.ref(argument)
        ran: list[str] = []
        with Held(3) as held:
            futures = held.pool.broadcast(lambda _: ran.append(where()), argument)
            assert held.waiting() == 3
            assert futures[1].cancel()
            assert held.waiting() == 2
            assert futures[0].cancel()
            assert futures[2].cancel()
            assert held.waiting() == 0
            assert held.pool.stats().cancelled == 3
            del argument
            assert gone() is None
            with pytest.raises(CancelledError):
                futures[1].result()
            futures = held.pool.broadcast(lambda _: ran.append(where()), None)
            futures[1].cancel()
        assert sorted(ran) == names([0, 2])

    def test_for_ever(self) -> None:
        """On workers that are stuck nothing grows."""
        with Held(2) as held:
            for _ in range(200):
                for future in held.pool.broadcast(where):
                    future.cancel()
            assert held.waiting() == 0
            assert not inside(held.pool).tombstones
            assert len(inside(held.pool).tail) == 0

    def test_against_begin(self, nervous: None) -> None:
        """Each call is either cancelled or run; never both, nor neither."""
        ran: Counter[int] = Counter()
        lock = threading.Lock()

        def run(number: int) -> None:
            with lock:
                ran[number] += 1

        with Held(2) as held:
            held.go_on.set()
            for number in range(150):
                futures = held.pool.broadcast(run, number)
                cancelled = sum(future.cancel() for future in futures)
                done, _ = wait(futures, 10)
                assert len(done) == 2
                assert ran[number] == 2 - cancelled
            assert held.waiting() == 0


class TestShutdown:
    """Calls that wait when the pool is shut down."""

    @pytest.mark.parametrize("cancel", [False, True])
    def test_while_they_wait(self, cancel: bool) -> None:
        """They run, or are cancelled with the tasks."""
        with Held(2) as held:
            futures = held.pool.broadcast(where)
            held.pool.shutdown(wait=False, cancel_futures=cancel)
            assert [future.cancelled() for future in futures] == [cancel] * 2
            assert held.waiting() == (0 if cancel else 2)
            held.go_on.set()
            held.pool.shutdown()
            assert cancel or [future.result(0) for future in futures] == names(range(2))

    def test_dropped_pool(self) -> None:
        """They run when the pool is dropped."""
        with Held(2) as held:
            futures = held.pool.broadcast(where)
            registry = inside(held.pool)
            del held.pool
            gc.collect()
            assert registry.close_reason is not None
            held.go_on.set()
            assert [future.result(10) for future in futures] == names(range(2))
            held.pool = StatefulThreadPoolExecutor(1)

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("entry_point", ["pool", "own state", "another state"])
    def test_afterwards(self, entry_point: str, workers: int) -> None:
        """`RuntimeError`, also when there is no worker, or none that holds such a state."""
        pool = StatefulThreadPoolExecutor(2, "w", set)
        d = ENTRY_POINTS[entry_point](pool, None)
        both = threading.Barrier(2)
        wait([d.submit(lambda *_: both.wait(20)) for _ in range(workers)])
        pool.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            d.broadcast(where)

    def test_meanwhile(self, nervous: None) -> None:
        """A shutdown at any moment: broadcast raises, or each of its calls ends."""
        for round_ in range(40):
            pool = StatefulThreadPoolExecutor(2, "w")
            start = threading.Barrier(3)
            both = threading.Barrier(2)
            wait([pool.submit(both.wait, 20) for _ in range(2)])
            made: list[Any] = []

            def broadcast(pool: Any = pool, start: Any = start, made: list[Any] = made) -> None:
                start.wait(20)
                with suppress(RuntimeError):
                    for _ in range(20):
                        made.extend(pool.broadcast(where))

            threads = [threading.Thread(target=broadcast) for _ in range(2)]
            for thread in threads:
                thread.start()
            start.wait(20)
            pool.shutdown(cancel_futures=bool(round_ % 2))
            for thread in threads:
                thread.join()
            assert all(future.done() for future in made)


class TestInWorkers:
    """Broadcast and a pool's own workers."""

    @pytest.mark.parametrize("entry_point", ["pool", "own state", "another state"])
    def test_not_from_a_worker(self, entry_point: str) -> None:
        """Two would wait for each other: `RuntimeError`, and nothing was handed out."""
        ran: list[str] = []

        def task() -> None:
            ENTRY_POINTS[entry_point](pool, None).broadcast(lambda *_: ran.append(where()))

        with StatefulThreadPoolExecutor(1, "w", set) as pool:
            ENTRY_POINTS[entry_point](pool, None).submit(lambda *_: None).result(10)
            with pytest.raises(RuntimeError, match="broadcast"):
                pool.submit(task).result(10)
        assert ran == []

    def test_not_on_a_scope_of_a_workers(self) -> None:
        """Nor through such a scope, in whatever thread: its end, in the worker, would wait for the worker."""
        caught: list[str] = []

        def broadcast(view: Any) -> None:
            try:
                view.broadcast(len)
            except RuntimeError as exc:
                caught.append(str(exc))

        def task() -> None:
            with pool.scope() as scope:
                view = scope.with_state(list)
                view.submit(len).result()
                run_in_thread(lambda: broadcast(view))

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(task).result(10)
        assert ["can't broadcast" in text for text in caught] == [True]

    def test_from_another_pools_worker(self) -> None:
        """That one may, and may wait for it."""
        with Held(2) as held, StatefulThreadPoolExecutor(1) as other:
            held.go_on.set()
            task = other.submit(lambda: [future.result(10) for future in held.pool.broadcast(where)])
            assert task.result(20) == names(range(2))

    @pytest.mark.parametrize("method", ["result", "exception"])
    def test_waiting_for_its_own(self, method: str) -> None:
        """A task can't wait for what its own worker runs after it; when it has ended, it runs; then all may ask."""
        handed, futures = threading.Event(), []

        def task() -> str:
            handed.wait(20)
            with pytest.raises(RuntimeError, match=r"w_0 is to run .* of a broadcast"):
                getattr(futures[0], method)()
            return where()

        with StatefulThreadPoolExecutor(1, "w") as pool:
            held = pool.submit(task)
            futures += pool.broadcast(where)
            handed.set()
            assert held.result(10) == "w_0"
            assert futures[0].result(10) == "w_0"
            assert pool.submit(futures[0].result).result(10) == "w_0"

    def test_waiting_for_another_workers(self) -> None:
        """A task may wait for another worker's call; it is that worker that runs it."""
        both, handed = threading.Barrier(2), threading.Event()
        futures: dict[str, Any] = {}

        def waits() -> tuple[str, str]:
            both.wait(20)
            handed.wait(20)
            (other,) = [name for name in futures if name != where()]
            return other, futures[other].result(20)

        def ends() -> None:
            both.wait(20)
            handed.wait(20)

        with StatefulThreadPoolExecutor(2, "w") as pool:
            task = pool.submit(waits)
            pool.submit(ends)
            until(lambda: pool.stats().running == 2)
            futures.update(zip(names(range(2)), pool.broadcast(where), strict=True))
            handed.set()
            other, ran_in = task.result(20)
            assert other == ran_in

    def test_a_call_uses_the_pool(self) -> None:
        """A call is a task like others: it may submit, and wait for that, on a pool with a full backlog too."""
        with Held(2, max_backlog=1) as held:
            held.pool.submit(int)

            def call() -> int:
                return sum(future.result(20) for future in [held.pool.submit(pow, n, 2) for n in range(4)])

            futures = held.pool.broadcast(call)
            held.go_on.set()
            assert [future.result(20) for future in futures] == [14, 14]

    def test_a_call_discards_its_state(self) -> None:
        """`discard` in a call, and a policy, look after its state as after any task's."""
        numbers, lock = iter(range(100)), threading.Lock()

        def make() -> int:
            with lock:
                return next(numbers)

        with Held(2, lambda pool: pool.with_state(make)) as held:
            held.go_on.set()
            view = held.pool.with_state(make)
            wait(view.broadcast(lambda _: view.discard()))
            assert held.pool.stats().states_torn_down == 2
            assert {future.result(10) for future in view.broadcast(int)} == {2, 3}


def test_copy_context() -> None:
    """Each call runs in a copy of its own of the caller's context."""
    name: ContextVar[str] = ContextVar("name", default="unset")

    def call() -> str:
        before = name.get()
        name.set(where())
        return before

    with Held(3, copy_context=True) as held:
        held.go_on.set()
        name.set("main")
        assert [future.result(10) for future in held.pool.broadcast(call)] == ["main"] * 3
        assert [future.result(10) for future in held.pool.broadcast(call)] == ["main"] * 3
        name.set("unset")
    with Held(1) as held:
        held.go_on.set()
        assert [held.pool.broadcast(call)[0].result(10) for _ in range(2)] == ["unset", "w_0"]


class TestScopes:
    """Through the view of a scope, the calls are the scope's tasks."""

    @pytest.mark.parametrize("own", [False, True])
    def test_joined(self, own: bool) -> None:
        """The block ends when they have, and only then are its states torn down."""
        log: list[str] = []
        begun = threading.Barrier(3)
        go_on = threading.Event()
        timer = threading.Timer(0.02, go_on.set)
        with StatefulThreadPoolExecutor(2, "w", list) as pool:
            with pool.scope() as scope:
                view = scope.with_state() if own else scope.with_state(list, finalizer=lambda _: log.append("teardown"))
                held = [view.submit(lambda _: (begun.wait(20), go_on.wait(20))) for _ in range(2)]
                begun.wait(20)
                futures = view.broadcast(lambda _: log.append("call"))
                assert not any(future.done() for future in (*held, *futures))
                timer.start()
            assert all(future.done() for future in futures)
            log.append("block ends")
        timer.join()
        assert sorted(log[:2]) == ["call", "call"] or sorted(log[:4]) == ["call", "call", "teardown", "teardown"]
        assert log[-1] == "block ends"

    def test_errors_are_raised_together(self) -> None:
        """Those that nobody has taken."""

        def fail(_: object) -> None:
            raise LookupError(where())

        with Held(2, lambda pool: pool.with_state(), initializer=list) as held:
            held.go_on.set()
            with pytest.raises(ExceptionGroup, match="2 tasks") as caught, held.pool.scope() as scope:
                scope.with_state().broadcast(fail)
            assert sorted(str(error) for error in caught.value.exceptions) == names(range(2))

    @pytest.mark.parametrize("how", ["cancel", "body raises"])
    def test_cancelled(self, how: str) -> None:
        """`cancel()`, or an error of the body, cancels those that wait, and the next broadcast is refused."""
        ran: list[str] = []
        with Held(2, lambda pool: pool.with_state(), initializer=list) as held:
            with suppress(LookupError), held.pool.scope() as scope:
                view = scope.with_state()
                futures = view.broadcast(lambda _: ran.append(where()))
                if how == "body raises":
                    raise LookupError
                scope.cancel()
                assert held.waiting() == 0
                with pytest.raises(RuntimeError, match="was cancelled"):
                    view.broadcast(len)
            assert len(futures) == 2
            assert all(future.cancelled() for future in futures)
            assert held.waiting() == 0
        assert ran == []

    @pytest.mark.parametrize("own", [False, True])
    def test_refused(self, own: bool) -> None:
        """After the block, `RuntimeError`, though the scope's states, and with them their workers, are gone."""
        with StatefulThreadPoolExecutor(1, "w", list) as pool:
            with pool.scope() as scope:
                view = scope.with_state() if own else scope.with_state(list)
                view.submit(len).result(10)
            with pytest.raises(RuntimeError, match="open a new scope"):
                view.broadcast(len)

    def test_a_task_of_a_scope_that_was_refused_a_worker(self) -> None:
        """A worker that is about to end makes no task of the scope: the block ends."""
        tearing, go_on = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(
            1, "w", list, finalizer=lambda _: (tearing.set(), go_on.wait(20)), idle_timeout=0.01
        ) as pool:
            pool.submit(int).result()
            tearing.wait(20)
            with pool.scope() as scope:
                view = scope.with_state()
                assert list(inside(view).holders)  # until its teardown has ended
                assert view.broadcast(len) == []
            go_on.set()
        assert pool.stats().cancelled == 0
