"""What every kind of pool promises, threads, processes and Ray: one suite. What differs is in test_differences.py."""

import asyncio
import concurrent.futures
import gc
import logging
import pickle
import re
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import Any

import kinds
import pytest
from kinds import Gate, Kind, Notes, State, begin, held, push
from threads import until

from stateful_executor import BacklogFull, InitializerError, PoolStats, Scope, StatePolicy, StateView

# Tasks


def test_submit(kind: Kind) -> None:
    """Positional and keyword arguments arrive, and so does the result."""
    with kind.make(1) as pool:
        assert isinstance(pool, Executor)
        assert pool.submit(kinds.add, 1).result() == 2
        assert pool.submit(kinds.add, 1, b=3).result() == 4


def test_error(kind: Kind) -> None:
    """What a task raises comes out of its future; the worker goes on."""
    with kind.make(1) as pool:
        failed = pool.submit(kinds.fail, "what", 2)
        with pytest.raises(LookupError) as caught:
            failed.result()
        assert caught.value.args == ("what", 2)
        assert pool.submit(kinds.add, 1).result() == 2


def test_system_exit_is_the_tasks(kind: Kind) -> None:
    """It ends no worker."""
    with kind.make(1, initializer=begin) as pool:
        assert isinstance(pool.submit(kinds.leave).exception(), SystemExit)
        assert pool.with_state().submit(push).result() == 1


def test_order(kind: Kind, notes: Notes, gate: Gate) -> None:
    """Tasks begin in the order in which they were submitted."""
    with kind.make(1) as pool:
        with held(pool, gate):
            for number in range(5):
                pool.submit(notes.add, number)
    assert notes.lines() == ["0", "1", "2", "3", "4"]


def test_waiting(kind: Kind) -> None:
    """Futures are the standard library's."""
    with kind.make(2) as pool:
        futures = [pool.submit(kinds.add, number) for number in range(5)]
        assert isinstance(futures[0], concurrent.futures.Future)
        assert len(concurrent.futures.wait(futures).done) == 5
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2, 3, 4, 5]


def test_cancel(kind: Kind, gate: Gate) -> None:
    """What has not begun can be cancelled, all of it, and then frees its place; what runs can't."""
    with kind.make(1, max_backlog=3) as pool:
        running = pool.submit(gate.wait)
        gate.until_came()
        waiting = [pool.submit(kinds.add, 1) for _ in range(3)]
        assert running.running()
        assert not running.cancel()
        assert all(future.cancel() for future in waiting)
        again = pool.submit(kinds.add, 1)
        gate.open()
        assert again.result() == 2
        with pytest.raises(CancelledError):
            waiting[0].result()


def test_backlog(kind: Kind, gate: Gate) -> None:
    """At most `max_backlog` tasks have not begun; then `submit` waits, and gives up in time."""
    with kind.make(1, max_backlog=2, submit_timeout=0) as pool:
        with held(pool, gate):
            waiting = [pool.submit(kinds.add, number) for number in range(2)]
            with pytest.raises(BacklogFull, match="2"):
                pool.submit(kinds.add, 2)
        assert [future.result() for future in waiting] == [1, 2]
        assert pool.stats().peak_backlog == 2


def test_lost_error(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody takes is logged, with the name of the function."""
    with kind.make(1) as pool:
        pool.submit(kinds.fail)
    gc.collect()
    assert ["task fail failed" in record.getMessage() for record in caplog.records] == [True]


def test_callback_submits(kind: Kind, gate: Gate) -> None:
    """A callback runs in a worker of this process; in a full pool what it submits is run at once."""
    done: list[int] = []
    with kind.make(1, max_backlog=1) as pool:
        first = pool.submit(gate.wait, 1)
        gate.until_came()
        first.add_done_callback(lambda _: done.append(pool.submit(kinds.add, 1).result()))
        second = pool.submit(kinds.add, 5)
        gate.open()
        assert second.result() == 6
    assert done == [2]


# Maps


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("buffersize", [None, 2])
def test_map(kind: Kind, chunksize: int, buffersize: int | None) -> None:
    """In order, whatever the chunks; of several iterables, too; of a view with the state first."""
    with kind.make(2, initializer=begin) as pool:
        results = pool.map(kinds.add, range(10), range(10), chunksize=chunksize, buffersize=buffersize)
        assert list(results) == [2 * number for number in range(10)]
        assert list(pool.map(kinds.add, range(4), chunksize=chunksize)) == [1, 2, 3, 4]
        places = set(pool.with_state().map(kinds.seen_by, range(10), chunksize=chunksize))
        assert 1 <= len(places) <= 2
        assert sorted(pool.map_unordered(kinds.add, range(5), chunksize=chunksize)) == [1, 2, 3, 4, 5]


def test_map_error(kind: Kind) -> None:
    """What came before the error in its chunk is yielded first."""
    with kind.make(1) as pool:
        results = pool.map(partial(kinds.fail_at, 4), range(6), chunksize=3)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(LookupError, match="4"):
            next(results)


# The pool's own state


@pytest.mark.parametrize("initializer", [kinds.begin_and_end, kinds.manage, begin])
def test_state(kind: Kind, notes: Notes, initializer: Callable[..., Any]) -> None:
    """Made once, lent to each task, torn down in the thread that made it."""
    finalizer = State.close if initializer is begin else None
    with kind.make(1, initializer=initializer, initargs=(notes,), finalizer=finalizer) as pool:
        view = pool.with_state()
        assert isinstance(view, StateView)
        assert [view.submit(push).result() for _ in range(3)] == [1, 2, 3]
        assert view.submit(kinds.seen_by).result()
        assert notes.lines() == ["made state"]
    assert notes.lines() == ["made state", "closed state there"]


def test_state_per_worker(kind: Kind, gate: Gate) -> None:
    """Each worker has its own."""
    with kind.make(2, initializer=begin) as pool:
        with held(pool, gate, 2):
            pass
        assert len({future.result() for future in pool.broadcast(kinds.where)}) == 2
        assert len({future.result() for future in pool.with_state().broadcast(kinds.seen_by)}) == 2


def test_no_state(kind: Kind) -> None:
    """A pool without an initializer has none; finalizer and policy need one; a generator takes no finalizer."""
    with kind.make(1) as pool, pytest.raises(ValueError, match="initializer"):
        pool.with_state()
    with pytest.raises(ValueError, match="initializer"):
        kind.make(1, finalizer=State.close)
    with pytest.raises(ValueError, match="initializer"):
        kind.make(1, policy=StatePolicy())
    with pytest.raises(TypeError, match="yield"):
        kind.make(1, initializer=kinds.begin_and_end, finalizer=State.close)


def test_broken(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """An initializer that fails before it has ever succeeded breaks the pool, with its error as the cause."""
    with kind.make(1, initializer=kinds.refuse) as pool:
        future = pool.submit(kinds.add, 1)
        with pytest.raises(BrokenThreadPool, match="Refusal") as caught:
            future.result()
        assert isinstance(caught.value.__cause__, kinds.Refusal)
        with pytest.raises(BrokenThreadPool):
            pool.submit(kinds.add, 1)


def test_initializer_fails_later(kind: Kind, notes: Notes) -> None:
    """One task fails, and the next one tries again."""
    with kind.make(1, initializer=kinds.begin_at_times, initargs=(notes,)) as pool:
        view = pool.with_state()
        assert view.submit(push).result() == 1
        view.discard_all()
        with pytest.raises(InitializerError, match="begin_at_times"):
            view.submit(push).result()
        assert view.submit(push).result() == 1


def test_teardown_fails(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """That is logged, and counted."""
    with kind.make(1, initializer=begin, finalizer=kinds.refuse) as pool:
        assert pool.with_state().submit(push).result() == 1
    assert pool.stats().teardown_errors == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Refusal: no" in caplog.text


# Views


def test_view(kind: Kind, notes: Notes) -> None:
    """Views with equal arguments share their states, which each worker makes when it first needs them."""
    with kind.make(1) as pool:
        views = [pool.with_state(begin, (notes, "a"), finalizer=State.close) for _ in range(2)]
        other = pool.with_state(begin, (notes, "b"), finalizer=State.close)
        assert pool.submit(kinds.add, 1).result() == 2
        assert notes.lines() == []
        assert [view.submit(push).result() for view in [*views, other]] == [1, 2, 1]
    assert notes.lines() == ["made a", "made b", "closed b there", "closed a there"]


def test_view_fails(kind: Kind, notes: Notes) -> None:
    """A state that can't be made fails one task."""
    with kind.make(1) as pool:
        view = pool.with_state(kinds.refuse)
        for _ in range(2):
            with pytest.raises(InitializerError, match="refuse") as caught:
                view.submit(push).result()
            assert isinstance(caught.value.__cause__, kinds.Refusal)
        assert pool.submit(kinds.add, 1).result() == 2


def test_view_broadcast(kind: Kind, gate: Gate) -> None:
    """On each worker that has such a state."""
    with kind.make(2) as pool:
        with held(pool, gate, 2):
            pass
        view = pool.with_state(begin)
        assert view.broadcast(push) == []
        assert view.submit(push).result() == 1
        assert [future.result() for future in view.broadcast(push)] == [2]


def test_view_in_a_task(kind: Kind) -> None:
    """A task may get its state by `get`, and lend another one to a bound function."""
    with kind.make(1, initializer=begin) as pool:
        for view in pool.with_state(), pool.with_state(begin, (None, "other")):
            place = view.submit(kinds.seen_by).result()
            assert view.submit(kinds.get_through, view).result() == place
            assert pool.submit(view.bind(kinds.seen_by_bound)).result() == place
            with pytest.raises(RuntimeError, match=r"get\(\)"):
                pool.submit(view.get).result()
            with pytest.raises(RuntimeError, match="workers of that pool"):
                view.get()
            with pytest.raises(RuntimeError, match="workers of that pool"):
                view.bind(kinds.seen_by_bound)()


def test_bound_function_makes_the_state(kind: Kind, notes: Notes) -> None:
    """When no task of the view has needed it before; it is the scope's to tear down all the same."""
    with kind.make(1) as pool:
        with pool.scope() as scope:
            view = scope.with_state(begin, (notes,), finalizer=State.close)
            assert pool.submit(view.bind(push)).result() == 1
            assert pool.submit(view.bind(push)).result() == 2
        assert notes.lines() == ["made state", "closed state there"]


@pytest.mark.parametrize("own", [True, False])
def test_discard(kind: Kind, notes: Notes, own: bool) -> None:
    """`discard` replaces the state after the task; `discard_all` every state made before."""
    options: dict[str, Any] = {"initargs": (notes,), "finalizer": State.close}
    with kind.make(1, **({"initializer": begin, **options} if own else {})) as pool:
        view = pool.with_state() if own else pool.with_state(begin, **options)
        assert view.submit(push).result() == 1
        assert view.submit(kinds.discard_through, view).result() == 2
        assert view.submit(push).result() == 1
        view.discard_all()
        until(lambda: len(notes.lines()) == 4)
        assert view.submit(push).result() == 1
        until(lambda: pool.stats().states_discarded == 2)
    assert notes.lines() == ["made state", "closed state there"] * 3


# Policies


@pytest.mark.parametrize("own", [True, False])
def test_policy(kind: Kind, own: bool) -> None:
    """Check, reset, the number of tasks, and errors that discard."""
    policy = StatePolicy(check=kinds.is_good, reset=kinds.clean, discard_on=LookupError)
    with kind.make(1, **({"initializer": begin, "policy": policy} if own else {})) as pool:
        view = pool.with_state() if own else pool.with_state(begin, policy=policy)
        assert [view.submit(push).result() for _ in range(2)] == [1, 1]
        view.submit(kinds.spoil).result()
        assert view.submit(push).result() == 1
        assert isinstance(view.submit(kinds.fail_with, LookupError()).exception(), LookupError)
        assert isinstance(view.submit(kinds.fail_with, ValueError()).exception(), ValueError)
        assert view.submit(push).result() == 1
        assert pool.stats().states_discarded == 2


def test_max_tasks(kind: Kind) -> None:
    """After so many tasks a state is replaced."""
    with kind.make(1, initializer=begin, policy=StatePolicy(max_tasks=2)) as pool:
        assert [pool.with_state().submit(push).result() for _ in range(5)] == [1, 2, 1, 2, 1]
        assert pool.stats().states_made == 3


# Scopes


def test_scope(kind: Kind, notes: Notes) -> None:
    """The block ends when its tasks have ended, and its own states are torn down."""
    with kind.make(2, initializer=begin) as pool:
        with pool.scope() as scope:
            assert isinstance(scope, Scope)
            for number in range(5):
                scope.submit(notes.add, number)
            scope.with_state().submit(push)
        assert sorted(notes.lines()) == ["0", "1", "2", "3", "4"]
        with pool.scope() as scope:
            futures = [scope.with_state(begin, (notes,), finalizer=State.close).submit(push) for _ in range(3)]
        made = notes.lines().count("made state")
        assert 1 <= made <= 2
        assert notes.lines().count("closed state there") == made
        assert sum(future.result() for future in futures) >= 3
        with pytest.raises(RuntimeError, match="has ended"):
            scope.submit(kinds.add, 1)


def test_scope_raises(kind: Kind) -> None:
    """What tasks raise is raised together; also what the teardown of the scope's states raises."""
    with kind.make(1) as pool:
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as scope:
            scope.submit(kinds.fail, 1)
            scope.with_state(begin, finalizer=kinds.refuse).submit(push)
        assert [type(error) for error in caught.value.exceptions] == [LookupError, kinds.Refusal]


def test_scope_body_raises(kind: Kind, gate: Gate) -> None:
    """What has not begun is cancelled, what runs is joined, and the error goes on."""
    with kind.make(1) as pool:
        with pytest.raises(ZeroDivisionError), pool.scope() as scope:
            running = scope.submit(gate.wait, "ran")
            gate.until_came()
            waiting = scope.submit(kinds.add, 1)
            gate.open()
            raise ZeroDivisionError
        assert running.result(0) == "ran"
        assert waiting.done()


def test_fail_fast(kind: Kind, gate: Gate) -> None:
    """The first error cancels what has not begun."""
    with kind.make(1) as pool:
        with pytest.raises(ExceptionGroup), pool.scope(fail_fast=True) as scope:
            with held(pool, gate):
                scope.submit(kinds.fail)
                waiting = scope.submit(kinds.add, 1)
        assert waiting.cancelled()


def test_scope_timeout(kind: Kind, gate: Gate) -> None:
    """At the deadline, what has not begun is cancelled."""
    with kind.make(1) as pool, held(pool, gate):
        with pytest.raises(TimeoutError), pool.scope(timeout=0.01) as scope:
            waiting = scope.submit(kinds.add, 1)
        assert waiting.cancelled()


# Workers


def test_broadcast(kind: Kind, gate: Gate) -> None:
    """Once on each worker."""
    with kind.make(3) as pool:
        assert pool.broadcast(kinds.where) == []
        with held(pool, gate, 3):
            pass
        futures = pool.broadcast(kinds.where)
        assert len({future.result() for future in futures}) == 3
        with pytest.raises(LookupError):
            pool.broadcast(kinds.fail)[0].result()


def test_resize(kind: Kind, gate: Gate, notes: Notes) -> None:
    """More workers for the tasks that wait; those too many tear down."""
    with kind.make(1, initializer=begin, initargs=(notes,), finalizer=State.close) as pool:
        held_by_two = [pool.submit(gate.wait) for _ in range(2)]
        gate.until_came(1)
        pool.resize(2)
        gate.until_came(2)
        gate.open()
        assert [future.result() for future in held_by_two] == [None, None]
        pool.resize(1)
        until(lambda: pool.stats().workers == 1)
        assert notes.lines().count("closed state there") == 1


def test_idle_timeout(kind: Kind, notes: Notes) -> None:
    """An idle worker tears down and ends; the next task has another one."""
    with kind.make(1, initializer=begin, initargs=(notes,), finalizer=State.close, idle_timeout=0.01) as pool:
        assert pool.with_state().submit(push).result() == 1
        until(lambda: notes.lines()[-1] == "closed state there")
        assert pool.with_state().submit(push).result() == 1


def test_stats(kind: Kind) -> None:
    """Tasks and states are counted."""
    with kind.make(1, initializer=begin) as pool:
        assert pool.submit(kinds.add, 1).result() == 2
        assert isinstance(pool.submit(kinds.fail).exception(), LookupError)
        stats = pool.stats()
        assert isinstance(stats, PoolStats)
        assert (stats.workers, stats.submitted, stats.completed, stats.failed) == (1, 2, 1, 1)
        assert (stats.states_made, stats.states_torn_down) == (1, 0)
        assert re.search("1 of 1 workers, 1 idle, 1 states", repr(pool))
    assert pool.stats().states_torn_down == 1


# The end


def test_shutdown(kind: Kind, gate: Gate) -> None:
    """What is queued is run, unless it is to be cancelled; nothing is accepted any more."""
    pool = kind.make(1)
    running = pool.submit(gate.wait, 1)
    gate.until_came()
    waiting = pool.submit(kinds.add, 1)
    with pytest.raises(TimeoutError, match="wait"):
        pool.shutdown(timeout=0)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    pool.shutdown()
    assert running.result() == 1
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(kinds.add, 1)


def test_dropped(kind: Kind, notes: Notes) -> None:
    """A pool that nobody refers to tears down."""
    pool: Any = kind.make(1, initializer=begin, initargs=(notes,), finalizer=State.close)
    future = pool.submit(kinds.add, 1)
    del pool
    assert future.result() == 2
    until(lambda: notes.lines() == ["made state", "closed state there"])


# Event loops


def test_event_loop(kind: Kind) -> None:
    """`asubmit`, a scope, and `run_in_executor`."""

    async def main(pool: Any) -> list[int]:
        async with pool.scope() as scope:
            futures = [await scope.asubmit(kinds.add, 1), await pool.asubmit(kinds.add, 2)]
            futures.append(await pool.with_state().asubmit(push))
        results = [await future for future in futures]
        loop = asyncio.get_running_loop()
        return [*results, await loop.run_in_executor(pool, pool.with_state().bind(push))]

    with kind.make(1, initializer=begin) as pool:
        assert asyncio.run(main(pool)) == [2, 3, 1, 2]


def test_asubmit_waits(kind: Kind, gate: Gate) -> None:
    """For a place, without blocking the loop."""

    async def main(pool: Any) -> int:
        waiting = await pool.asubmit(kinds.add, 1)
        late = asyncio.ensure_future(pool.asubmit(kinds.add, 2))
        await asyncio.sleep(0)
        assert not late.done()
        gate.open()
        return await waiting + await (await late)

    with kind.make(1, max_backlog=1) as pool:
        with held(pool, gate):
            assert asyncio.run(main(pool)) == 5


# What can't be done


def test_not_sent(kind: Kind) -> None:
    """A pool, a scope and a future can't be pickled."""
    with kind.make(1) as pool, pool.scope() as scope:
        for thing in pool, scope, scope.submit(kinds.add, 1):
            with pytest.raises(TypeError, match="can't be pickled"):
                pickle.dumps(thing)


def test_wrong_arguments(kind: Kind) -> None:
    """As the constructor of threads."""
    for wrong in {"max_workers": 0}, {"max_backlog": 0}, {"submit_timeout": 1}, {"idle_timeout": -1}:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kind.make(**{"max_workers": 1, **wrong})
    for wrong in {"max_workers": "1"}, {"initializer": 1}, {"initializer": begin, "initargs": 1}:
        with pytest.raises(TypeError):
            kind.make(**{"max_workers": 1, **wrong})
