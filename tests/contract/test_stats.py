"""`pool.stats()`: what each figure counts, exactly."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from itertools import pairwise
from types import FrameType
from typing import Any, Self

import pytest
from inside import hook, inside, place
from starts import fail_to_start
from threads import until

from stateful_executor import BacklogFull, InitializerError, PoolStats, StatefulThreadPoolExecutor, StatePolicy
from stateful_executor.errors import BrokenThreadPool

SECONDS = ("seconds_blocked", "seconds_making")
OF_THE_MOMENT = ("workers", "idle", "running", "backlog", "blocked_submitters")
FIELDS = tuple(field.name for field in dataclasses.fields(PoolStats))


def fail(*_: object) -> None:
    raise LookupError


def counts(pool: Any) -> dict[str, int]:
    """What is not zero in its stats, but for seconds and the peak."""
    figures = dataclasses.asdict(pool.stats())
    return {name: n for name, n in figures.items() if n and name not in (*SECONDS, "peak_backlog")}


class Held:
    """A pool all of whose workers run a task until `go_on`, or the end of the block."""

    def __init__(self, n: int, **kwargs: Any) -> None:
        self.pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(n, "w", **kwargs)
        self.go_on = threading.Event()
        begun = threading.Barrier(n + 1)
        self.held = [self.pool.submit(lambda: (begun.wait(20), self.go_on.wait(20))) for _ in range(n)]
        begun.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.pool.shutdown()


def test_fields() -> None:
    """It is frozen, made by keywords, and public; each field says in the source what it counts."""
    stats = StatefulThreadPoolExecutor(1).stats()
    assert dataclasses.asdict(stats) == dict.fromkeys(FIELDS, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.workers = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        PoolStats(*range(len(FIELDS)))  # type: ignore[misc]
    assert stats == PoolStats(**dict.fromkeys(FIELDS, 0))
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(inspect.getmodule(PoolStats))).body
        if isinstance(node, ast.ClassDef) and node.name == "PoolStats"
    )
    documented = [
        field.target.id
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    ]
    assert tuple(documented) == FIELDS
    assert set(OF_THE_MOMENT) < set(FIELDS[:7])  # which the docstring says are the first seven, with two of blocking


class TestTasks:
    """What runs, waits, and has ended."""

    def test_busy_and_at_rest(self) -> None:
        """Two workers, three tasks more than they can run."""
        with Held(2) as held:
            queued = [held.pool.submit(int) for _ in range(3)]
            assert counts(held.pool) == {"workers": 2, "running": 2, "backlog": 3, "submitted": 5}
            held.go_on.set()
            wait(queued + held.held)
            until(lambda: held.pool.stats().idle == 2)
            assert counts(held.pool) == {"workers": 2, "idle": 2, "submitted": 5, "completed": 5}
        assert counts(held.pool) == {"submitted": 5, "completed": 5}

    def test_one_idle(self) -> None:
        """A worker that waits for a task is idle, as soon as the result of its last one is visible."""
        with Held(1) as held:
            held.pool.resize(2)
            for number in range(1, 20):
                held.pool.submit(int).result(20)
                assert counts(held.pool) == {
                    "workers": 2,
                    "idle": 1,
                    "running": 1,
                    "submitted": number + 1,
                    "completed": number,
                }

    @pytest.mark.parametrize("levels", [1, 2, 5])
    def test_nested(self, levels: int) -> None:
        """Tasks that wait for one another in one worker are all running, and none of them is in the backlog."""
        begun, go_on = threading.Event(), threading.Event()

        def task(level: int) -> None:
            if level:
                pool.submit(task, level - 1).result()
            else:
                begun.set()
                go_on.wait(20)

        with StatefulThreadPoolExecutor(1) as pool:
            future = pool.submit(task, levels)
            begun.wait(20)
            while_nested, waiting = counts(pool), pool._work_queue.qsize()
            go_on.set()
            future.result(20)
            assert while_nested == {"workers": 1, "running": levels + 1, "submitted": levels + 1}
            assert waiting == 0
            until(
                lambda: inside(pool).idle and not inside(pool).head
            )  # it has met with what those tasks have left there
            assert counts(pool) == {"workers": 1, "idle": 1, "submitted": levels + 1, "completed": levels + 1}
            assert pool.stats().peak_backlog == 1

    def test_nested_that_fails(self) -> None:
        """A failure inside another task counts as one, and no task is left running."""
        with StatefulThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(lambda: pool.submit(fail).exception()).result(20), LookupError)
            until(lambda: inside(pool).idle and not inside(pool).head)
            assert counts(pool) == {"workers": 1, "idle": 1, "submitted": 2, "completed": 1, "failed": 1}

    def test_inline(self) -> None:
        """A task that a worker runs at once, the backlog being full, is running and was never in the backlog."""
        begun, go_on = threading.Event(), threading.Event()

        def task() -> None:
            pool.submit(int)
            pool.submit(lambda: (begun.set(), go_on.wait(20)))

        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            pool.submit(task)
            begun.wait(20)
            assert counts(pool) == {"workers": 1, "running": 2, "backlog": 1, "submitted": 3}
            go_on.set()
        assert counts(pool) == {"submitted": 3, "completed": 3}
        assert pool.stats().peak_backlog == 1

    def test_looked_at_while_it_is_begun_in_place(self) -> None:
        """A task that another one waits for counts once at each moment: just before it is begun, and just after."""
        seen: list[int] = []

        class Claim(list[None]):
            def __delitem__(self, index: Any) -> None:
                seen.append(pool.stats().submitted)
                super().__delitem__(index)
                seen.append(pool.stats().submitted)

            def clear(self) -> None:
                seen.append(pool.stats().submitted)

        def task() -> None:
            inner = pool.submit(int)
            inside(inner).claim = Claim([None])
            inner.result()

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(task).result()
        assert set(seen) == {2}

    def test_waiting_for_another_worker(self) -> None:
        """Both are running: the one that waits, and the one that is waited for."""
        with Held(1) as held:
            held.pool.resize(2)
            task = held.pool.submit(held.held[0].result, 20)
            until(lambda: held.pool.stats().running == 2)
            assert counts(held.pool) == {"workers": 2, "running": 2, "submitted": 2}
            held.go_on.set()
            task.result(20)

    def test_initializer(self) -> None:
        """While a worker makes its state its task is in the backlog, but those that the initializer awaits run."""
        begun, go_on, waits, end = (threading.Event() for _ in range(4))

        def start() -> None:
            pool.submit(lambda: (begun.set(), go_on.wait(20))).result()
            waits.set()
            end.wait(20)

        with StatefulThreadPoolExecutor(1, initializer=start) as pool:
            future = pool.submit(int)
            begun.wait(20)
            with_a_task = counts(pool)
            go_on.set()
            waits.wait(20)
            without = counts(pool)
            end.set()
            future.result(20)
            assert with_a_task == {"workers": 1, "running": 1, "backlog": 1, "submitted": 2}
            assert without == {"workers": 1, "backlog": 1, "submitted": 2, "completed": 1}
            assert counts(pool) == {"workers": 1, "idle": 1, "submitted": 2, "completed": 2, "states_made": 1}

    def test_teardown(self) -> None:
        """What a teardown awaits is running; the teardown itself is no task."""
        seen: list[dict[str, int]] = []

        def tear_down(_: object) -> None:
            pool.submit(lambda: seen.append(counts(pool))).result()
            seen.append(counts(pool))

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(list, finalizer=tear_down)
            view.submit(lambda _: view.discard()).result(20)
            until(lambda: pool.stats().idle)
            view.submit(len).result(20)
            view.discard_all()
            until(lambda: len(seen) == 4)
        assert [figures.get("running", 0) for figures in seen] == [2, 1, 1, 0]

    def test_broadcast(self) -> None:
        """Its calls are tasks that have no place in the backlog, and count from when they begin, or are cancelled."""
        with Held(2) as held:
            peak = held.pool.stats().peak_backlog
            futures = held.pool.broadcast(int)
            for _ in range(2):
                wait_for = held.pool.broadcast(int)
            assert held.pool.stats().backlog == 0
            assert held.pool.stats().peak_backlog == peak
            futures[0].cancel()
            held.go_on.set()
            wait(wait_for)
        assert counts(held.pool) == {"submitted": 8, "completed": 7, "cancelled": 1}

    def test_failed(self) -> None:
        """Raised, whatever; no state for it; broken pool; or failed by hand. What was set by hand is completed."""

        def no_state() -> None:
            raise OSError

        with Held(1) as held:
            pool = held.pool
            futures = [
                pool.submit(fail),
                pool.submit(lambda: (_ for _ in ()).throw(SystemExit)),
                pool.with_state(no_state).submit(int),
                pool.submit(int),
            ]
            by_hand, succeeded = pool.submit(int), pool.submit(int)
            by_hand.set_exception(LookupError())
            succeeded.set_result(3)
            assert counts(pool) == {
                "workers": 1,
                "running": 1,
                "backlog": 4,
                "submitted": 7,
                "completed": 1,
                "failed": 1,
            }
            held.go_on.set()
            for future in (*futures, by_hand, succeeded):
                future.exception(20)
        assert counts(pool) == {"submitted": 7, "completed": 3, "failed": 4}

    def test_broken_pool(self) -> None:
        """Its tasks failed, and those it refused were never accepted."""
        go_on = threading.Event()

        def start() -> None:
            go_on.wait(20)
            raise OSError

        with StatefulThreadPoolExecutor(1, initializer=start) as pool:
            futures = [pool.submit(int) for _ in range(3)]
            go_on.set()
            wait(futures)
            for _ in range(2):
                with pytest.raises(BrokenThreadPool):
                    pool.submit(int)
        assert counts(pool) == {"submitted": 3, "failed": 3}
        assert pool.stats().seconds_making > 0

    def test_a_worker_that_cannot_start(self) -> None:
        """The task that failed for it is one that could not be run."""
        outcomes = iter([None, OSError("no")])

        def start() -> None:
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome

        with Held(1, initializer=start) as held:
            held.pool.resize(2)
            assert isinstance(held.pool.submit(int).exception(20), InitializerError)
            until(lambda: held.pool.stats().idle == 1)
            assert counts(held.pool) == {
                "workers": 2,
                "idle": 1,
                "running": 1,
                "submitted": 2,
                "failed": 1,
                "states_made": 1,
            }

    def test_taken_over(self) -> None:
        """A task that the caller has taken over was accepted; it counts as one until it is finished, and after that."""
        with Held(1) as held:
            future = held.pool.submit(int)
            assert held.pool.stats().submitted == 2
            assert future.set_running_or_notify_cancel()
            assert held.pool.stats().backlog == 0
            submitted = held.pool.stats().submitted
            future.set_result(1)
            assert counts(held.pool) == {"workers": 1, "running": 1, "submitted": 2, "completed": 1}
            assert submitted == 2


class TestCancelled:
    """Accepted, and cancelled before they began."""

    def test_by_whatever(self) -> None:
        """The future, a scope, a shutdown: each task once."""
        with Held(1) as held:
            pool = held.pool
            future, running = pool.submit(int), held.held[0]
            assert [future.cancel(), future.cancel(), running.cancel()] == [True, True, False]
            assert pool.stats().cancelled == 1
            with pool.scope() as scope:
                for _ in range(2):
                    scope.submit(int)
                scope.cancel()
            assert pool.stats().cancelled == 3
            for _ in range(4):
                pool.submit(int)
            assert counts(pool) == {"workers": 1, "running": 1, "backlog": 4, "submitted": 8, "cancelled": 3}
            pool.shutdown(wait=False, cancel_futures=True)
            assert counts(pool) == {"workers": 1, "running": 1, "submitted": 8, "cancelled": 7}
        assert counts(pool) == {"submitted": 8, "completed": 1, "cancelled": 7}

    def test_many(self, nervous: None) -> None:
        """However many, from several threads, while others look."""
        with Held(1) as held:
            stop = threading.Event()
            seen: list[int] = [0]

            def cancel_some() -> None:
                for _ in range(1200):
                    held.pool.submit(int).cancel()

            def look() -> None:
                while not stop.is_set():
                    seen.append(held.pool.stats().cancelled)

            looking = threading.Thread(target=look)
            threads = [threading.Thread(target=cancel_some) for _ in range(3)]
            for thread in (looking, *threads):
                thread.start()
            for thread in threads:
                thread.join()
            stop.set()
            looking.join()
            assert counts(held.pool) == {"workers": 1, "running": 1, "submitted": 3601, "cancelled": 3600}
            assert seen == sorted(seen)

    def test_looked_at_while_it_is_counted(self) -> None:
        """A task that is just being cancelled is not in the backlog as well."""
        with Held(1) as held:

            class Ones(list[None]):
                def __iadd__(self, ones: Any) -> Any:
                    self.extend(ones)
                    seen.append(held.pool.stats())
                    return self

            seen: list[PoolStats] = []
            inside(held.pool).counts.cancelled.ones = Ones()
            held.pool.submit(int).cancel()
            assert [(stats.submitted, stats.backlog, stats.cancelled) for stats in seen] == [(2, 0, 1)]

    def test_refused_is_not_cancelled(self) -> None:
        """What a submit raised for was never a task of the pool's."""
        with Held(1, max_backlog=1, submit_timeout=0) as held:
            pool = held.pool
            queued = pool.submit(int)
            with pytest.raises(BacklogFull):
                pool.submit(int)
            queued.cancel()
            with pool.scope() as scope:
                pass
            with pytest.raises(RuntimeError):
                scope.submit(int)
            with pool.scope() as scope:
                scope.cancel()
                with pytest.raises(RuntimeError):
                    scope.submit(int)
            in_worker = pool.submit(lambda: pool.broadcast(int))
            held.go_on.set()
            with pytest.raises(RuntimeError, match="broadcast"):
                in_worker.result(20)
            pool.shutdown(wait=False)
            for entry_point in pool.submit, pool.with_state(list).submit:
                with pytest.raises(RuntimeError):
                    entry_point(int)
        assert counts(pool) == {"submitted": 3, "completed": 1, "failed": 1, "cancelled": 1}

    def test_refused_as_no_thread_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same when no thread is to be had."""
        with StatefulThreadPoolExecutor(1) as pool:
            with monkeypatch.context() as patch:
                fail_to_start(patch)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    pool.submit(int)
            assert counts(pool) == {}

    def test_refused_after_a_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that stood in the backlog for a moment, and was seen there, does not count for ever."""
        seen: list[int] = []

        def grow(_: object, **how: bool) -> Exception:
            seen.append(pool.stats().submitted)
            return RuntimeError("can't start new thread")

        with StatefulThreadPoolExecutor(1) as pool:
            with monkeypatch.context() as patch:
                patch.setattr(*hook("Workers.grow"), grow)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    pool.submit(int)
            assert seen[0] == 1
            assert counts(pool) == {}
            pool.submit(int).result(20)
            assert pool.stats().submitted == 1


class TestBlocked:
    """Submits that wait for a place."""

    def test_submit(self) -> None:
        """How many there are, and for how long they have been waiting: those that do still, too."""
        with Held(1, max_backlog=1) as held:
            pool = held.pool
            pool.submit(int)
            assert pool.stats().seconds_blocked == 0
            threads = [threading.Thread(target=pool.submit, args=(int,)) for _ in range(2)]
            started = time.monotonic()
            for thread in threads:
                thread.start()
            until(lambda: pool.stats().blocked_submitters == 2)
            both_since = time.monotonic()
            first = pool.stats()
            time.sleep(0.02)
            second = pool.stats()
            waited = time.monotonic() - both_since
            assert second.seconds_blocked - first.seconds_blocked >= 2 * 0.0199
            assert 2 * 0.0199 <= second.seconds_blocked <= 2 * (time.monotonic() - started)
            assert counts(pool) == {
                "workers": 1,
                "running": 1,
                "backlog": 1,
                "blocked_submitters": 2,
                "submitted": 2,
            }
            held.go_on.set()
            for thread in threads:
                thread.join()
            ended = time.monotonic()
            assert pool.stats().blocked_submitters == 0
            assert 2 * min(waited, 0.02) <= pool.stats().seconds_blocked <= 2 * (ended - started)
        at_rest = pool.stats().seconds_blocked
        time.sleep(0.005)
        assert pool.stats().seconds_blocked == at_rest
        assert counts(pool) == {"submitted": 4, "completed": 4}

    def test_asubmit(self) -> None:
        """A coroutine that waits for a place is one, too; cancelled, it has waited all the same."""

        async def block(pool: Any) -> None:
            waiting = asyncio.create_task(pool.asubmit(int))
            while pool.stats().blocked_submitters == 0:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        with Held(1, max_backlog=1) as held:
            held.pool.submit(int)
            asyncio.run(block(held.pool))
            assert held.pool.stats().seconds_blocked >= 0.0099
            assert counts(held.pool) == {"workers": 1, "running": 1, "backlog": 1, "submitted": 2}

    def test_in_vain(self) -> None:
        """A submit that timed out has waited for its `submit_timeout`, and counts for nothing else."""
        with Held(1, max_backlog=1, submit_timeout=0.01) as held:
            held.pool.submit(int)
            for number in range(1, 3):
                with pytest.raises(BacklogFull):
                    held.pool.submit(int)
                assert held.pool.stats().seconds_blocked >= number * 0.0099
            assert counts(held.pool) == {"workers": 1, "running": 1, "backlog": 1, "submitted": 2}

    def test_not_blocked(self) -> None:
        """While there are places nobody waits, however many submits there are."""
        with StatefulThreadPoolExecutor(2, max_backlog=500) as pool:
            wait([pool.submit(int) for _ in range(500)])
            assert pool.stats().seconds_blocked == 0


class TestPeak:
    """The most tasks in the backlog."""

    @pytest.mark.parametrize("backlog", [None, 5, 50])
    @pytest.mark.parametrize("seen_by", ["worker", "cancel", "stats"])
    def test_seen(self, backlog: int | None, seen_by: str) -> None:
        """By whatever made it go down, or by a look; it stays when there are less."""
        with Held(1, max_backlog=backlog) as held:
            futures = [held.pool.submit(int) for _ in range(5)]
            if seen_by == "stats":
                assert held.pool.stats().peak_backlog == 5
            if seen_by == "cancel":
                for future in reversed(futures):
                    assert future.cancel()
            held.go_on.set()
            wait(futures)
            assert held.pool.stats().peak_backlog == 5
            held.pool.submit(int).result(20)
            assert held.pool.stats().peak_backlog == 5
        assert held.pool.stats().peak_backlog == 5

    def test_cancelled_do_not_count(self) -> None:
        """What was cancelled before is none of those that wait."""
        with Held(1) as held:
            for _ in range(40):
                for future in [held.pool.submit(int) for _ in range(3)]:
                    future.cancel()
            queued = [held.pool.submit(int) for _ in range(2)]
            assert held.pool.stats().backlog == 2
            held.go_on.set()
            wait(queued)
            assert held.pool.stats().peak_backlog == 3

    def test_grows(self) -> None:
        """A higher one comes later."""
        pool: Any = None
        for number in (2, 7, 4):
            go_on, begun = threading.Event(), threading.Event()
            pool = pool or StatefulThreadPoolExecutor(1)
            pool.submit(lambda begun=begun, go_on=go_on: (begun.set(), go_on.wait(20)))
            begun.wait(20)
            futures = [pool.submit(int) for _ in range(number)]
            go_on.set()
            wait(futures)
            assert pool.stats().peak_backlog == (2 if number == 2 else 7)
        pool.shutdown()

    def test_bounded(self, nervous: None) -> None:
        """It is never more than the bound."""
        with StatefulThreadPoolExecutor(2, max_backlog=3) as pool:
            threads = [threading.Thread(target=lambda: [pool.submit(int) for _ in range(100)]) for _ in range(3)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                assert pool.stats().backlog <= 3
            for thread in threads:
                thread.join()
        assert 1 <= pool.stats().peak_backlog <= 3


class TestStates:
    """Made, discarded, torn down."""

    def test_every_kind(self) -> None:
        """The pool's own, a view's, a scope's, and those for deeper levels."""
        with StatefulThreadPoolExecutor(1, initializer=list) as pool:
            own = pool.with_state()
            own.submit(len).result(20)
            assert counts(pool)["states_made"] == 1
            pool.with_state(dict).submit(len).result(20)
            assert pool.stats().states_made == 2
            with pool.scope() as scope:
                scope.with_state(set).submit(len).result(20)
                assert (pool.stats().states_made, pool.stats().states_torn_down) == (3, 0)
            assert (pool.stats().states_made, pool.stats().states_torn_down) == (3, 1)
            own.submit(lambda state: own.submit(len).result()).result(20)
            assert (pool.stats().states_made, pool.stats().states_torn_down) == (4, 2)
            assert pool.stats().states_discarded == pool.stats().teardown_errors == 0
        assert counts(pool) == {"submitted": 5, "completed": 5, "states_made": 4, "states_torn_down": 4}

    def test_discarded(self) -> None:
        """By a policy's check, reset, errors, number of tasks and age, by `discard`, and by `discard_all`."""
        bad: list[bool] = []
        policies = {
            "check": StatePolicy(check=lambda _: not bad),
            "reset": StatePolicy(reset=fail),
            "discard_on": StatePolicy(discard_on=LookupError),
            "max_tasks": StatePolicy(max_tasks=1),
            "max_age": StatePolicy(max_age=1e-9),
        }
        expected = 0
        with StatefulThreadPoolExecutor(1) as pool:
            for policy in policies.values():
                view = pool.with_state(list, policy=policy)
                view.submit(fail).exception(20)
                if policy.check is not None:
                    bad.append(True)
                    view.submit(len).exception(20)
                    expected += 1  # both, the old one and the new one that failed as well
                if policy.max_age is not None:
                    view.submit(len).result(20)
                expected += 1
                assert pool.stats().states_discarded == expected
            plain = pool.with_state(list)
            plain.submit(lambda _: plain.discard()).result(20)
            assert pool.stats().states_discarded == expected + 1
            plain.submit(len).result(20)
            plain.discard_all()
            until(lambda: pool.stats().states_discarded == expected + 2)
            stats = pool.stats()
            assert stats.states_torn_down == stats.states_discarded
            assert stats.states_made == stats.states_discarded + 1  # the one that `max_age` replaced the other by
        assert pool.stats().states_torn_down == pool.stats().states_made == stats.states_made

    def test_seconds_making(self) -> None:
        """Of all initializers, on all workers, failed ones too."""
        both = threading.Barrier(2)

        def make(error: type[Exception] | None = None) -> None:
            time.sleep(0.01)
            if error is not None:
                raise error

        started = time.monotonic()
        with StatefulThreadPoolExecutor(2, initializer=make) as pool:
            wait([pool.submit(both.wait, 20) for _ in range(2)])
            assert 0.0199 <= pool.stats().seconds_making <= 2 * (time.monotonic() - started)
            before = pool.stats().seconds_making
            pool.with_state(make, (OSError,)).submit(id).exception(20)
            assert pool.stats().seconds_making - before >= 0.0099
            assert pool.stats().states_made == 2

    def test_teardown_errors(self, caplog: pytest.LogCaptureFixture) -> None:
        """Those that raised are torn down, and counted twice."""
        with Held(2, initializer=list, finalizer=fail) as held:
            held.go_on.set()
            view = held.pool.with_state(dict, finalizer=len)
            view.submit(len).result(20)
            view.discard_all()
            until(lambda: held.pool.stats().states_discarded == 1)
            assert held.pool.stats().teardown_errors == 0
        stats = held.pool.stats()
        assert (stats.states_made, stats.states_torn_down, stats.teardown_errors) == (3, 3, 2)
        assert len(caplog.records) == 2


class TestLater:
    """Of workers and pools that have ended."""

    @pytest.mark.parametrize("workers", [1, 3])
    def test_after_retirement(self, workers: int) -> None:
        """What workers counted that have left stays counted."""
        with StatefulThreadPoolExecutor(workers, initializer=list, idle_timeout=0.005) as pool:
            for round_ in range(1, 6):
                everyone = threading.Barrier(workers)
                futures = [pool.submit(lambda everyone=everyone: (everyone.wait(20), fail())) for _ in range(workers)]
                view = pool.with_state(dict)
                for future in (*futures, view.submit(len), view.submit(fail)):
                    future.exception(20)
                until(lambda: pool.stats().workers == 0)
                stats = pool.stats()
                assert stats.states_made == stats.states_torn_down
                assert counts(pool) == {
                    "submitted": round_ * (workers + 2),
                    "completed": round_,
                    "failed": round_ * (workers + 1),
                    "states_made": stats.states_made,
                    "states_torn_down": stats.states_made,
                }
                assert stats.states_made >= round_ * (workers + 1)
                assert stats.seconds_making > 0

    def test_after_shutdown(self) -> None:
        """The same as before, but for the workers."""
        with Held(3, initializer=list) as held:
            held.go_on.set()
            wait(held.held)
            until(lambda: held.pool.stats().idle == 3)
            before = held.pool.stats()
        after = held.pool.stats()
        assert after == dataclasses.replace(before, workers=0, idle=0, states_torn_down=3)
        assert held.pool.stats() == after

    def test_while_it_ends(self) -> None:
        """A worker counts until it has torn down; then it is idle no more."""
        tearing, go_on = threading.Event(), threading.Event()
        pool = StatefulThreadPoolExecutor(1, initializer=list, finalizer=lambda _: (tearing.set(), go_on.wait(20)))
        pool.submit(int).result(20)
        pool.shutdown(wait=False)
        tearing.wait(20)
        assert counts(pool) == {
            "workers": 1,
            "submitted": 1,
            "completed": 1,
            "states_made": 1,
            "states_torn_down": 1,
        }
        go_on.set()
        pool.shutdown()
        assert pool.stats().workers == 0

    def test_from_anywhere(self) -> None:
        """In an initializer, a teardown, a task and a callback: no lock is held while these run."""
        seen: list[tuple[str, int, int]] = []

        def look(where: str) -> None:
            stats = pool.stats()
            seen.append((where, stats.workers, stats.running))

        with StatefulThreadPoolExecutor(
            1, initializer=lambda: look("initializer"), finalizer=lambda _: look("teardown")
        ) as pool:
            future = pool.submit(lambda: (look("task"), threading.Event().wait(0.001)))
            future.add_done_callback(lambda _: look("callback"))
            future.result(20)
        assert sorted(seen) == [("callback", 1, 0), ("initializer", 1, 0), ("task", 1, 1), ("teardown", 1, 0)]


class Load:
    """A pool under load, with every kind of task and state, and workers that come and go."""

    def __init__(self) -> None:
        self.pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(
            3, initializer=list, max_backlog=20, idle_timeout=0.0005
        )
        self.stop = threading.Event()
        self.expected: list[tuple[int, int, int]] = []
        self.threads = [threading.Thread(target=self.submit_some) for _ in range(2)]

    def nested(self, number: int) -> int:
        return self.pool.submit(pow, number, 2).result()

    def submit_some(self) -> None:
        completed = failed = cancelled = 0
        view = self.pool.with_state(dict)
        while not self.stop.is_set():
            good = [self.pool.submit(int), self.pool.submit(self.nested, 3), view.submit(len)]
            bad = view.submit(fail)
            dropped = self.pool.submit(int)
            if dropped.cancel():
                cancelled += 1
            else:
                good.append(dropped)
            for future in good:
                future.result(20)
            completed += len(good) + 1
            assert bad.exception(20) is not None
            failed += 1
            if completed % 3 == 0:
                view.discard_all()
                time.sleep(0.001)
        self.expected.append((completed, failed, cancelled))

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.pool.shutdown()


def _looks(load: Load, looks: int) -> list[PoolStats]:
    return [load.pool.stats() for _ in range(looks)]


def test_discarded_no_sooner_than_torn_down() -> None:
    """At every line of the worker a discarded state counts as torn down, too."""
    sooner: list[str] = []

    def look(frame: FrameType, *_: object) -> Any:
        (worker,) = inside(pool).workers
        if worker.counts.discarded > worker.counts.torn_down:
            sooner.append(f"{frame.f_code.co_name}, line {frame.f_lineno}")
        return look

    with StatefulThreadPoolExecutor(1, initializer=object, policy=StatePolicy(max_tasks=1)) as pool:
        pool.submit(sys.settrace, look).result()
        for _ in range(3):
            pool.with_state().submit(id).result()
        pool.submit(sys.settrace, None).result()
        assert pool.stats().states_discarded == 3
    assert not sooner


class TestUnderLoad:
    """While tasks move."""

    def test_never_go_down(self, nervous: None) -> None:
        """What counts from the pool's beginning only grows."""
        with Load() as load:
            seen = _looks(load, 600)
        for name in FIELDS:
            if name not in (*OF_THE_MOMENT, "submitted", "seconds_blocked"):
                figures = [getattr(stats, name) for stats in seen]
                assert figures == sorted(figures), name

    def test_submitted_never_goes_down(self, nervous: None) -> None:
        """Nor does the number of tasks accepted."""
        with Load() as load:
            seen = [stats.submitted for stats in _looks(load, 600)]
        assert seen == sorted(seen)

    def test_seconds_blocked_never_goes_down(self, nervous: None) -> None:
        """Nor do the seconds, as submits begin and cease to wait."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            threads = [threading.Thread(target=lambda: [pool.submit(int) for _ in range(300)]) for _ in range(3)]
            for thread in threads:
                thread.start()
            seen = []
            while any(thread.is_alive() for thread in threads):
                seen.append(pool.stats().seconds_blocked)
            for thread in threads:
                thread.join()
        assert seen == sorted(seen)

    def test_from_several_threads(self, nervous: None) -> None:
        """Looks at once disturb neither one another nor the tasks; at the end each task was counted once."""
        with Load() as load:
            seen: list[PoolStats] = []
            lookers = [threading.Thread(target=lambda: seen.extend(_looks(load, 150))) for _ in range(3)]
            for looker in lookers:
                looker.start()
            for looker in lookers:
                looker.join()
        assert len(seen) == 450
        for stats in seen:
            assert all(getattr(stats, name) >= 0 for name in FIELDS)
            assert stats.workers <= 3 + 1  # one that is about to be refused
            assert stats.backlog <= 20
            assert stats.peak_backlog <= 20
            assert stats.states_discarded <= stats.states_torn_down <= stats.states_made
        at_rest = load.pool.stats()
        completed, failed, cancelled = (sum(column) for column in zip(*load.expected, strict=True))
        assert (at_rest.completed, at_rest.failed, at_rest.cancelled) == (completed, failed, cancelled)
        assert at_rest.submitted == completed + failed + cancelled
        assert at_rest.states_made == at_rest.states_torn_down
        assert (at_rest.workers, at_rest.idle, at_rest.running, at_rest.backlog) == (0, 0, 0, 0)


def test_repr() -> None:
    """The repr of the pool has the counts."""
    with Held(1, max_backlog=2, initializer=list) as held:
        pool = held.pool
        for _ in range(2):
            pool.submit(int)
        blocked = threading.Thread(target=pool.submit, args=(int,))
        blocked.start()
        until(lambda: pool.stats().blocked_submitters)
        assert repr(pool) == (
            "<StatefulThreadPoolExecutor w: 1 of 1 workers, 0 idle, 1 states; "
            "1 tasks running, 2 of 2 in the backlog, 1 submitters blocked>"
        )
        held.go_on.set()
        blocked.join()
        until(lambda: pool.stats().idle)
        assert repr(pool) == (
            "<StatefulThreadPoolExecutor w: 1 of 1 workers, 1 idle, 1 states; 0 tasks running, 0 of 2 in the backlog>"
        )
    assert repr(pool) == (
        "<StatefulThreadPoolExecutor w: 0 of 1 workers, 0 idle, 0 states; "
        "0 tasks running, 0 of 2 in the backlog, closed>"
    )
    with StatefulThreadPoolExecutor(3, "unbounded") as unbounded:
        assert repr(unbounded) == (
            "<StatefulThreadPoolExecutor unbounded: 0 of 3 workers, 0 idle, 0 states; "
            "0 tasks running, 0 in the backlog>"
        )


def test_backlog_is_never_above_its_bound() -> None:
    """A task is cancelled and another one takes its place while `stats()` looks: neither figure counts both."""

    class Gone(list[None]):
        """What counts the cancelled, with a hook after a look at it."""

        on_look: Callable[[], object] | None = None

        def __len__(self) -> int:
            length = super().__len__()
            hook, self.on_look = self.on_look, None
            if hook is not None:
                hook()
            return length

    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1, max_backlog=2) as pool:
        pool.submit(go_on.wait)
        until(lambda: pool.stats().running)
        futures = [pool.submit(int), pool.submit(int)]
        gone = inside(pool).tombstones = Gone()
        gone.on_look = lambda: (futures[0].cancel(), pool.submit(int))
        stats = pool.stats()
        go_on.set()
    assert (stats.backlog, stats.peak_backlog) == (2, 2)


def test_peak_of_two_at_once(nervous: None) -> None:
    """Each of several threads that look at once sees the peak at least as high as it has been: it never goes down."""
    with StatefulThreadPoolExecutor(1) as pool:
        run_queue, _ = place(pool, "high_water")
        for _ in range(200):
            start = threading.Barrier(4)
            run_queue.high_water = 0

            seen: list[bool] = []

            def look(tasks: int, start: threading.Barrier = start, seen: list[bool] = seen) -> None:
                start.wait()
                run_queue.raise_high_water(tasks)
                seen.append(run_queue.high_water >= tasks)

            threads = [threading.Thread(target=look, args=(tasks,)) for tasks in (1, 2, 9, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert run_queue.high_water == 9
            assert all(seen)
