"""Staged interleavings of `resize` with workers that park, retire or start, a submit, a shutdown, another resize."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from inside import HAS_GIL, Worker, hook, inside, is_needed
from stages import OnFirstEntry, Stage
from states import States
from threads import run_in_thread, until, where

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]
MOMENTS = ["Workers.dismiss", "Worker.leave", "Workers.retire"]  # of a worker that is too many, in this order


def once(step: str, then: Callable[[], object], monkeypatch: pytest.MonkeyPatch, *, after: bool = False) -> None:
    """Call `then` before the step, one of `inside.HOOKS`, or after it, the first time."""
    original = getattr(*hook(step))
    hooks = [then]

    def staged(*args: Any, **kwargs: Any) -> Any:
        if hooks and not after:
            hooks.pop()()
        result = original(*args, **kwargs)
        if hooks and after:
            hooks.pop()()
        return result

    monkeypatch.setattr(*hook(step), staged)


def full(workers: int, **kwargs: Any) -> Pool:
    """A pool whose workers have been started, and are asleep."""
    pool: Pool = StatefulThreadPoolExecutor(workers, "w", **kwargs)
    everyone = threading.Barrier(workers)
    wait([pool.submit(everyone.wait, 20) for _ in range(workers)])
    until(lambda: all_idle(pool, workers))
    return pool


def all_idle(pool: Pool, number: int) -> bool:
    registry = inside(pool)
    workers = list(registry.workers)
    return len(workers) == number and all(w in registry.idle and (w.asleep or not HAS_GIL) for w in workers)


def resizing(pool: Pool, max_workers: int) -> Callable[[], None]:
    """Resize in another thread, to its end, when called."""
    return partial(run_in_thread, partial(pool.resize, max_workers))


@contextmanager
def one_idle() -> Iterator[tuple[Pool, Any]]:
    """A pool of two workers, one of which is held; and the other one, which is asleep."""
    pool = full(2)
    go_on = threading.Event()
    held = pool.submit(lambda: (go_on.wait(20), where())[1])
    until(lambda: pool.stats().running and len(inside(pool).idle) == 1)
    (worker,) = inside(pool).idle
    try:
        yield pool, worker
        until(lambda: len(inside(pool).workers) == 1)
        future = pool.submit(where)
        go_on.set()
        assert future.result(20) == held.result(20) != worker.thread.name
    finally:
        go_on.set()
        pool.shutdown()


class TestAgainstParking:
    """The one worker that is too many does not sleep."""

    def test_before_it_enters(self) -> None:
        """It was woken in vain and has found nothing to look at; then it is told; then it finds no task."""
        with one_idle() as (pool, worker):
            stage = Stage()
            inside(pool).head = inside(pool).tail = stage
            stage.before_popleft = resizing(pool, 1)
            inside(pool).wake_worker(worker)

    def test_when_it_has_entered(self) -> None:
        """And is about to look."""
        with one_idle() as (pool, worker):
            inside(pool).idle = OnFirstEntry(lambda _: resizing(pool, 1)(), [worker])
            inside(pool).wake_worker(worker)

    @pytest.mark.parametrize("look", ["inbox", "broadcasts"])
    def test_while_it_looks(self, look: str) -> None:
        """Before, or after, it meets the resize at the lock of its inbox."""
        with one_idle() as (pool, worker):
            stage = Stage()
            setattr(worker, look, stage)
            stage.before_look = resizing(pool, 1)
            inside(pool).wake_worker(worker)

    def test_at_the_end_of_its_task(self) -> None:
        """It has listed itself as idle before the task's result is visible, and is taken for that."""
        with one_idle() as (pool, _):
            inside(pool).idle = OnFirstEntry(lambda _: resizing(pool, 1)(), inside(pool).idle)
            pool.submit(int).result(20)


def test_against_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody starts when that has returned, though there was a task to see to."""
    states = States()
    pool = StatefulThreadPoolExecutor(1, "w", states.make, finalizer=states.tear_down)
    go_on = threading.Event()
    tasks = [pool.submit(go_on.wait, 20), pool.submit(int)]

    def end() -> None:
        go_on.set()
        wait(tasks, 20)
        pool.shutdown()

    until(lambda: tasks[0].running())
    once("Workers.grow", end, monkeypatch)
    pool.resize(3)
    assert go_on.is_set()
    assert [thread.name for thread in pool._threads] == ["w_0"]
    assert len(states.made) == 1
    states.check()


class TestAgainstSubmit:
    """A task that comes at the same time finds the new worker, or the resize finds the task."""

    @pytest.mark.parametrize("moment", ["before_append", "after_append"])
    def test_up(self, moment: str) -> None:
        """The only worker there was is held."""
        go_on = threading.Event()
        pool: Pool = StatefulThreadPoolExecutor(1, "w")
        pool.submit(go_on.wait, 20)
        pool.submit(int)
        until(lambda: pool.stats().running)
        assert not inside(pool).can_grow
        inside(pool).tail[0].cancel()
        stage = Stage()
        inside(pool).head = inside(pool).tail = stage
        setattr(stage, moment, resizing(pool, 2))
        assert pool.submit(where).result(20) == "w_1"
        go_on.set()
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("moment", ["before_append", "after_append"])
    def test_down(self, moment: str) -> None:
        """All of those who sleep but one leave."""
        pool = full(3)
        stage = Stage()
        inside(pool).head = inside(pool).tail = stage
        setattr(stage, moment, resizing(pool, 1))
        assert pool.submit(int).result(20) == 0
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)

    def test_the_one_woken_for_it_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It hands the task on to one that is asleep, though another one, too, has been woken to look."""
        pool = full(3)
        coldest, _, _ = inside(pool).idle
        go_on = threading.Event()
        woken: list[Worker] = []
        arrived = getattr(*hook("Idle.arrived"))

        def arrive(idle: Any, worker: Any, *args: Any) -> None:
            arrived(idle, worker, *args)
            if worker is coldest:
                assert go_on.wait(20)
            elif not woken:
                pool.resize(2)  # nudges the coldest one
            woken.append(worker)

        monkeypatch.setattr(*hook("Idle.arrived"), arrive)
        name = pool.submit(where).result(20)
        leaving, other = woken
        assert name == other.thread.name
        until(lambda: leaving not in inside(pool).workers)
        go_on.set()
        until(lambda: all_idle(pool, 2))
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_while_one_leaves(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other one is busy, or runs it: it is there for that."""
        pool = full(2)
        futures: list[Any] = []
        once(moment, lambda: futures.append(pool.submit(where)), monkeypatch)
        pool.resize(1)
        until(lambda: futures)
        assert futures[0].result(20) in ("w_0", "w_1")
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)


class TestAgainstRetirement:
    """Workers leave by their `idle_timeout` as well."""

    @pytest.mark.parametrize("moment", MOMENTS[1:])
    def test_down_while_one_retires(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """That one counts: nobody is sent after it, and the task that comes then is run."""
        dismissed: list[Worker] = []
        true_dismiss = getattr(*hook("Workers.dismiss"))

        def dismiss(workers: Any, worker: Worker) -> bool:
            is_dismissed: bool = true_dismiss(workers, worker)
            dismissed.extend([worker] * is_dismissed)
            return is_dismissed

        monkeypatch.setattr(*hook("Workers.dismiss"), dismiss)
        go_on = threading.Event()
        pool: Pool = StatefulThreadPoolExecutor(2, "w", idle_timeout=0)
        held = pool.submit(lambda: (go_on.wait(20), where())[1])
        until(held.running)
        done = threading.Event()
        once(moment, lambda: (resizing(pool, 1)(), done.set()), monkeypatch)
        pool.submit(int)
        assert done.wait(20)
        until(lambda: pool.stats().workers == 1)
        future = pool.submit(where)
        go_on.set()
        assert future.result(20) == held.result(20) == "w_0"
        if moment == "Workers.retire":
            assert not dismissed
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_up_while_one_leaves(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stays, or another one starts: as many tasks run at once as there may be workers again."""
        pool = full(2, initializer=list)
        done = threading.Event()
        once(moment, lambda: (resizing(pool, 2)(), done.set()), monkeypatch)
        pool.resize(1)
        assert done.wait(20)
        everyone = threading.Barrier(2)
        futures = [pool.submit(everyone.wait, 20) for _ in range(2)]
        assert sorted(future.result(20) for future in futures) == [0, 1]
        pool.shutdown(timeout=20)
        assert pool.stats().states_made == pool.stats().states_torn_down

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_up_with_tasks_while_one_leaves(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same with tasks that wait already: the resize finds no room for a worker, so that one stays."""
        pool = full(2, initializer=list)
        everyone, futures = threading.Barrier(2), []

        def meanwhile() -> None:
            futures.extend([pool.submit(everyone.wait, 20) for _ in range(2)])
            resizing(pool, 2)()

        once(moment, meanwhile, monkeypatch)
        pool.resize(1)
        until(lambda: len(futures) == 2)
        assert sorted(future.result(20) for future in futures) == [0, 1]
        pool.shutdown(timeout=20)


class TestAgainstStarts:
    """A worker is counted, and its thread has not come yet."""

    def test_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Either of the two leaves, the new one after its first task."""
        go_on = threading.Event()
        pool: Pool = StatefulThreadPoolExecutor(2, "w")
        held = pool.submit(go_on.wait, 20)
        until(held.running)
        once("PoolThread.begin", resizing(pool, 1), monkeypatch)
        assert pool.submit(where).result(20) == "w_1"
        until(lambda: len(inside(pool).workers) == 1)
        go_on.set()
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)

    def test_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was counted among those too many: one fewer has to leave."""

        def meanwhile() -> None:
            resizing(pool, 1)()
            resized.set()
            raise MemoryError

        resized = threading.Event()
        go_on = threading.Event()
        pool: Pool = StatefulThreadPoolExecutor(2, "w")
        held = pool.submit(go_on.wait, 20)
        until(held.running)
        once("PoolThread.begin", meanwhile, monkeypatch)
        future = pool.submit(where)
        assert resized.wait(20)
        until(lambda: len(inside(pool).workers) == 1)
        go_on.set()
        assert future.result(20) == "w_0"
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)

    def test_that_fails_when_another_one_has_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That one left its task to the new worker: the task fails, as there is nobody to run it."""
        go_on = threading.Event()
        pool: Pool = StatefulThreadPoolExecutor(1, "w")
        held = pool.submit(go_on.wait, 20)
        until(held.running)
        future = pool.submit(int)
        [old] = inside(pool).workers

        def begin(_: object, **how: bool) -> None:
            if not go_on.is_set():
                pool.resize(1)
                go_on.set()
                until(lambda: old not in inside(pool).workers)
            raise MemoryError

        monkeypatch.setattr(*hook("PoolThread.begin"), begin)
        pool.resize(2)
        assert isinstance(future.exception(20), RuntimeError)
        pool.shutdown(timeout=20)


def test_one_that_waits_for_its_state_when_those_too_many_have_left() -> None:
    """Nobody has looked since: it is needed all the same, and not sent away."""
    pool = full(2)
    pool.resize(1)
    until(lambda: len(inside(pool).workers) == 1)
    assert inside(pool).too_many
    [worker] = inside(pool).workers
    assert is_needed(worker, pool._registry)
    pool.shutdown(timeout=20)


class TestAgainstOthers:
    """A shutdown, and another resize."""

    def test_shutdown_and_thrown(self) -> None:
        """The one too many has left; something is thrown into the other one, which stays for the tasks all the same."""
        pool: Pool = StatefulThreadPoolExecutor(2, "w")
        held = [threading.Event(), threading.Event()]
        for event in held:  # one by one: the second worker may start sooner than the first
            until(pool.submit(event.wait, 20).running)
        last = pool.submit(int)
        first, second = inside(pool).workers
        pool.resize(1)
        pool.shutdown(wait=False)

        def throw() -> None:
            raise RuntimeError("thrown")

        stage = Stage()
        stage.before_look = throw
        inside(second).inbox = stage
        held[0].set()
        until(lambda: first.ended or last.done())
        held[1].set()
        assert last.result(20) == 0
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("moment", [*MOMENTS, "Workers.set_most"])
    @pytest.mark.parametrize("to", [1, 3])
    def test_shutdown(self, moment: str, to: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was accepted is run, and all workers end."""
        go_on = threading.Event()
        pool = full(2)
        held = pool.submit(go_on.wait, 20)
        until(held.running)
        futures: list[Any] = []
        done = threading.Event()

        def meanwhile() -> None:
            futures.extend(pool.submit(int) for _ in range(3))
            pool.shutdown(wait=False)
            done.set()

        once(moment, meanwhile, monkeypatch, after=moment == "Workers.set_most")
        pool.resize(to)
        if to == 3 and moment in MOMENTS:
            meanwhile() if moment == "Workers.dismiss" else pool.shutdown(wait=False)
            done.set()
        assert done.wait(20)
        go_on.set()
        assert [future.result(20) for future in futures] == [0] * len(futures)
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("sizes", [(1, 3), (3, 1), (2, 1), (1, 2), (1, 4), (4, 1)])
    def test_resize(self, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        """The second one comes in the middle of the first: its number holds, and the workers fit it."""
        pool = full(3)
        once("Workers.set_most", resizing(pool, sizes[1]), monkeypatch, after=True)
        pool.resize(sizes[0])
        assert pool._max_workers == sizes[1]
        until(lambda: len(inside(pool).workers) <= sizes[1])
        everyone = threading.Barrier(sizes[1])
        futures = [pool.submit(everyone.wait, 20) for _ in range(sizes[1])]
        assert sorted(future.result(20) for future in futures) == list(range(sizes[1]))
        pool.shutdown(timeout=20)

    def test_broadcast_to_one_about_to_be_dismissed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It runs its part first, and until then is one of those who stay, whoever looks meanwhile."""
        pool = full(2)
        futures: list[Any] = []

        def others_look() -> bool:
            for worker in list(inside(pool).workers):
                inside(pool).wake_worker(worker)
            return not inside(pool).too_many

        once("Worker.leave", lambda: until(others_look), monkeypatch)
        once("Workers.dismiss", lambda: run_in_thread(lambda: futures.extend(pool.broadcast(where))), monkeypatch)
        pool.resize(1)
        until(lambda: len(futures) == 2)
        assert [future.result(20) for future in futures] == ["w_0", "w_1"]
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)


class TestInterrupted:
    """Ctrl-C, also a second one while that is seen to: the workers fit the new number all the same."""

    @pytest.fixture(params=[1, 2])
    def interrupt(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Have a step raise that often."""

        def interrupt(step: str) -> None:
            original, left = getattr(*hook(step)), [None] * request.param

            def staged(*args: Any, **kwargs: Any) -> Any:
                if left:
                    left.pop()
                    raise KeyboardInterrupt
                return original(*args, **kwargs)

            monkeypatch.setattr(*hook(step), staged)

        return interrupt

    @pytest.mark.parametrize("step", ["Workers.fit", "Workers.grow"])
    def test_up(self, step: str, interrupt: Callable[[str], None]) -> None:
        """Of two tasks that wait each gets a worker."""
        go_on, everyone = threading.Event(), threading.Barrier(2)
        pool: Pool = StatefulThreadPoolExecutor(1, "w")
        held = pool.submit(go_on.wait, 20)
        until(held.running)
        futures = [pool.submit(everyone.wait, 20) for _ in range(2)]
        interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            pool.resize(3)
        assert sorted(future.result(20) for future in futures) == [0, 1]
        go_on.set()
        pool.shutdown(timeout=20)

    @pytest.mark.parametrize("step", ["Workers.fit", "Mailbox.nudge"])
    def test_down(self, step: str, interrupt: Callable[[str], None]) -> None:
        """Both who are too many leave."""
        pool = full(3)
        interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            pool.resize(1)
        until(lambda: all_idle(pool, 1))
        pool.shutdown(timeout=20)
