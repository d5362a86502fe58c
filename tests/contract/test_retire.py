"""`idle_timeout`: workers that nobody needs tear down and leave, and come back when they are needed."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any

import pytest
from inside import inside
from starts import fail_to_start
from threads import run_in_thread, until, where

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
SHORT = 0.02


class States:
    """Makes numbered states, and notes the thread of each, and how many there were at once."""

    def __init__(self) -> None:
        self.made: list[threading.Thread] = []
        self.torn_down: dict[int, threading.Thread] = {}
        self.alive = 0
        self.most_alive = 0
        self.lock = threading.Lock()

    def make(self) -> int:
        with self.lock:
            self.alive += 1
            self.most_alive = max(self.alive, self.most_alive)
            self.made.append(threading.current_thread())
            return len(self.made) - 1

    def tear_down(self, number: int) -> None:
        with self.lock:
            assert number not in self.torn_down
            self.torn_down[number] = threading.current_thread()
            self.alive -= 1

    def check(self) -> None:
        """Each was torn down, in the thread that made it."""
        assert [self.torn_down[number] for number in range(len(self.made))] == self.made
        assert self.alive == 0


@pytest.fixture
def states() -> States:
    return States()


class Leaving(States):
    """A pool of one worker `w_0`, which is in the teardown of state 0, and stays there until `go_on`."""

    def __init__(self, idle_timeout: float = SHORT, **kwargs: Any) -> None:
        super().__init__()
        self.tearing, self.go_on = threading.Event(), threading.Event()
        self.pool: Pool = StatefulThreadPoolExecutor(
            1, "w", self.make, finalizer=self.tear_down, idle_timeout=idle_timeout, **kwargs
        )
        assert self.pool.with_state().submit(lambda number: number).result(20) == 0
        assert self.tearing.wait(20)
        self.registry = inside(self.pool)

    def tear_down(self, number: int) -> None:
        self.tearing.set()
        assert self.go_on.wait(20)
        super().tear_down(number)

    def __enter__(self) -> Leaving:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        if hasattr(self, "pool"):
            self.pool.shutdown()
        assert self.registry.join(20)
        self.check()
        assert self.most_alive == 1


@contextmanager
def held_worker(states: States, **kwargs: Any) -> Iterator[tuple[Pool, Any]]:
    """A pool of one worker, and that worker, which runs a task until the end of the block, and is idle then."""
    pool: Pool = StatefulThreadPoolExecutor(
        1, "w", states.make, finalizer=states.tear_down, idle_timeout=SHORT, **kwargs
    )
    begun, go_on = threading.Event(), threading.Event()
    pool.submit(lambda: (begun.set(), go_on.wait(20)))
    assert begun.wait(20)
    (worker,) = map(inside, inside(pool).workers)
    try:
        yield pool, worker
    finally:
        go_on.set()


class Moment:
    """Has `submit` run in another thread at one moment in the end of `worker`."""

    def __init__(self, registry: Any, worker: Any, submit: Callable[[], object]) -> None:
        self.registry = registry
        self.worker = worker
        self.submitter = threading.Thread(target=submit)
        self.done = threading.Event()

    def run(self) -> None:
        self.submitter.start()
        self.submitter.join()
        self.done.set()

    def before_it_gives_up(self) -> None:
        """Its time is over, and it is still among the idle."""
        retract = self.worker.retract

        def staged() -> Any:
            if not self.registry.has_entries():
                self.worker.retract = retract
                self.run()
            return retract()

        self.worker.retract = staged

    def has_given_up(self) -> None:
        """It is not among the idle any more, and has all of its states."""
        run, states = self.run, self.worker.states

        class Staged(type(states)):  # type: ignore[misc]
            __slots__ = ()

            def tear_down_all(self) -> None:
                self.__class__ = Staged.__base__
                run()
                self.tear_down_all()

        states.__class__ = Staged

    def has_torn_down(self) -> None:
        """It is still counted."""
        retire = self.registry.retire

        def staged(worker: Any) -> Any:
            self.registry.retire = retire
            self.run()
            return retire(worker)

        self.registry.retire = staged

    def counts_no_more(self) -> None:
        """Somebody else may start, and it is about to look for tasks."""
        retire, has_entries = self.registry.retire, self.registry.has_entries

        def staged(worker: Any) -> Any:
            self.registry.retire = retire
            self.registry.has_entries = staged_look
            return retire(worker)

        def staged_look() -> Any:
            self.registry.has_entries = has_entries
            self.submitter.start()  # and comes to wait for the lock that is held here
            until(lambda: self.registry.tail)
            self.done.set()
            return has_entries()

        self.registry.retire = staged

    def has_left(self) -> None:
        """There is no worker any more."""
        retire = self.registry.retire

        def staged(worker: Any) -> Any:
            self.registry.retire = retire
            left = retire(worker)
            assert left
            self.run()
            return left

        self.registry.retire = staged


def all_gone(pool: Pool) -> bool:
    return pool.stats().workers == 0 and not any(worker.thread.is_alive() for worker in list(inside(pool).retired))


class TestLeaving:
    """After `idle_timeout` seconds without a task."""

    @pytest.mark.parametrize("idle_timeout", [0, 0.001, SHORT])
    def test_with_teardown_and_back(self, states: States, idle_timeout: float) -> None:
        """Each state is torn down in its own thread, the threads end, and a later task finds a new worker and state."""
        everyone = threading.Barrier(3)
        with StatefulThreadPoolExecutor(
            3, "w", states.make, finalizer=states.tear_down, idle_timeout=idle_timeout
        ) as pool:
            view = pool.with_state()
            wait([view.submit(lambda _: everyone.wait(20)) for _ in range(3)])
            until(lambda: all_gone(pool))
            assert states.alive == 0
            assert sorted(states.torn_down) == [0, 1, 2]
            assert view.submit(lambda number: number).result(20) == 3
            until(lambda: all_gone(pool))  # while it tears down it still has its number
            assert pool.submit(where).result(20) == "w_0"
            until(lambda: all_gone(pool))
        assert states.most_alive == 3
        states.check()

    def test_every_kind_of_state(self) -> None:
        """The pool's own, other bindings' and generators', the last made first."""
        log: list[str] = []

        def generate() -> Any:
            yield []
            log.append("generator")

        with StatefulThreadPoolExecutor(
            1, initializer=list, finalizer=lambda _: log.append("own"), idle_timeout=SHORT
        ) as pool:
            other = pool.with_state(list, finalizer=lambda _: log.append("other")).bind(len)
            generated = pool.with_state(generate).bind(len)
            pool.submit(lambda: (other(), generated())).result(20)  # it can't leave before it has all of them
            until(lambda: all_gone(pool))
            assert log == ["generator", "other", "own"]

    def test_the_warmest_stay(self) -> None:
        """One task at a time is always run by the same worker, the one that was busy last."""
        everyone = threading.Barrier(3)
        asleep: dict[str, threading.Event] = {}

        def new_worker() -> Any:
            worker = make_worker()
            sleep_idle = inside(worker).sleep_idle

            def sleep() -> Any:
                asleep[where()].set()  # it has looked for tasks, and a submit finds it among the idle
                return sleep_idle()

            inside(worker).sleep_idle = sleep
            return worker

        def task() -> str:
            asleep[where()] = threading.Event()
            return where()

        with StatefulThreadPoolExecutor(3, idle_timeout=1000) as pool:
            make_worker, inside(pool).new_worker = inside(pool).new_worker, new_worker
            for future in [pool.submit(lambda: (everyone.wait(20), task())[1]) for _ in range(3)]:
                asleep[future.result(20)].wait(20)
            last = pool.submit(task).result(20)
            for _ in range(20):
                asleep[last].wait(20)
                assert pool.submit(task).result(20) == last

    def test_those_not_needed_leave(self) -> None:
        """So one task at a time, however fast they come, keeps one worker."""
        everyone = threading.Barrier(3)
        with StatefulThreadPoolExecutor(3, idle_timeout=0.05) as pool:
            wait([pool.submit(everyone.wait, 20) for _ in range(3)])
            until(lambda: (pool.submit(int).result(20), pool.stats().workers == 1)[1])

    def test_not_while_it_runs_or_waits(self, states: States) -> None:
        """A task that takes long, or waits for another one, is no idleness."""
        with StatefulThreadPoolExecutor(2, "w", states.make, finalizer=states.tear_down, idle_timeout=0.001) as pool:
            go_on, begun = threading.Event(), threading.Event()

            def inner(number: int) -> int:
                begun.set()
                time.sleep(0.02)
                go_on.wait(20)
                return number

            def outer(number: int) -> int:
                future = pool.with_state().submit(inner)
                begun.wait(20)
                future.result(20)
                return number

            view = pool.with_state()
            task = view.submit(outer)
            begun.wait(20)
            time.sleep(0.02)
            assert not states.torn_down
            go_on.set()
            assert task.result(20) == 0

    @pytest.mark.parametrize("idle_timeout", [float("inf"), threading.TIMEOUT_MAX * 2, None])
    def test_never(self, idle_timeout: float | None) -> None:
        """A stretch of time that no lock can wait for is never over."""
        with StatefulThreadPoolExecutor(1, "w", idle_timeout=idle_timeout) as pool:
            pool.submit(int).result(20)
            until(lambda: pool.stats().idle)
            time.sleep(0.01)
            assert pool.stats().workers == pool.stats().idle == 1

    @pytest.mark.parametrize("error", [ValueError, SystemExit])
    def test_a_teardown_that_raises(self, error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
        """It is logged, and the worker leaves all the same."""

        def fail(state: object) -> None:
            raise error("teardown")

        with StatefulThreadPoolExecutor(1, "w", list, finalizer=fail, idle_timeout=SHORT) as pool:
            for _ in range(2):
                assert pool.with_state().submit(len).result(20) == 0
                until(lambda: all_gone(pool))
            assert pool.stats().teardown_errors == pool.stats().states_made == 2
        assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [error] * 2

    def test_a_teardown_that_uses_the_pool(self) -> None:
        """It may submit, and wait for that; the task is run by the very worker, since there is no other."""
        results: list[str] = []
        with StatefulThreadPoolExecutor(
            1, "w", list, finalizer=lambda _: results.append(pool.submit(where).result(20)), idle_timeout=SHORT
        ) as pool:
            pool.submit(int).result(20)
            until(lambda: all_gone(pool))
            assert results == ["w_0"]

    def test_nothing_of_it_is_kept(self) -> None:
        """Workers that have left are forgotten, and so are the states and bindings' entries."""
        with StatefulThreadPoolExecutor(2, "w", set, idle_timeout=0) as pool:
            view = pool.with_state(list)
            gone: list[weakref.ref[Any]] = []
            for _ in range(10):
                view.submit(lambda _: gone.append(weakref.ref(threading.current_thread()))).result(20)
                until(lambda: all_gone(pool))
                gc.collect()
                assert sum(ref() is not None for ref in gone) <= 1  # the last one, which `shutdown` would wait for
                assert len(inside(pool).retired) == 1
                assert not inside(view).holders
                assert not inside(pool.with_state()).holders
            assert inside(pool).free_indices[-1] == 0


class TestTasksMeanwhile:
    """A worker that is about to leave was the last for whom a task could wait."""

    @pytest.mark.parametrize("number", [1, 5])
    def test_while_it_tears_down(self, number: int) -> None:
        """Until it has torn down nobody else may start; then it begins anew, with a new state."""
        with Leaving() as leaving:
            futures = [leaving.pool.with_state().submit(lambda state: (state, where())) for _ in range(number)]
            assert leaving.pool.stats().workers == 1
            assert len(leaving.made) == 1
            leaving.go_on.set()
            assert [future.result(20) for future in futures] == [(1, "w_0")] * number
            assert len(set(leaving.made)) == 1  # the same thread, too

    def test_bounded(self) -> None:
        """Also for submits that wait for a place."""
        with Leaving(max_backlog=1) as leaving:
            results: list[str] = []
            threads = [
                threading.Thread(target=lambda: results.append(leaving.pool.submit(where).result(20))) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            until(lambda: leaving.pool.stats().blocked_submitters == 2)
            leaving.go_on.set()
            for thread in threads:
                thread.join()
            assert results == ["w_0"] * 3
            until(lambda: all_gone(leaving.pool))
            assert leaving.registry.permits_left() == 1

    def test_cancelled(self) -> None:
        """What it might stay for has gone: it may leave or start in vain; the next task runs."""
        with Leaving() as leaving:
            futures = [leaving.pool.submit(where) for _ in range(3)]
            assert all(future.cancel() for future in futures)
            leaving.go_on.set()
            assert leaving.pool.submit(where).result(20) == "w_0"
            until(lambda: all_gone(leaving.pool))
            assert leaving.pool.submit(where).result(20) == "w_0"

    @pytest.mark.parametrize("entry_point", ["scope", "map", "wait in another pool"])
    def test_entry_points(self, entry_point: str) -> None:
        """Through whatever entry point the task comes."""
        with Leaving() as leaving:
            timer = threading.Timer(0.01, leaving.go_on.set)
            timer.start()
            if entry_point == "scope":
                with leaving.pool.scope() as scope:
                    future = scope.submit(where)
                assert future.result(0) == "w_0"
            elif entry_point == "map":
                assert list(leaving.pool.map(where, range(3))) == ["w_0"] * 3
            else:
                with StatefulThreadPoolExecutor(1) as other:
                    assert other.submit(lambda: leaving.pool.submit(where).result(20)).result(20) == "w_0"
            timer.join()

    @pytest.mark.parametrize(
        "moment", ["before_it_gives_up", "has_given_up", "has_torn_down", "counts_no_more", "has_left"]
    )
    @pytest.mark.parametrize("backlog", [None, 1])
    def test_staged(self, states: States, moment: str, backlog: int | None) -> None:
        """A task comes between two steps of a worker that leaves: it is run."""
        with held_worker(states, max_backlog=backlog) as (pool, worker):
            futures: list[Any] = []
            stage = Moment(inside(pool), worker, lambda: futures.append(pool.with_state().submit(where)))
            getattr(stage, moment)()
        assert stage.done.wait(20)
        stage.submitter.join()
        assert futures[0].result(20) == "w_0"
        pool.shutdown()
        states.check()
        assert states.most_alive == 1
        assert len(set(states.made)) == (2 if moment == "has_left" else 1)

    def test_compaction_meanwhile(self, states: States) -> None:
        """The run queue is compacted while the worker looks at it for the last time: it sees what is left there."""
        with held_worker(states) as (pool, _):
            registry = inside(pool)
            retire = registry.retire
            futures: list[Any] = []

            class Front(deque[Any]):
                """Emptied, after an earlier compaction; while the worker looks, there is another one."""

                hook = True

                def __bool__(self) -> bool:
                    if self.hook:
                        self.hook = False
                        run_in_thread(registry.compact)
                        return False
                    return len(self) > 0

            def staged_retire(worker: Any) -> bool:
                registry.retire = retire
                run_in_thread(lambda: futures.append(pool.submit(where)))
                registry.head = Front()
                return retire(worker)

            registry.retire = staged_retire
        until(lambda: futures)
        assert futures[0].result(5) == "w_0"
        pool.shutdown()
        states.check()

    @pytest.mark.parametrize("idle_timeout", [0, 0.001])
    @pytest.mark.parametrize("backlog", [None, 2])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_hammered(
        self, states: States, idle_timeout: float, backlog: int | None, workers: int, nervous: None
    ) -> None:
        """Submits at every moment: no task is stranded, and there are never more states than workers may be."""
        results: list[int] = []

        def submit_some(view: Any, pause: float) -> None:
            for number in range(50):
                results.append(view.submit(lambda _, number=number: number).result(20))
                if number % 3 == 0:
                    time.sleep(pause)

        with StatefulThreadPoolExecutor(
            workers,
            "w",
            states.make,
            finalizer=states.tear_down,
            idle_timeout=idle_timeout,
            max_backlog=backlog,
        ) as pool:
            view = pool.with_state()
            threads = [threading.Thread(target=submit_some, args=(view, pause)) for pause in (0, 0.0002, 0.001)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(results) == sorted([*range(50)] * 3)
            assert pool.stats().backlog == 0
        assert states.most_alive <= workers
        states.check()

    def test_hammered_without_waiting(self, nervous: None) -> None:
        """The last task of a burst, which nobody follows, is run as well."""
        with StatefulThreadPoolExecutor(2, idle_timeout=0) as pool:
            for round_ in range(200):
                futures = [pool.submit(int) for _ in range(1 + round_ % 3)]
                done, left = wait(futures, 20)
                assert not left
                assert len(done) == len(futures)


class TestNames:
    """The numbers of workers that have left are used again, the lowest first."""

    def test_lowest_first(self) -> None:
        """While another worker stays."""
        with StatefulThreadPoolExecutor(4, "w", idle_timeout=SHORT) as pool:
            go_on, begun = threading.Event(), threading.Barrier(2)
            held = pool.submit(lambda: (begun.wait(20), go_on.wait(20), where())[2])
            begun.wait(20)
            for _ in range(3):
                together = threading.Barrier(3)
                futures = [pool.submit(lambda together=together: (together.wait(20), where())[1]) for _ in range(3)]
                assert sorted(future.result(20) for future in futures) == ["w_1", "w_2", "w_3"]
                until(lambda: pool.stats().workers == 1)
            assert pool.submit(where).result(20) == "w_1"
            go_on.set()
            assert held.result(20) == "w_0"

    def test_one_that_could_not_start(self) -> None:
        """A worker that never made its state retires as well, and the next one gets its number."""
        outcomes = iter([None, OSError("no"), None])

        def start() -> None:
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome

        with StatefulThreadPoolExecutor(2, "w", start, idle_timeout=SHORT) as pool:
            go_on, begun = threading.Event(), threading.Event()
            pool.submit(lambda: (begun.set(), go_on.wait(20)))
            begun.wait(20)
            assert isinstance(pool.submit(where).exception(20), InitializerError)
            until(lambda: pool.stats().workers == 1)
            assert pool.submit(where).result(20) == "w_1"
            go_on.set()


class TestEnding:
    """The pool ends while a worker leaves."""

    @pytest.mark.parametrize("queued", [0, 2])
    def test_shutdown_while_it_tears_down(self, queued: int) -> None:
        """It is waited for, named in the error of a `timeout`, and runs what was queued before."""
        with Leaving() as leaving:
            (thread,) = leaving.pool._threads
            futures = [leaving.pool.submit(where) for _ in range(queued)]
            with pytest.raises(TimeoutError, match="w_0 runs no task"):
                leaving.pool.shutdown(timeout=0.01)
            assert thread.is_alive()
            leaving.go_on.set()
            leaving.pool.shutdown()
            assert not thread.is_alive()
            assert [future.result(0) for future in futures] == ["w_0"] * queued
            assert len(leaving.made) == (2 if queued else 1)
            assert leaving.pool.stats().workers == 0

    def test_shutdown_that_cancels(self) -> None:
        """What was queued is cancelled, and no further state is made for it."""
        with Leaving() as leaving:
            futures = [leaving.pool.submit(where) for _ in range(2)]
            leaving.pool.shutdown(wait=False, cancel_futures=True)
            leaving.go_on.set()
            leaving.pool.shutdown()
            assert all(future.cancelled() for future in futures)

    def test_shutdown_when_it_has_left(self, states: States) -> None:
        """Its thread has a few steps to go, and `shutdown` waits for these as well."""
        with held_worker(states) as (pool, worker):
            left, go_on, end = threading.Event(), threading.Event(), worker.end

            def slow_end() -> None:
                left.set()
                go_on.wait(20)
                end()

            worker.end = slow_end
        assert left.wait(20)
        assert not inside(pool).workers
        with pytest.raises(TimeoutError):
            pool.shutdown(timeout=0.01)
        timer = threading.Timer(0.02, go_on.set)
        timer.start()
        pool.shutdown()
        assert go_on.is_set()
        assert not worker.thread.is_alive()
        timer.join()

    def test_shutdown_at_any_moment(self, states: States, nervous: None) -> None:
        """Nothing is left behind."""
        for round_ in range(60):
            pool: Pool = StatefulThreadPoolExecutor(
                2, "w", states.make, finalizer=states.tear_down, idle_timeout=0.0002 * (round_ % 3)
            )
            futures = [pool.submit(where) for _ in range(round_ % 4)]
            wait(futures)
            threads = pool._threads
            time.sleep(0.0001 * (round_ % 7))
            futures += [pool.submit(where) for _ in range(round_ % 2)]
            pool.shutdown()
            assert all(future.done() for future in futures)
            assert not any(thread.is_alive() for thread in threads)
            assert states.alive == 0
        states.check()

    def test_dropped_while_it_tears_down(self) -> None:
        """What was queued is run, and the worker ends."""
        with Leaving() as leaving:
            futures = [leaving.pool.with_state().submit(lambda number: number) for _ in range(2)]
            gone = weakref.ref(leaving.pool)
            del leaving.pool
            gc.collect()
            assert gone() is None
            leaving.go_on.set()
            assert [future.result(20) for future in futures] == [1, 1]

    def test_dropped_when_all_have_left(self) -> None:
        """There is nobody who would keep it, nor who would have to be told."""
        pool: Pool = StatefulThreadPoolExecutor(2, idle_timeout=0)
        pool.submit(int).result(20)
        until(lambda pool=pool: all_gone(pool))
        gone = weakref.ref(pool)
        del pool
        gc.collect()
        assert gone() is None

    def test_waiting_for_its_time_does_not_keep_the_pool(self) -> None:
        """A worker that sleeps, to leave later, ends at once when the pool is dropped."""
        pool: Pool = StatefulThreadPoolExecutor(1, idle_timeout=1000)
        pool.submit(int).result(20)
        (thread,) = pool._threads
        until(lambda pool=pool: pool.stats().idle)
        del pool
        gc.collect()
        thread.join(20)
        assert not thread.is_alive()


class TestFailures:
    """A worker that starts anew can fail to."""

    def test_an_initializer_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is the next task's failure, and only that one's: the pool has worked before, and does not break."""

        class Failing(Leaving):
            attempts = 0

            def make(self) -> int:
                self.attempts += 1
                if self.attempts in (2, 3):
                    raise OSError(f"attempt {self.attempts}")
                return super().make()

        with Failing() as leaving:
            futures = [leaving.pool.with_state().submit(lambda number: number), leaving.pool.submit(where)]
            last = [leaving.pool.with_state().submit(lambda number: number), leaving.pool.submit(where)]
            leaving.go_on.set()
            errors = [future.exception(20) for future in futures]
            assert [type(error) for error in errors] == [InitializerError] * 2
            assert [str(error and error.__cause__) for error in errors] == ["attempt 2", "attempt 3"]
            assert [future.result(20) for future in last] == [1, "w_0"]
            assert not leaving.pool._broken
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    def test_a_new_thread_that_fails(self) -> None:
        """The same for a worker that comes after one that has left."""
        outcomes = iter([None, OSError("no"), None])

        def start() -> None:
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome

        with StatefulThreadPoolExecutor(1, "w", start, idle_timeout=SHORT) as pool:
            pool.submit(int).result(20)
            until(lambda: all_gone(pool))
            assert isinstance(pool.submit(where).exception(20), InitializerError)
            assert pool.submit(where).result(20) == "w_0"

    def test_a_thread_that_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When all have left, and there is no thread to be had, submit raises, and works again afterwards."""
        with StatefulThreadPoolExecutor(1, "w", idle_timeout=0) as pool:
            pool.submit(int).result(20)
            until(lambda: all_gone(pool))
            with monkeypatch.context() as patch:
                fail_to_start(patch)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    pool.submit(int)
            assert pool.stats().backlog == 0
            assert pool.submit(where).result(20) == "w_0"


class TestScopes:
    """States of a scope, on workers that leave before it ends."""

    def test_torn_down_early(self, states: States) -> None:
        """In the worker's thread, when it leaves; another one makes another state, and the block has nothing to do."""
        with StatefulThreadPoolExecutor(1, "w", idle_timeout=SHORT) as pool, pool.scope() as scope:
            view = scope.with_state(states.make, finalizer=states.tear_down)
            for number in range(3):
                assert view.submit(lambda number: number).result(20) == number
                until(lambda: all_gone(pool))
                assert list(states.torn_down) == list(range(number + 1))
        states.check()

    def test_its_error_is_raised_at_the_end(self) -> None:
        """A teardown that failed when a worker left is the scope's to raise."""

        def fail(_: object) -> None:
            raise LookupError("teardown")

        with StatefulThreadPoolExecutor(1, idle_timeout=0) as pool:
            with pytest.raises(ExceptionGroup, match="1 teardown") as caught, pool.scope() as scope:
                scope.with_state(list, finalizer=fail).submit(len).result(20)
                until(lambda: all_gone(pool))
            assert [str(error) for error in caught.value.exceptions] == ["teardown"]

    def test_block_ends_during_its_teardown(self) -> None:
        """The block waits for a teardown under way."""
        log: list[str] = []
        tearing, go_on = threading.Event(), threading.Event()
        workers: list[Any] = []

        def tear_down(_: object) -> None:
            workers.extend(map(inside, inside(pool).workers))
            tearing.set()
            go_on.wait(20)
            log.append("teardown")

        with StatefulThreadPoolExecutor(1, idle_timeout=SHORT) as pool:
            with pool.scope() as scope:
                scope.with_state(list, finalizer=tear_down).submit(len).result(20)
                assert tearing.wait(20)
                (worker,) = workers
                ask = worker.ask

                def asked(request: Any) -> None:
                    ask(request)
                    go_on.set()

                worker.ask = asked
            log.append("block ends")
        assert log == ["teardown", "block ends"]

    def test_block_ends_during_another_teardown(self) -> None:
        """One that is done with the scope's state, and tears down the pool's, keeps nobody waiting."""
        tearing, go_on = threading.Event(), threading.Event()
        log: list[str] = []
        with StatefulThreadPoolExecutor(
            1, initializer=list, finalizer=lambda _: (tearing.set(), go_on.wait(20)), idle_timeout=SHORT
        ) as pool:
            with pool.scope() as scope:
                scope.with_state(dict, finalizer=lambda _: log.append("teardown")).submit(len).result(20)
                assert tearing.wait(20)
            assert log == ["teardown"]
            assert not go_on.is_set()
            go_on.set()

    def test_a_new_one_on_a_worker_that_stays(self) -> None:
        """A worker that starts anew makes the scope's state again, and tears it down before the block ends."""
        log: list[str] = []
        with Leaving() as leaving:
            with leaving.pool.scope() as scope:
                view = scope.with_state(lambda: "state", finalizer=lambda _: log.append("teardown"))
                future = view.submit(lambda state: state)
                leaving.go_on.set()
                assert future.result(20) == "state"
            log.append("block ends")
        assert log == ["teardown", "block ends"]

    def test_hammered(self, states: States, nervous: None) -> None:
        """Scopes open and end while workers come and go: each state ends before its scope, in its own thread."""
        errors: list[object] = []

        def open_scopes() -> None:
            for _ in range(20):
                mine = States()
                with pool.scope() as scope:
                    view = scope.with_state(mine.make, finalizer=mine.tear_down)
                    for number in range(4):
                        view.submit(lambda _: None)
                        if number % 2:
                            time.sleep(0.0003)
                try:
                    mine.check()
                except (AssertionError, KeyError) as exc:
                    errors.append(exc)

        with StatefulThreadPoolExecutor(2, "w", states.make, finalizer=states.tear_down, idle_timeout=0.0002) as pool:
            threads = [threading.Thread(target=open_scopes) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert errors == []
        states.check()
        assert states.most_alive <= 2


def test_with_a_policy(states: States) -> None:
    """A worker that comes back starts with a state of its own, which no policy counts as used."""
    with StatefulThreadPoolExecutor(
        1,
        "w",
        states.make,
        finalizer=states.tear_down,
        policy=StatePolicy(max_tasks=2),
        idle_timeout=SHORT,
    ) as pool:
        view = pool.with_state()
        assert view.submit(lambda number: number).result(20) == 0
        until(lambda: all_gone(pool))
        used = view.bind(lambda number: number)
        assert pool.submit(lambda: [used() for _ in range(3)]).result(20) == [1, 1, 2]
    states.check()


def test_discard_all_meanwhile() -> None:
    """It comes while the worker tears down: what that makes next is no state from before."""
    with Leaving() as leaving:
        view = leaving.pool.with_state()
        future = view.submit(lambda number: number)
        view.discard_all()
        leaving.go_on.set()
        assert future.result(20) == 1
        assert view.submit(lambda number: number).result(20) in (1, 2)
        assert leaving.pool.stats().states_discarded == 0
