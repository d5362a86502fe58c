"""Interleavings, staged: the other thread does its part between two atomic steps of the one under test.

Most stages are deques, lists and dicts that call a hook before or after the step for which the library uses them.
"""

from __future__ import annotations

import concurrent.futures
import gc
import inspect
import sys
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from functools import partial
from typing import Any

import pytest
from inside import HAS_GIL, Registry, Request, Worker, current, descend, headroom, hook, inside, is_parked
from stages import OnFirstEntry, Stage
from threads import run_in_thread, until

from stateful_executor import StatefulThreadPoolExecutor


def staged(workers: int = 1, **kwargs: Any) -> tuple[StatefulThreadPoolExecutor[None], Stage]:
    """A pool whose deque of tasks is a stage."""
    pool = StatefulThreadPoolExecutor(workers, **kwargs)
    stage = Stage()
    inside(pool).tail = inside(pool).head = stage
    return pool, stage


def in_thread(fn: Callable[[], object]) -> Callable[[], None]:
    """Run `fn` in another thread, to its end, when called."""
    return partial(run_in_thread, fn)


@pytest.mark.parametrize("moment", ["before_append", "after_append"])
def test_submit_against_shutdown(moment: str) -> None:
    """The pool ends, workers and all, just before or after the task is queued: it is refused, or run; not stranded."""
    pool, stage = staged()
    pool.submit(int).result()
    setattr(stage, moment, in_thread(pool.shutdown))
    try:
        future = pool.submit(int)
    except RuntimeError as exc:
        assert str(exc) == "cannot schedule new futures after shutdown"
        assert moment == "before_append" or not stage or not inside(stage[-1]).claim
    else:
        assert moment == "after_append"  # the worker saw it, and ran it before it ended
        assert future.result(5) == 0


def test_submit_against_breakage() -> None:
    """The initializer fails, and the registry is emptied, just before the task is queued: submit says so."""
    go_on = threading.Event()

    def fail() -> None:
        go_on.wait()
        raise ValueError

    pool, stage = staged(initializer=fail)
    first = pool.submit(int)
    stage.before_append = lambda: (go_on.set(), first.exception(), inside(pool).join(5))
    with pytest.raises(RuntimeError, match="is broken"):
        pool.submit(int)
    assert all(not inside(task).claim for task in stage)


def test_park_against_submit() -> None:
    """A task comes between a worker's entry among the idle and its look at the tasks: it is seen."""
    pool, stage = staged()
    futures = []
    for _ in range(20):
        parked = threading.Event()
        stage.before_look = lambda parked=parked: (futures.append(_submit_in_thread(pool)), parked.set())
        pool.submit(int).result(5)
        assert parked.wait(5)
    assert [future.result(5) for future in futures] == [0] * 20
    pool.shutdown()


def _submit_in_thread(pool: StatefulThreadPoolExecutor[None]) -> Any:
    made: list[Any] = []
    in_thread(lambda: made.append(pool.submit(int)))()
    return made[0]


def test_park_against_shutdown() -> None:
    """The pool is shut down between a worker's entry among the idle and its look: it ends."""
    pool, stage = staged()
    stage.before_look = in_thread(lambda: pool.shutdown(wait=False))
    pool.submit(int).result(5)
    pool.shutdown(timeout=5)


def test_compaction_against_submit() -> None:
    """A submit has loaded the deque, then it is compacted: its task comes to stand in the new one, and runs."""
    pool, stage = staged()
    go_on = threading.Event()
    pool.submit(go_on.wait)
    stage.before_append = inside(pool).compact
    future = pool.submit(int)
    assert inside(pool).tail is not stage
    assert future in inside(pool).tail
    go_on.set()
    assert future.result(5) == 0
    pool.shutdown()


def test_next_segment_against_compaction() -> None:
    """A worker that found `head` empty does not undo the `head` that a compaction is about to put there."""
    registry = inside(Registry("staged", 1, None, None))
    old = registry.tail
    registry.tail = deque()  # step (1) of a compaction; step (2) will put live tasks of `old` into a new `head`
    del registry.compactor[0]
    assert registry.next_segment() is True
    assert registry.head is old
    registry.compactor.append(None)
    assert registry.next_segment() is True
    assert registry.head is registry.tail
    assert registry.next_segment() is False


def test_cancel_against_begin() -> None:
    """Both want the claim: exactly one gets it, and the other one knows."""

    class Claim(list[None]):
        def __delitem__(self, index: Any) -> None:
            other, self.other = self.other, None
            if other is not None:
                other()
            super().__delitem__(index)

        other: Callable[[], object] | None = None

    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        pool.submit(go_on.wait)
        cancelled_first, begun_first = pool.submit(int), pool.submit(int)
        inside(cancelled_first).claim = Claim([None])
        inside(cancelled_first).claim.other = cancelled_first.cancel
        inside(begun_first).claim = Claim([None])
        inside(begun_first).claim.other = lambda: (go_on.set(), begun_first.result(5))
        assert begun_first.cancel() is False
        assert cancelled_first.cancelled()
        assert begun_first.result() == 0
        with pytest.raises(CancelledError):
            cancelled_first.result()


def test_second_cancel_against_first() -> None:
    """A cancel that comes second waits for the first one's word, and says the same."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        pool.submit(go_on.wait)
        future = pool.submit(int)
        del inside(future).claim[0]  # the first has taken the claim, and is about to say so
        answers: list[bool] = []
        second = threading.Thread(target=lambda: answers.append(future.cancel()))
        second.start()
        inside(future).phase = "CANCELLED_AND_NOTIFIED"
        second.join()
        inside(future).after_cancel()
        assert answers == [True]
        go_on.set()


def test_last_task_against_scope_end() -> None:
    """The last task ends after the body has looked, and before it sleeps."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()

        class Pending(dict[Any, Any]):
            looks = 0

            def pop(self, *args: Any) -> Any:
                if args == (None, None):
                    self.looks += 1
                    if self.looks == 1:
                        result = super().pop(*args)
                        assert self
                        go_on.set()
                        wait([future])
                        while len(self):  # until the worker has taken the task out
                            pass
                        self[future] = None  # what the body saw: a task is pending
                        threading.Thread(target=inside(scope).ended, args=(future,)).start()
                        return result
                return super().pop(*args)

        with pool.scope() as scope:
            inside(scope).pending = Pending()
            future = scope.submit(go_on.wait)
        assert inside(scope).pending.looks >= 2


def test_callback_against_the_end() -> None:
    """A callback added while the task ends is called once: by the worker or by who added it."""
    for _ in range(200):
        calls: list[object] = []
        with StatefulThreadPoolExecutor(1) as pool:
            start = threading.Barrier(2)
            future = pool.submit(start.wait)
            start.wait()
            future.add_done_callback(calls.append)
        assert calls == [future]


@pytest.mark.parametrize("moment", ["acquired", "entered", "released"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_wait_against_the_end(moment: str, cancelled: bool) -> None:
    """The task ends after `wait` has looked at its state: it is told, whenever that is, and once."""
    told: list[Any] = []
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        running = pool.submit(go_on.wait)
        future = pool.submit(int) if cancelled else running
        end = future.cancel if cancelled else lambda: (go_on.set(), running.result(5))

        class Rights(dict[Any, list[None]]):
            def __setitem__(self, waiter: Any, right: list[None]) -> None:
                super().__setitem__(waiter, right)
                if moment == "entered":
                    in_thread(end)()

        adapter = inside(future).stdlib_waiters()
        inside(adapter).claims = Rights()
        waiter = type("Waiter", (), {"add_result": told.append, "add_cancelled": told.append})()
        with future._condition:
            before = future._state
            if moment == "acquired":
                in_thread(end)()
            future._waiters.append(waiter)
            assert future._state == before
            assert len(told) == (moment != "released")
        if moment == "released":
            in_thread(end)()
        adapter.wake()
        assert told == [future]
        with future._condition:
            future._waiters.remove(waiter)
        go_on.set()


def test_interrupted_wait_against_the_end() -> None:
    """Ctrl-C in the midst of `wait` leaves what it has acquired: the worker that ends the task is not held up."""
    go_on = threading.Event()
    pool = StatefulThreadPoolExecutor(1)
    future = pool.submit(go_on.wait)
    future._condition.acquire()
    go_on.set()
    assert future.result(5) is True
    assert wait([future], 5).done == {future}
    pool.shutdown(timeout=5)


def test_wait_sleeps_on_no_lock_of_its_own() -> None:
    """Ctrl-C in `threading.Event` can leave it locked: `wait` does not sleep on one, so its worker is not held up."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        future = pool.submit(go_on.wait)
        waiter = concurrent.futures._base._AsCompletedWaiter()  # type: ignore[attr-defined]
        broken = waiter.event
        broken._cond.acquire()  # as it may be left
        future._waiters.append(waiter)
        go_on.set()
        assert future.result(5) is True
        assert pool.submit(int).result(5) == 0
        assert waiter.event.wait(5)
        waiter.event.clear()
        assert not waiter.event.wait(0)
        assert waiter.finished_futures == [future]


def test_interrupted_waiter_against_the_end() -> None:
    """Ctrl-C in `wait` can leave an `Event` that is broken: the worker that is to set it goes on."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        future = pool.submit(go_on.wait)

        class Broken:
            def add_result(self, _: Any) -> None:
                raise RuntimeError("release unlocked lock")

        future._waiters.append(Broken())
        go_on.set()
        assert future.result(5) is True
        assert pool.submit(int).result(5) == 0


def test_a_late_callback_does_not_hold_a_task_up() -> None:
    """A worker that seemed idle, and then has to run a callback, passes on the task that was meant for it."""
    with StatefulThreadPoolExecutor(2) as pool:
        go_on, ran = threading.Event(), threading.Event()
        in_time: list[bool] = []

        def meanwhile(worker: Any) -> None:
            """Just after the worker has said that it is idle, and before it looks at the callbacks."""
            future.add_done_callback(lambda _: in_time.append(ran.wait(5)))
            run_in_thread(lambda: pool.submit(ran.set))
            assert worker not in inside(pool).idle  # the submit counts on this worker

        future = pool.submit(go_on.wait)
        inside(pool).idle = OnFirstEntry(meanwhile)
        go_on.set()
        assert ran.wait(10)
    assert in_time == [True]


def test_snapshot_against_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asyncio reads is of one moment: no end without its result, whichever look the task ends at."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        future = pool.submit(lambda: (go_on.wait(), 5)[1])
        done = type(future).done

        def end_first(self: Any) -> bool:
            if not go_on.is_set():
                go_on.set()
                future.result(5)
            return done(self)

        monkeypatch.setattr(type(future), "done", end_first)
        assert future._get_snapshot() in ((False, False, None, None), (True, False, 5, None))
        go_on.set()
        future.result(5)
        assert future._get_snapshot() == (True, False, 5, None)


def test_request_against_wake() -> None:
    """A worker is asked for something else just after it was taken out of `idle` for a task: another one runs that."""

    class Slow(Request):
        def answer(self, worker: Worker) -> None:
            asked.append(worker)
            ran.wait(5)

    class Idle(dict[Worker, None]):
        hook = True

        def popitem(self) -> tuple[Worker, None]:
            worker, _ = super().popitem()
            if self.hook:
                self.hook = False
                in_thread(lambda: worker.ask(Slow()))()
            return worker, None

    asked: list[Worker] = []
    ran = threading.Event()
    with StatefulThreadPoolExecutor(2) as pool:
        both = threading.Barrier(2)
        wait([pool.submit(both.wait) for _ in range(2)])
        registry = inside(pool)
        while not all(worker in registry.idle and is_parked(worker) for worker in registry.workers):
            time.sleep(0)
        registry.idle = Idle(registry.idle)
        future = pool.submit(ran.set)
        assert ran.wait(5)
        future.result(5)
    assert len(asked) == 1


@pytest.mark.skipif(not HAS_GIL, reason="without a GIL each submit wakes a worker")
class TestOnTheWay:
    """A submit wakes nobody while a worker that was woken has not looked at the tasks yet: that one wakes the next."""

    @staticmethod
    def all_asleep(pool: StatefulThreadPoolExecutor[Any], wasted: int = 8) -> Any:
        """All workers there may be have been started, the pool knows it, and each is asleep."""
        registry = inside(pool)
        everyone = threading.Barrier(pool._max_workers + 1)
        futures = [pool.submit(everyone.wait) for _ in range(pool._max_workers)]
        futures.append(pool.submit(int))
        everyone.wait()
        wait(futures)
        while not all(worker in registry.idle and worker.asleep for worker in registry.workers):
            time.sleep(0)
        registry.wasted_wakes = wasted
        return registry

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """The first worker that is woken, when `stages` is true, goes on when this is set. `woken` counts its wakes."""
        go_on = threading.Event()
        arrived, wake_one = getattr(*hook("Idle.arrived")), getattr(*hook("Idle.wake_one"))
        first: list[Worker] = []

        def arrive(idle: Any, *args: Any) -> None:
            if not self.stages:
                while first and go_on.is_set():  # else, when one that it relies on is there already, it wakes one more
                    time.sleep(0)
                arrived(idle, *args)
                return
            self.stages = False
            first.append(args[0])
            go_on.wait(20)
            arrived(idle, *args)
            first.clear()

        def wake(idle: Any) -> bool:
            self.woken += [worker for worker in first if worker is current.worker]
            return bool(wake_one(idle))

        self.stages = False
        self.woken: list[Worker] = []
        monkeypatch.setattr(*hook("Idle.arrived"), arrive)
        monkeypatch.setattr(*hook("Idle.wake_one"), wake)
        yield go_on
        go_on.set()

    def all_begin(self, pool: StatefulThreadPoolExecutor[Any], tasks: int, held: threading.Event) -> None:
        """Tasks that wait for each other all begin, though their submits wake one worker, which is held until then."""
        self.stages = True
        everyone = threading.Barrier(tasks)
        futures = [pool.submit(everyone.wait, 5) for _ in range(tasks)]
        assert len(inside(pool).idle) == pool._max_workers - 1
        held.set()
        assert sorted(future.result(5) for future in futures) == list(range(tasks))

    @pytest.mark.parametrize(("tasks", "woken"), [(1, 0), (2, 1), (3, 2), (5, 2)])
    def test_each_wakes_two(self, tasks: int, woken: int, held: threading.Event) -> None:
        """The one that was woken wakes two more, if there is something to do for them."""
        with StatefulThreadPoolExecutor(5) as pool:
            registry = self.all_asleep(pool)
            self.all_begin(pool, tasks, held)
            assert not registry.searching
            assert len(self.woken) == woken

    @pytest.mark.parametrize(("tasks", "woken"), [(2, 1), (4, 3), (6, 5), (7, 6)])
    def test_each_wakes_one_to_rely_on(self, tasks: int, woken: int, held: threading.Event) -> None:
        """Those that seemed to be only about to sleep do not wake the next: who woke them goes on to one that does."""
        with StatefulThreadPoolExecutor(8) as pool:
            registry = self.all_asleep(pool)
            for worker in list(registry.idle)[3:7]:  # the last one is woken by the submit, the first ones come last
                worker.asleep = False
            self.all_begin(pool, tasks, held)
            assert len(self.woken) == woken

    def test_as_long_as_wakes_are_wasted(self) -> None:
        """Each submit wakes a worker, as long as those that were woken have found something to do."""
        with StatefulThreadPoolExecutor(3) as pool:
            registry = self.all_asleep(pool, wasted=0)
            everyone = threading.Barrier(4)
            futures = [pool.submit(everyone.wait, 5) for _ in range(3)]
            assert not registry.idle
            everyone.wait(5)
            wait(futures)
            assert registry.wasted_wakes == 0
            self.all_asleep(pool, wasted=0)
            registry.wake()
            while not (len(registry.idle) == 3 and registry.wasted_wakes == 1):
                time.sleep(0)

    @pytest.mark.parametrize("moment", ["before clear", "after clear", "after the look"])
    def test_submit_against_arrival(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task comes while the worker that was woken for another one looks for more: somebody is woken for it."""

        def arrive(idle: Any, *args: Any) -> None:
            run("before clear")
            arrived(idle, *args)

        def entries(run_queue: Any) -> int:
            run("after clear")
            number = int(counted(run_queue))
            run("after the look")
            return number

        def run(now: str) -> None:
            if now == moment and todo:
                todo.pop()()

        arrived, counted = getattr(*hook("Idle.arrived")), getattr(*hook("RunQueue.entries"))
        futures: list[concurrent.futures.Future[int]] = []
        todo: list[Callable[[], None]] = []
        both = threading.Barrier(2)
        with StatefulThreadPoolExecutor(2) as pool:
            registry = self.all_asleep(pool)
            monkeypatch.setattr(*hook("Idle.arrived"), arrive)
            monkeypatch.setattr(*hook("RunQueue.entries"), entries)
            todo.append(in_thread(lambda: futures.append(pool.submit(both.wait, 5))))
            futures.append(pool.submit(both.wait, 5))
            assert futures[0].result(5) + futures[-1].result(5) == 1
            assert len(futures) == 2
            assert not registry.searching

    def test_shutdown_on_the_way(self, held: threading.Event) -> None:
        """The pool is shut down meanwhile: what was accepted is run, by those whom that wakes."""
        with StatefulThreadPoolExecutor(3) as pool:
            self.all_asleep(pool)
            self.stages = True
            both = threading.Barrier(2)
            futures = [pool.submit(both.wait, 5) for _ in range(2)]
            pool.shutdown(wait=False)
            assert sorted(future.result(5) for future in futures) == [0, 1]
            held.set()

    def test_retirement_on_the_way(self, held: threading.Event) -> None:
        """A worker whose time is up just after a submit has seen it idle: it stays, for the tasks that there are."""
        torn_down: list[object] = []
        time_is_up = threading.Event()
        with StatefulThreadPoolExecutor(2, initializer=list, finalizer=torn_down.append, idle_timeout=1000) as pool:
            registry = self.all_asleep(pool)
            woken, retiring = registry.workers
            true_block = inside(retiring).block

            def block_once(_: float) -> bool:
                inside(retiring).block = true_block
                return time_is_up.wait(5) is None  # in vain

            inside(retiring).block = block_once
            for worker in retiring, woken:  # sleep anew: one in there, the other as the first to be woken
                registry.wake_worker(worker)
                while not (worker in registry.idle and worker.asleep):
                    time.sleep(0)
            self.stages = True
            registry.wasted_wakes = 8
            futures = [pool.submit(int) for _ in range(2)]
            assert list(registry.idle) == [retiring]
            time_is_up.set()
            assert [future.result(5) for future in futures] == [0, 0]
            assert not torn_down
            held.set()

    def test_destructor_before_the_sleep(self) -> None:
        """A worker that is woken before it slept, and has a user's destructor to run first, holds up no other."""

        class Slow:
            def __del__(self) -> None:
                entered.set()
                go_on.wait(10)

        dropped, entered, go_on = (threading.Event() for _ in range(3))
        with StatefulThreadPoolExecutor(3) as pool:
            registry = self.all_asleep(pool)
            pool.submit(lambda: Slow() if dropped.wait(5) else None)
            dropped.set()  # the future, so that the worker drops the result
            assert entered.wait(5)
            registry.wasted_wakes = 8
            assert [worker.asleep for worker in registry.idle] == [True, True, False]
            both = threading.Barrier(2)
            futures = [pool.submit(both.wait, 5) for _ in range(2)]
            assert sorted(future.result(5) for future in futures) == [0, 1]
            go_on.set()

    def test_no_stack_to_wake_it(self) -> None:
        """Nobody relies on a worker that could not be woken."""
        with StatefulThreadPoolExecutor(2) as pool:
            registry = self.all_asleep(pool)
            last = list(registry.idle)[-1]
            lock = last.lock

            def fail() -> None:
                last.lock = lock
                assert registry.searching
                registry.tail.clear()  # a busy worker may take the entry, and then nobody looks for the task any more
                raise RecursionError

            last.lock = types.SimpleNamespace(release=fail)
            with pytest.raises(RecursionError):
                pool.submit(int)
            assert not registry.searching
            both = threading.Barrier(2)
            futures = [pool.submit(both.wait, 5) for _ in range(2)]
            assert sorted(future.result(5) for future in futures) == [0, 1]


class TestFinalizersInASlot:
    """A collection starts while a worker looks after its states, and a finalizer runs a task that is lent one, too."""

    class NeedsAttention(list[None]):
        def __init__(self, moment: str, finalizer: Callable[[], object]) -> None:
            super().__init__([None])
            self.moment = moment
            self.finalizer = finalizer

        def _run(self, moment: str) -> None:
            if moment == self.moment:
                self.moment = ""
                self.finalizer()

        def clear(self) -> None:
            super().clear()
            self._run("clear")

        def append(self, item: None) -> None:
            super().append(item)
            self._run("append")

        def __delitem__(self, index: Any) -> None:
            super().__delitem__(index)
            self._run("del")

    @pytest.mark.parametrize("moment", ["clear", "append", "del"])
    @pytest.mark.parametrize("stale", [False, True])
    def test_drop_stale(self, moment: str, stale: bool) -> None:
        """Neither a state that is missing nor one that is torn down is lent, and each is torn down once."""
        states: list[list[str]] = []
        wrong: list[list[str]] = []
        results: list[int] = []

        def make() -> list[str]:
            states.append([])
            return states[-1]

        def use(state: list[str]) -> int:
            if state:
                wrong.append(state)
            return 1

        def finalizer() -> None:
            results.append(view.submit(use).result())

        def stage() -> None:
            slot = inside(current.worker).slot(inside(view).binding)  # type: ignore[union-attr]
            inside(slot).needs_attention = self.NeedsAttention(moment, finalizer)
            if stale:
                for state in slot.states:
                    state.discarded = True

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(make, finalizer=lambda state: state.append("torn down"))
            if stale:
                view.submit(use).result(5)
            pool.submit(stage).result(5)
            assert [view.submit(use).result(5) for _ in range(3)] == [1] * 3
        assert wrong == []
        assert results in ([], [1])
        assert states == [["torn down"]] * len(states)
        assert len(states) <= 2

    @pytest.mark.parametrize("part", ["Teardowns", "Slot"])
    @pytest.mark.parametrize("same", [False, True])
    def test_first_state(self, part: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of two that make what the first state is kept in, each has its state torn down."""
        real = getattr(*hook(part))
        ended: list[int] = []
        due = [None]

        def make(*args: Any) -> Any:
            if due:
                due.clear()
                assert other.submit(int).result(5) == 1
            return real(*args)

        monkeypatch.setattr(*hook(part), make)
        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(lambda: 1, finalizer=ended.append)
            other = view if same else pool.with_state(lambda: 1, finalizer=ended.append)
            assert view.submit(int).result(5) == 1
        assert not due
        assert len(ended) == pool.stats().states_made == pool.stats().states_torn_down

    def test_while_a_state_is_lent(self) -> None:
        """It discards the state that the worker is about to give to another task: that one is not lent the ruin."""

        class Args(tuple[Any, ...]):
            """The worker puts the state before these; to make that tuple may start a collection."""

            __slots__ = ()

            def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
                view.submit(lambda _: view.discard()).result()
                return (*other, *self)

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(list, finalizer=lambda state: state.append("torn down"))
            view.submit(len).result(5)
            go_on = threading.Event()
            pool.submit(go_on.wait)
            future = view.submit(list)
            inside(future).args = Args()
            go_on.set()
            assert future.result(5) == []


def test_an_ended_scope_leaves_nothing_in_a_busy_worker() -> None:
    """A worker that tears down for a scope while its next task waits keeps nothing of the states it had."""

    class Thing:
        pass

    def body() -> weakref.ref[Thing]:
        thing = Thing()
        with pool.scope() as scope:
            scope.with_state(lambda _: None, (thing,)).submit(lambda _: None)
            pool.submit(wait_long)
            go_on.set()
            assert waiting.wait(5)
        return weakref.ref(thing)

    def wait_long() -> None:
        waiting.set()
        other.result()  # answers requests meanwhile
        end.wait()

    go_on, waiting, go_on_there, end = (threading.Event() for _ in range(4))
    with StatefulThreadPoolExecutor(2) as pool:
        begun = threading.Barrier(3)
        other = pool.submit(lambda: (begun.wait(), go_on_there.wait()))
        pool.submit(lambda: (begun.wait(), go_on.wait()))
        begun.wait()
        thing = body()
        patience = time.monotonic() + 5
        while thing() is not None and time.monotonic() < patience:
            gc.collect()  # the worker may be about to let it go, and free-threaded builds put off the end of it
        kept = thing() is not None
        go_on_there.set()
        end.set()
    assert not kept


def test_little_stack() -> None:
    """`headroom` raises when there is less than it promises, however low the limit is."""

    def descend_to(levels: int) -> tuple[bool, bool]:
        return descend_to(levels - 1) if levels else (fails(headroom), fails(lambda: descend(60)))

    def fails(fn: Callable[[], None]) -> bool:
        try:
            fn()
        except RecursionError:
            return True
        return False

    limit, found = sys.getrecursionlimit(), []
    depth = len(inspect.stack(0))
    sys.setrecursionlimit(depth + 110)
    try:
        found = [descend_to(levels) for levels in range(90)]
    finally:
        sys.setrecursionlimit(limit)
    assert (False, True) not in found
    assert found[0] == (False, False)
    assert found[-1] == (True, True)


@pytest.mark.parametrize("idle_timeout", [None, 60])
@pytest.mark.parametrize("workers", [1, 2])
def test_finalizer_waits_in_a_worker_that_is_about_to_sleep(
    workers: int, idle_timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is idle no more then, and nobody would wake it: it looks again before it sleeps."""
    has_entries = getattr(*hook("RunQueue.has_entries"))
    inner: list[int] = []

    def look(run_queue: Any) -> Any:
        found = has_entries(run_queue)
        if current.worker is not None and not inner:
            inner.append(1)
            inner.append(pool.submit(int).result(5))
        return found

    with StatefulThreadPoolExecutor(workers, idle_timeout=idle_timeout) as pool:
        monkeypatch.setattr(*hook("RunQueue.has_entries"), look)
        assert pool.submit(int).result(5) == 0
        until(lambda: inner == [1, 0])
        for _ in range(3):
            assert pool.submit(int).result(5) == 0
