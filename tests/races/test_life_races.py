"""Staged interleavings in the life of workers, states and scopes: what comes while one of them is just ending."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import wait
from functools import partial
from typing import Any, NoReturn

import pytest
from inside import (
    CARRIED,
    HAS_GIL,
    JOINS_IN,
    MOST_TRIES,
    PACED,
    SLEEPS_IN,
    Parker,
    Tally,
    TearDown,
    Worker,
    current,
    hook,
    innermost,
    inside,
    is_parked,
    place,
)
from starts import before_start, fail_to_start
from threads import run_in_thread, until, where

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy


def before(step: str, then: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `then` before `step`, one of `inside.HOOKS`, the first time."""
    original = getattr(*hook(step))
    hooks = [then]

    def staged(self: Any, *args: Any) -> Any:
        if hooks:
            hooks.pop()(self)
        return original(self, *args)

    monkeypatch.setattr(*hook(step), staged)


def on_teardown_asked(then: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `then` when the end of a scope has asked a worker to tear down."""
    original = Worker.ask

    def ask(self: Worker, request: Any) -> None:
        original(self, request)
        if isinstance(request, TearDown):
            then()

    monkeypatch.setattr(Worker, "ask", ask)


class TestRetirement:
    """A worker leaves after `idle_timeout`, and something comes meanwhile."""

    @pytest.mark.parametrize("ends", [True, False])
    def test_task_and_shutdown_after_the_last_look(self, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has looked, found nothing and is about to leave: what was accepted runs, also if the pool is shut down."""
        futures = []

        def meanwhile(_: Worker) -> None:
            futures.append(pool.submit(int))
            if ends:
                pool.shutdown(wait=False)

        before("Worker.leave", lambda worker: run_in_thread(lambda: meanwhile(worker)), monkeypatch)
        pool = StatefulThreadPoolExecutor(1, idle_timeout=0)
        pool.submit(int).result()
        while not futures:
            pass
        assert futures[0].result(5) == 0
        pool.shutdown(timeout=5)

    def test_task_at_the_last_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker stays for it, and when it is idle again it does not seem to be asleep before it is."""
        futures = []

        def meanwhile(_: object) -> None:
            run_in_thread(lambda: futures.append(pool.submit(lambda: inside(current.worker).asleep)))

        before("Workers.retire", meanwhile, monkeypatch)
        with StatefulThreadPoolExecutor(1, idle_timeout=0) as pool:
            pool.submit(int).result()
            while not futures:
                pass
            assert futures[0].result(5) is False

    def test_task_and_shutdown_during_the_teardown(self) -> None:
        """The same, later: it is tearing down."""
        tearing, go_on = threading.Event(), threading.Event()
        pool = StatefulThreadPoolExecutor(
            1, initializer=list, finalizer=lambda _: (tearing.set(), go_on.wait()), idle_timeout=0
        )
        pool.submit(int).result()
        tearing.wait()
        future = pool.submit(int)
        pool.shutdown(wait=False)
        go_on.set()
        assert future.result(5) == 0
        pool.shutdown(timeout=5)

    def test_scope_end_during_the_teardown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The scope waits for that teardown, but not for the task for which the worker then stays."""
        tearing, go_on, over = threading.Event(), threading.Event(), threading.Event()
        on_teardown_asked(go_on.set, monkeypatch)
        pool = StatefulThreadPoolExecutor(1, idle_timeout=0)
        with pool.scope() as scope:
            scope.with_state(list, finalizer=lambda _: (tearing.set(), go_on.wait())).submit(len).result()
            tearing.wait()
            future = pool.submit(over.wait, 10)
        over.set()
        assert future.result() is True
        pool.shutdown()

    def test_compaction_during_the_last_look(self) -> None:
        """A compaction moves the task from `tail` to `head` while the worker looks at them in that order."""
        tearing, go_on = threading.Event(), threading.Event()
        pool = StatefulThreadPoolExecutor(1, idle_timeout=0)
        registry = inside(pool)
        view = pool.with_state(list, finalizer=lambda _: (tearing.set(), go_on.wait()))
        view.submit(len).result()
        tearing.wait()
        pool.submit(int).cancel()
        registry.compact()
        assert registry.head is not registry.tail
        assert not registry.head
        live = pool.submit(int)

        run_queue, _ = place(pool, "tail")

        class Staged(type(run_queue)):  # type: ignore[misc]
            looks = 0

            @property
            def tail(self) -> Any:
                if threading.current_thread() is worker:
                    Staged.looks += 1
                    if Staged.looks == 2:  # first it locks the deque, then it looks
                        run_in_thread(self.compact)
                return self.__dict__["tail"]

            @tail.setter
            def tail(self, tail: Any) -> None:
                self.__dict__["tail"] = tail

        worker = next(iter(registry.workers)).thread
        run_queue.__class__ = Staged
        go_on.set()
        assert live.result(5) == 0
        run_queue.__class__ = Staged.__base__
        pool.shutdown()

    def test_finalizer_of_something_submits_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is collected while the worker stays or goes may submit in its thread: no more than `max_workers`."""
        tearing, go_on = threading.Event(), threading.Event()
        pool = StatefulThreadPoolExecutor(1, idle_timeout=0)
        view = pool.with_state(list, finalizer=lambda _: (tearing.set(), go_on.wait()))
        view.submit(len).result()
        tearing.wait()
        worker = next(iter(inside(pool).workers)).thread
        together: list[int] = []
        has_entries = getattr(*hook("RunQueue.has_entries"))

        class Workers(dict[Any, None]):
            def __setitem__(self, key: Any, value: None) -> None:
                super().__setitem__(key, value)
                together.append(super().__len__())

        def look(run_queue: Any) -> Any:
            if threading.current_thread() is worker and not inside(pool).workers:
                monkeypatch.undo()
                futures.append(pool.submit(int))
            return has_entries(run_queue)

        inside(pool).workers = Workers(inside(pool).workers)
        monkeypatch.setattr(*hook("RunQueue.has_entries"), look)
        futures = [pool.submit(int)]
        go_on.set()
        assert futures[0].result(5) == 0
        pool.shutdown()
        assert [future.result(5) for future in futures] == [0, 0]
        assert set(together) == {1}


class TestStarts:
    """A submit starts a worker, for which nobody waits; others rely on it to look at the tasks."""

    def test_submit_that_relied_on_one_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another task was accepted, as that worker would run it, whose thread can't be started: the next one does."""
        futures = []
        attempts = []

        def meanwhile(_: Worker) -> None:
            attempts.append(None)
            if len(attempts) == 1:
                run_in_thread(lambda: futures.append(pool.submit(int)))
                raise RuntimeError("can't start new thread")

        before_start(meanwhile, monkeypatch)
        pool = StatefulThreadPoolExecutor(1)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(int)
        assert futures[0].result(5) == 0
        pool.shutdown()

    @pytest.mark.parametrize("error", [None, MemoryError()])
    def test_thread_that_never_comes(self, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """It ends before it is a worker: thrown at, or for want of memory. Another one takes its place."""
        begin = getattr(*hook("PoolThread.begin"))
        threads = []

        def fail_once(worker: Worker, **how: bool) -> None:
            threads.append(threading.get_ident())
            if len(threads) > 1:
                begin(worker, **how)
            elif error is not None:
                raise error

        monkeypatch.setattr(*hook("PoolThread.begin"), fail_once)
        with StatefulThreadPoolExecutor(1, "w", max_backlog=2) as pool:
            futures = []
            try:
                futures = [pool.submit(where) for _ in range(2)]
                assert [future.result(5) for future in futures] == ["w_0"] * 2
            except RuntimeError as failed:  # there was no worker, and it was said why there is none
                assert error is not None
                assert failed.__cause__ is error
            assert pool.submit(where).result(5) == "w_0"
            assert len(pool._threads) == pool.stats().workers == 1
        assert len(threads) >= 2

    def test_submit_while_the_only_one_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no memory for the thread: its task fails, and not one that was accepted since, which has another."""
        begin, took_out, grow = (
            getattr(*hook(name)) for name in ("PoolThread.begin", "Workers.never_came", "Workers.grow")
        )
        first_fails = [MemoryError()]
        about_to_start = threading.Event()
        later: list[Any] = []

        def fail_once(worker: Worker, **how: bool) -> None:
            if first_fails:
                raise first_fails.pop()
            begin(worker, **how)

        def meanwhile(workers: Any, worker: Worker) -> Any:
            result = took_out(workers, worker)
            submitter.start()
            assert about_to_start.wait(20)
            return result

        def late_grow(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is submitter:
                about_to_start.set()
                until(lambda: later[0].done())
            return grow(*args, **kwargs)

        monkeypatch.setattr(*hook("PoolThread.begin"), fail_once)
        monkeypatch.setattr(*hook("Workers.never_came"), meanwhile)
        monkeypatch.setattr(*hook("Workers.grow"), late_grow)
        with StatefulThreadPoolExecutor(1) as pool:
            submitter = threading.Thread(target=lambda: later.append(pool.submit(int)))
            later.append(pool.submit(int))
            with pytest.raises(RuntimeError, match="has no worker for this task"):
                later[0].result(20)
            until(lambda: len(later) == 2)
            assert later[1].result(20) == 0
            submitter.join()

    @pytest.mark.skipif(not PACED, reason="here each submit starts a worker of its own")
    def test_one_on_its_way_takes_a_task_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that has come counts the tasks; then another takes one, and is not on its way any more: all get one."""
        begin, entries = (getattr(*hook(name)) for name in ("PoolThread.begin", "RunQueue.entries"))
        made, submitted = threading.Event(), threading.Event()
        everyone = threading.Barrier(3)
        futures: list[Any] = []

        def second_waits(worker: Worker, **how: bool) -> None:
            if inside(worker).index == 1:
                assert submitted.wait(20)
            begin(worker, **how)

        def then_take(run_queue: Any) -> int:
            number: int = entries(run_queue)
            if submitted.is_set() and not made.is_set():
                made.set()
                until(futures[0].running)
            return number

        monkeypatch.setattr(*hook("PoolThread.begin"), second_waits)
        monkeypatch.setattr(*hook("RunQueue.entries"), then_take)
        making: list[bool] = []
        with StatefulThreadPoolExecutor(3, initializer=lambda: making.append(True) or made.wait(20)) as pool:
            futures.append(pool.submit(everyone.wait, 20))
            until(lambda: making)
            futures += [pool.submit(everyone.wait, 20) for _ in range(2)]
            submitted.set()
            assert sorted(future.result(20) for future in futures) == [0, 1, 2]

    def test_shutdown_waits_for_the_one_that_takes_its_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thread ends at birth while a shutdown waits for it: that waits for the next one, too."""
        begin, took_out = getattr(*hook("PoolThread.begin")), getattr(*hook("Workers.never_came"))
        fails, futures, ended = [None], list[Any](), list[bool]()

        def end_once(worker: Worker, **how: bool) -> None:
            if fails:
                fails.pop()
            else:
                begin(worker, **how)

        def meanwhile(workers: Any, worker: Worker) -> Any:
            result = took_out(workers, worker)
            closer.start()
            until(lambda: inside(pool).watchers or not closer.is_alive())
            return result

        monkeypatch.setattr(*hook("PoolThread.begin"), end_once)
        monkeypatch.setattr(*hook("Workers.never_came"), meanwhile)
        pool = StatefulThreadPoolExecutor(1)
        closer = threading.Thread(target=lambda: (pool.shutdown(), ended.append(futures[0].done())))
        futures.append(pool.submit(int))
        until(lambda: ended)
        closer.join()
        assert ended == [True]
        assert futures[0].result() == 0

    def test_closed_and_no_other_can_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thread ends at birth, in a pool that is shut down: the task fails, as no other thread can be had."""
        took_out = getattr(*hook("Workers.never_came"))

        def meanwhile(workers: Any, worker: Worker) -> Any:
            pool.shutdown(wait=False)
            fail_to_start(monkeypatch)
            return took_out(workers, worker)

        monkeypatch.setattr(*hook("PoolThread.begin"), lambda worker, **how: None)
        monkeypatch.setattr(*hook("Workers.never_came"), meanwhile)
        pool = StatefulThreadPoolExecutor(1)
        with pytest.raises(RuntimeError, match="has no worker for this task"):
            pool.submit(int).result(20)
        pool.shutdown()

    @pytest.mark.parametrize(
        "name",
        [
            "start of a thread",
            pytest.param(
                "handle of a thread",
                marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="there, a thread has none"),
            ),
        ],
    )
    def test_another_python(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """One day `threading` has a private name no more: threads are started by its own `start` then."""
        assert getattr(*hook("Python's own start")) is threading.Thread.start
        monkeypatch.setattr(*hook(name), "gone")
        monkeypatch.setattr(*hook("Python's own start"), getattr(*hook("find Python's own start"))())
        assert getattr(*hook("Python's own start")) is None
        with StatefulThreadPoolExecutor(1, "w") as pool:
            assert pool.submit(where).result(5) == "w_0"

    def test_shutdown_while_one_dies_and_another_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It waits for the thread of either, with what is left in its thread-locals."""
        replace = getattr(*hook("replace a worker that died"))
        local = threading.local()
        go_on, dead, buried, last = (threading.Event() for _ in range(4))
        notes: list[str] = []

        class Left:
            def __del__(self) -> None:
                last.wait(20)
                notes.append("thread-local")

        def leave() -> None:
            local.left = Left()
            go_on.wait(20)

        def die(_: Worker) -> None:
            raise MemoryError

        def linger(*args: Any, **how: Any) -> None:
            dead.set()
            buried.wait(20)
            replace(*args, **how)

        pool = StatefulThreadPoolExecutor(2, "w")
        first = pool.submit(leave)
        until(first.running)
        monkeypatch.setattr(*hook("replace a worker that died"), linger)
        monkeypatch.setattr(*hook("PoolThread.begin"), die)
        second = pool.submit(int)
        assert dead.wait(20)
        pool.shutdown(wait=False)
        go_on.set()
        assert second.result(20) == 0
        until(lambda: [worker.index for worker in list(inside(pool).unended)] == [1])
        ender = threading.Thread(target=lambda: (pool.shutdown(), notes.append("shutdown")))
        ender.start()
        until(lambda: innermost(ender) in SLEEPS_IN)
        buried.set()
        until(lambda: notes or (not inside(pool).unended and innermost(ender) in JOINS_IN))
        last.set()
        ender.join(20)
        assert notes == ["thread-local", "shutdown"]

    def test_one_is_left_when_another_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is memory for no more: after some tries the task is left to the one that is there."""
        tries = []
        begun, go_on = threading.Event(), threading.Event()

        def fail(_: Worker, **how: bool) -> NoReturn:
            tries.append(None)
            raise MemoryError

        with monkeypatch.context() as patch, StatefulThreadPoolExecutor(2, "w") as pool:
            pool.submit(lambda: (begun.set(), go_on.wait()))
            begun.wait()
            patch.setattr(*hook("PoolThread.begin"), fail)
            future = pool.submit(where)
            until(lambda: pool.stats().workers == 1)
            go_on.set()
            assert future.result(5) == "w_0"
            assert len(tries) <= 2 * (MOST_TRIES + 1)  # two may start one in place of it

    def test_all_die(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is memory for none: the tasks fail, and nobody waits for a worker for ever."""

        def fail(_: Worker, **how: bool) -> NoReturn:
            raise MemoryError

        with monkeypatch.context() as patch, StatefulThreadPoolExecutor(2) as pool:
            patch.setattr(*hook("PoolThread.begin"), fail)
            for future in [pool.submit(int) for _ in range(3)]:
                with pytest.raises(RuntimeError, match="has no worker for this task"):
                    future.result(5)
            until(lambda: not pool.stats().workers)
            patch.undo()
            assert pool.submit(int).result(5) == 0

    def test_submit_as_it_looks_for_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker has just been there, and seen no task for another one: the submit starts it itself."""
        entries = getattr(*hook("RunQueue.entries"))
        both = threading.Barrier(2)
        futures = []

        def looked(run_queue: Any) -> Any:
            number = entries(run_queue)
            if not futures and current.worker is not None:
                run_in_thread(lambda: futures.append(pool.submit(both.wait, 5)))
            return number

        with StatefulThreadPoolExecutor(2) as pool:
            monkeypatch.setattr(*hook("RunQueue.entries"), looked)
            first = pool.submit(both.wait, 5)
            assert first.result(5) + futures[0].result(5) == 1

    @pytest.mark.parametrize("cancel", [True, False])
    def test_shutdown_before_the_first_one_has_come(self, cancel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many start as there are tasks, up to `max_workers`: all of them run at once, or are cancelled."""
        begin = getattr(*hook("PoolThread.begin"))
        closed = threading.Event()
        everyone = threading.Barrier(3)

        def late(worker: Worker, **how: bool) -> None:
            assert closed.wait(5)
            begin(worker, **how)

        monkeypatch.setattr(*hook("PoolThread.begin"), late)
        pool = StatefulThreadPoolExecutor(3)
        futures = [pool.submit(everyone.wait, 5) for _ in range(3)]
        pool.shutdown(wait=False)
        if cancel:
            for future in futures:
                assert future.cancel()
        closed.set()
        pool.shutdown()
        if not cancel:
            assert sorted(future.result(0) for future in futures) == [0, 1, 2]

    def test_number_of_threads_after_submits(self) -> None:
        """As if each submit had waited for the thread that it needs."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(7) as pool:
            for _ in range(5):
                pool.submit(go_on.wait, 5)
            assert len(pool._threads) == 5
            assert all(thread.is_alive() for thread in pool._threads)
            assert len(pool.broadcast(int)) == 5
            go_on.set()

    def test_shutdown_in_the_midst_of_a_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On 3.11 a collection may start there, and a finalizer shut the pool down: it can't wait for that worker."""
        before_start(lambda _: pool.shutdown(), monkeypatch)
        pool = StatefulThreadPoolExecutor(1)
        with contextlib.suppress(RuntimeError):  # it may be refused
            assert pool.submit(int).result(5) == 0
        pool.shutdown()
        assert pool.stats().workers == 0

    def test_threads_are_known(self) -> None:
        """`threading` lists a worker as soon as its submit returns."""
        go_on = threading.Event()
        before = set(threading.enumerate())
        with StatefulThreadPoolExecutor(1, "w") as pool:
            pool.submit(go_on.wait, 5)
            [thread] = set(threading.enumerate()) - before
            assert not thread.daemon
            until(thread.is_alive)
            assert thread.name == "w_0"
            go_on.set()
        assert not thread.is_alive()
        thread.join()
        assert thread not in threading.enumerate()


class TestLeaving:
    """Idle workers of a closed pool wake each other, one after the other."""

    def test_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An idle worker wakes the next one when `threading` is done with its own thread, and neither has the GIL."""
        has_ended, go_on = getattr(*hook("Workers.has_ended")), threading.Event()
        known: list[bool] = []

        def last_step(workers: Any, worker: Worker) -> None:
            known.append(worker.thread in threading.enumerate())
            assert go_on.wait(20)
            has_ended(workers, worker)

        everyone = threading.Barrier(4)
        with StatefulThreadPoolExecutor(4) as pool:
            wait([pool.submit(everyone.wait) for _ in range(4)])
            until(lambda: all(is_parked(worker) and worker.asleep == HAS_GIL for worker in inside(pool).workers))
            monkeypatch.setattr(*hook("Workers.has_ended"), last_step)
            pool.shutdown(wait=False)
            until(lambda: known)
            assert not HAS_GIL or len(inside(pool).idle) == 3
            go_on.set()
        assert known == [False] * 4

    def test_beside_a_long_task(self) -> None:
        """Those with states tear them down at once, though others run."""
        go_on, torn_down = threading.Event(), []
        everyone = threading.Barrier(9)
        with StatefulThreadPoolExecutor(9, initializer=object, finalizer=torn_down.append) as pool:
            for future in [pool.submit(everyone.wait, 5) for _ in range(9)]:
                future.result(5)
            pool.submit(go_on.wait, 5)
            pool.shutdown(wait=False)
            until(lambda: len(torn_down) == 8)
            go_on.set()
        assert len(torn_down) == 9

    def test_teardowns_that_wait_for_each_other(self) -> None:
        """Each of them runs at once with the others."""
        everyone = threading.Barrier(9)
        with StatefulThreadPoolExecutor(9, initializer=object, finalizer=lambda _: everyone.wait(5)) as pool:
            meet = threading.Barrier(9)
            for future in [pool.submit(meet.wait, 5) for _ in range(9)]:
                future.result(5)
        assert pool.stats().teardown_errors == 0


@pytest.mark.parametrize("check", [lambda _: False, partial(int, "not a number".join)])
def test_new_own_state_fails_its_check(check: Callable[[Any], Any], caplog: pytest.LogCaptureFixture) -> None:
    """Tasks that need it fail, the others run, and no worker dies of it; then it is good again."""
    bad = True

    def sometimes(state: list[Any]) -> Any:
        return check(state) if bad else True

    with StatefulThreadPoolExecutor(1, initializer=list, policy=StatePolicy(check=sometimes)) as pool:
        assert pool.submit(int).result(5) == 0
        assert isinstance(pool.with_state().submit(len).exception(5), (InitializerError, TypeError))
        assert pool.submit(int).result(5) == 0
        bad = False
        assert pool.with_state().submit(len).result(5) == 0
    assert "a bug in stateful_executor" not in caplog.text


def test_submit_from_within_a_broadcast() -> None:
    """A finalizer, or a signal's handler, that submits while the workers are looked through."""

    class Among(dict[Any, None]):
        def __contains__(self, worker: object) -> bool:
            for _ in range(3):  # more than there are idle workers
                pool.submit(int)
            return super().__contains__(worker)

    with StatefulThreadPoolExecutor(3) as pool:
        everyone = threading.Barrier(2)
        for future in [pool.submit(everyone.wait) for _ in range(2)]:
            future.result()
        view = pool.with_state(list)
        while len(inside(pool).idle) < 2:
            pass
        inside(view).holders = Among.fromkeys(inside(pool).workers)
        assert [future.result(5) for future in view.broadcast(len)] == [0, 0]


def test_interrupted_on_leaving_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine was woken, as a place is free, and is interrupted before it takes it: the next in line does."""
    errors: list[BaseException] = []

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        try:
            asyncio.run(pool.asubmit(int))  # type: ignore[arg-type]
        except BaseException as exc:
            errors.append(exc)

    busy, go_on = threading.Event(), threading.Event()
    futures = []
    with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
        pool.submit(lambda: (busy.set(), go_on.wait()))
        busy.wait()
        waiting = pool.submit(int)
        lines = [threading.Thread(target=run), threading.Thread(target=lambda: futures.append(pool.submit(int)))]
        for number, thread in enumerate(lines, 1):
            thread.start()
            while len(inside(pool).waiters) < number:
                pass
        acquire = getattr(*hook("Permits.try_acquire_in_turn"))
        turns: list[None] = []

        def interrupted(permits: Any, *args: Any) -> bool:
            if threading.current_thread() is lines[0] and not turns:
                turns.append(None)
                before("Permits.left_line", interrupt, monkeypatch)
                raise KeyboardInterrupt
            return bool(acquire(permits, *args))

        monkeypatch.setattr(*hook("Permits.try_acquire_in_turn"), interrupted)
        go_on.set()
        assert waiting.result(5) == 0
        for thread in lines:
            thread.join(5)
        left = [thread.is_alive() for thread in lines]
        inside(pool).notify_if_work_pending()  # else the block would never end
        for thread in lines:
            thread.join()
    assert left == [False, False]
    assert isinstance(errors[0], KeyboardInterrupt)
    assert futures[0].result(5) == 0


class TestScopeEnd:
    """A scope ends while a worker is busy with one of its states, in a task that is not the scope's."""

    @pytest.fixture(autouse=True)
    def _stage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the worker waits for in a hook comes only after it was asked to tear down, and has answered."""
        self.started, self.busy, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.torn_down: list[object] = []
        self.seen: list[int] = []  # when the scope was told that all is torn down, how much was
        answer, done = TearDown.answer, TearDown.done

        def answers(request: TearDown, worker: Worker) -> None:
            answer(request, worker)
            self.go_on.set()

        def is_done(request: TearDown) -> None:
            self.seen.append(len(self.torn_down))
            done(request)

        monkeypatch.setattr(TearDown, "answer", answers)
        monkeypatch.setattr(TearDown, "done", is_done)

    def hold(self) -> None:
        """A task that others wait for."""
        self.busy.set()
        self.go_on.wait()

    def test_state_in_the_making(self) -> None:
        """Its initializer waits for something, so that the worker serves requests: it is torn down before the end."""

        def initialize() -> list[int]:
            self.started.set()
            other.result()
            return [1]

        with StatefulThreadPoolExecutor(2) as pool:
            other = pool.submit(self.hold)
            self.busy.wait()
            with pool.scope() as scope:
                view = scope.with_state(initialize, finalizer=self.torn_down.append)
                future = pool.submit(view.bind(list.copy))
                self.started.wait()
            assert future.result() == [1]
        assert self.seen == [1]
        assert self.torn_down == [[1]]

    def test_failure_in_the_making(self) -> None:
        """The same, and there is none in the end: the scope ends all the same."""

        def initialize() -> list[int]:
            self.started.set()
            other.result()
            raise ValueError

        with StatefulThreadPoolExecutor(2) as pool:
            other = pool.submit(self.hold)
            self.busy.wait()
            with pool.scope() as scope:
                future = pool.submit(scope.with_state(initialize).bind(list.copy))
                self.started.wait()
            assert isinstance(future.exception(), InitializerError)
        assert self.seen == [0]

    @pytest.mark.parametrize("how", ["discard", "discard_all", "nested"])
    def test_teardown_under_way(self, how: str) -> None:
        """Its teardown waits for something: the scope does not end before it has."""

        def finalize(state: object) -> None:
            self.started.set()
            other.result()
            self.torn_down.append(state)

        def use(_: object) -> None:
            if how == "discard":
                view.discard()
            elif how == "discard_all":
                view.discard_all()
            else:
                bound()

        with StatefulThreadPoolExecutor(2) as pool:
            other = pool.submit(self.hold)
            self.busy.wait()
            with pool.scope() as scope:
                view = scope.with_state(object, finalizer=finalize)
                bound = view.bind(lambda _: None)
                future = pool.submit(view.bind(use))
                self.started.wait()
            future.result()
        assert self.seen == [len(self.torn_down)]
        assert len(self.torn_down) == (2 if how == "nested" else 1)

    def test_teardown_that_needs_such_a_state(self) -> None:
        """The finalizer calls a bound function of the same view: refused, and nothing hangs."""
        errors: list[str] = []

        def finalize(_: object) -> None:
            try:
                bound()
            except RuntimeError as exc:
                errors.append(str(exc))

        with StatefulThreadPoolExecutor(1) as pool:
            with pool.scope() as scope:
                view = scope.with_state(list, finalizer=finalize)
                bound = view.bind(len)
                view.submit(len).result()
            assert len(errors) == 1
            assert "has ended" in errors[0]
            assert pool.submit(int).result(5) == 0

    def test_retiring_teardown_that_makes_another_state(self) -> None:
        """The worker retires, and the finalizer calls a bound function: that state is torn down before the end, too."""

        def finalize(state: object) -> None:
            if not self.started.is_set():
                bound()
                self.started.set()
                other.result()
            self.torn_down.append(state)

        with StatefulThreadPoolExecutor(2, idle_timeout=0.001) as pool:
            other = pool.submit(self.hold)
            self.busy.wait()
            with pool.scope() as scope:
                view = scope.with_state(object, finalizer=finalize)
                bound = view.bind(lambda _: None)
                view.submit(id).result()
                self.started.wait()
        assert self.seen
        assert set(self.seen) == {2}

    def test_parker_gone_at_the_second_look(self) -> None:
        """The worker stops waiting while it is asked for something."""

        class Staged(Worker):
            looks = 0

            @property
            def parker(self) -> Any:
                Staged.looks += 1
                return Parker() if Staged.looks == 1 else None

            @parker.setter
            def parker(self, _: Any) -> None: ...

        busy, go_on = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(1, initializer=list) as pool:
            pool.submit(lambda: (busy.set(), go_on.wait()))
            busy.wait()
            next(iter(inside(pool).workers)).__class__ = Staged
            try:
                pool.with_state().discard_all()
            finally:
                go_on.set()
            assert Staged.looks


class TestDeadline:
    """The thread of a scope's timeout, against the thread that runs the block."""

    def test_comes_while_the_scope_seems_closed(self) -> None:
        """The block has closed the scope, and takes that back, as a task was submitted meanwhile."""
        passed = threading.Event()

        class Pending(dict[Any, Any]):
            looks = 0

            def pop(self, *args: Any) -> Any:
                result = super().pop(*args)
                if args == (None, None):
                    self.looks += 1
                    if self.looks == 2:  # closed, and about to look once more
                        passed.wait(1)
                        self[other] = None
                        threading.Thread(target=lambda: (gate.wait(1), inside(scope).ended(other))).start()
                return result

        gate = threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            other = pool.submit(int)
            wait([other])
            scope = pool.scope(timeout=0.01)
            original = inside(scope).time_out
            inside(scope).time_out = lambda: (original(), passed.set(), gate.set())  # type: ignore[assignment]
            with pytest.raises(TimeoutError):
                with scope:
                    inside(scope).pending = Pending()

    def test_zero(self) -> None:
        """No seconds at all: nothing begins, however late the thread is."""
        with StatefulThreadPoolExecutor(1) as pool:
            ran: list[int] = []
            for n in range(50):
                with pytest.raises(TimeoutError):
                    with pool.scope(timeout=0) as scope:
                        scope.submit(ran.append, n)
            assert not ran

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_cancel_against_a_submit_that_is_about_to_block(self, moment: str) -> None:
        """Cancelled just before or after it enters the line: it is refused."""

        class Line(dict[Any, None]):
            def __setitem__(self, waiter: Any, value: None) -> None:
                if moment == "before":
                    run_in_thread(scope.cancel)
                super().__setitem__(waiter, value)
                if moment == "after":
                    run_in_thread(scope.cancel)

        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            pool.submit(go_on.wait)
            while inside(pool).backlog():
                pass
            waits = pool.submit(int)
            with pool.scope() as scope:
                inside(scope).permit_waiters = Line()
                with pytest.raises(RuntimeError, match="was cancelled"):
                    scope.submit(int)
                assert not inside(scope).permit_waiters
                assert not inside(pool).waiters
            go_on.set()
            assert waits.result(5) == 0

    def test_two_failures_at_once(self) -> None:
        """Both want to cancel the scope: one does, both errors are raised, and nothing waits for ever."""
        with StatefulThreadPoolExecutor(2) as pool:
            for _ in range(50):
                both = threading.Barrier(2)
                with pytest.raises(ExceptionGroup) as caught:
                    with pool.scope(fail_fast=True) as scope:
                        futures = [scope.submit(lambda both=both: 1 // (both.wait() * 0)) for _ in range(2)]
                        waiting = []
                        try:
                            while True:
                                waiting.append(scope.submit(int))
                        except RuntimeError as exc:
                            assert "was cancelled" in str(exc)
                            raise
                assert len(caught.value.exceptions) == 2
                assert all(future.done() for future in futures + waiting)


class TestDiscardAll:
    """`discard_all` against a worker that makes its first state."""

    @pytest.mark.parametrize("moment", ["entering", "making", "made"])
    def test_first_state(self, moment: str) -> None:
        """What was made before is replaced, what is made afterwards stays, and no worker is overlooked."""
        numbers = iter(range(10))

        def discard() -> None:
            run_in_thread(view.discard_all)

        def initialize() -> int:
            number = next(numbers)
            if moment == "making" and number == 0:
                discard()
            return number

        class Holders(dict[Any, None]):
            def __setitem__(self, worker: Any, value: None) -> None:
                if moment == "entering" and not self:
                    discard()
                super().__setitem__(worker, value)

        def use(number: int) -> int:
            if moment == "made" and number == 0:
                discard()
            return number

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(initialize)
            inside(view).holders = Holders()
            expected = [0, 0] if moment == "entering" else [0, 1]
            assert [view.submit(use).result(5) for _ in range(2)] == expected
        stats = pool.stats()
        assert stats.states_discarded == expected[1]
        assert stats.states_torn_down == stats.states_made == expected[1] + 1

    def test_teardown_runs_a_task_that_needs_a_state(self) -> None:
        """While the first of two stale states is torn down, the second one is lent to nobody."""
        stale: list[object] = []
        lent: list[object] = []

        def generate() -> Generator[object]:
            state = object()
            yield state
            if state in stale and not lent:
                lent.append(None)
                view.submit(lent.append).result()

        def outer() -> None:
            deep()  # two states are there after this
            view.discard_all()

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(generate)
            deepest = view.bind(stale.append)

            def second(state: object) -> None:
                stale.append(state)
                deepest()

            deep = view.bind(second)
            pool.submit(lambda: (outer(), view.bind(lambda _: None)())).result(5)
            assert len(lent) == 2
            assert lent[1] not in stale


def test_looking_from_within_a_count() -> None:
    """A finalizer that a collection runs in the middle of a count may ask for the figures: it gets some."""
    looked: list[int] = []

    class Ones(list[None]):
        def __delitem__(self, index: Any) -> None:
            looked.append(tally.value())
            super().__delitem__(index)

    tally = Tally()
    tally.ones = Ones([None] * CARRIED)
    thread = threading.Thread(target=tally.carry, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert len(looked) == 1
    assert tally.value() == CARRIED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_map_unordered_in_a_forked_child() -> None:
    """Its tasks are the parent's: it raises there, as `result` and `map` do, and does not wait for ever."""
    script = """if True:
        import faulthandler, os, threading, warnings
        from concurrent.futures.thread import BrokenThreadPool
        from stateful_executor import StatefulThreadPoolExecutor
        warnings.simplefilter("ignore")
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            maps = [pool.map(go_on.wait, [5]), pool.map_unordered(go_on.wait, [5])]
            child = os.fork()
            if not child:
                faulthandler.dump_traceback_later(5, exit=True)
                raised = 0
                for results in maps:
                    try:
                        next(results)
                    except BrokenThreadPool:
                        raised += 1
                os._exit(raised)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            go_on.set()
        assert status == 2, status
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
