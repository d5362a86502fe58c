"""`copy_context=True`: tasks run in a copy of their submitter's context; by default they share their worker's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import decimal
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from entry_points import ENTRY_POINTS, EntryPoint, Pool, asubmit

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default="nothing")


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool of one worker that copies contexts."""
    with StatefulThreadPoolExecutor(1, initializer=list, copy_context=True) as pool:
        yield pool


@pytest.fixture
def sharing() -> Iterator[Pool]:
    """A pool of one worker that does not."""
    with StatefulThreadPoolExecutor(1, initializer=list) as pool:
        yield pool


def run_with(value: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn` with `var` set to `value`, which nothing else notices."""

    def run() -> Any:
        var.set(value)
        return fn(*args)

    return contextvars.copy_context().run(run)


@pytest.fixture(params=list(ENTRY_POINTS))
def entry_point(request: pytest.FixtureRequest) -> EntryPoint:
    """Calls a function without arguments in the pool, one way or another, and returns its result."""
    return ENTRY_POINTS[request.param]


def settle() -> None:
    """Free-threaded builds may put off the end of what another thread has made; a collection there makes up for it."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        gc.collect()


class TestCopied:
    """With `copy_context=True`."""

    def test_values_of_the_submitter(self, pool: Pool, entry_point: EntryPoint) -> None:
        """The task sees what was set where it was submitted, on every entry point."""
        pool.submit(int).result()  # a worker, for a broadcast to reach
        assert run_with("mine", entry_point, pool, var.get) == "mine"
        assert run_with("other", entry_point, pool, var.get) == "other"
        assert entry_point(pool, var.get) == "nothing"

    def test_changes_stay_the_tasks(self, pool: Pool, entry_point: EntryPoint) -> None:
        """What it sets is seen neither by its submitter nor by the next task, nor in the worker."""
        pool.submit(int).result()
        results: list[object] = []

        def change() -> None:
            results.append(var.get())
            var.set("changed")
            results.append(var.get())

        def use() -> object:
            entry_point(pool, change)
            return var.get()

        assert run_with("mine", use) == "mine"
        assert run_with("mine", entry_point, pool, var.get) == "mine"
        assert entry_point(pool, var.get) == "nothing"
        assert results == ["mine", "changed"] * (len(results) // 2)  # each task a copy of its own

    def test_taken_at_submit(self, pool: Pool) -> None:
        """Not when the task begins: what is set later is not seen."""
        go_on = threading.Event()
        pool.submit(go_on.wait)

        def use() -> concurrent.futures.Future[Any]:
            future = pool.submit(var.get)
            var.set("later")
            return future

        future = run_with("before", use)
        go_on.set()
        assert future.result() == "before"

    def test_taken_when_a_buffered_map_goes_on(self, pool: Pool) -> None:
        """The later tasks of a map with a buffer are submitted by who asks for the next result."""
        results = run_with("first", lambda: pool.map(lambda _: var.get(), range(4), buffersize=2))
        assert next(results) == "first"
        assert run_with("second", lambda: next(results)) == "first"
        assert run_with("third", lambda: list(results)) == ["second", "third"]

    def test_tasks_of_a_chunk_share(self, pool: Pool) -> None:
        """A chunk is one task, and so has one context."""
        assert list(pool.map(lambda n: (var.get(), var.set(n))[0], range(4), chunksize=2)) == [
            "nothing",
            0,
            "nothing",
            2,
        ]

    def test_each_call_of_a_broadcast(self) -> None:
        """One copy for each worker."""
        both = threading.Barrier(2)
        with StatefulThreadPoolExecutor(2, copy_context=True) as pool:
            concurrent.futures.wait([pool.submit(both.wait) for _ in range(2)])

            def change() -> object:
                before = var.get()
                var.set(before + "!")
                both.wait()
                return var.get()

            futures = run_with("mine", pool.broadcast, change)
            assert [future.result() for future in futures] == ["mine!"] * 2

    def test_after_a_wait_for_a_place(self) -> None:
        """A submit that had to wait for a place, in a thread or in an event loop."""
        with StatefulThreadPoolExecutor(1, max_backlog=1, copy_context=True) as pool:
            for submit in (lambda: pool.submit(var.get).result(), lambda: asubmit(pool, var.get)):
                go_on = threading.Event()
                pool.submit(go_on.wait)
                _until(lambda: not pool.stats().backlog)
                pool.submit(int)
                results: list[Any] = []
                thread = threading.Thread(
                    target=lambda submit=submit, results=results: results.append(run_with("blocked", submit))
                )
                thread.start()
                _until(lambda: pool.stats().blocked_submitters)
                go_on.set()
                thread.join()
                assert results == ["blocked"]

    @pytest.mark.parametrize("level", [1, 40])
    def test_inline(self, level: int) -> None:
        """A task that a full backlog has run at once, inside the one that submits it; and one queued over the bound."""
        with StatefulThreadPoolExecutor(1, max_backlog=1, copy_context=True) as pool:

            def outer(levels: int) -> list[Any]:
                pool.submit(int) if levels == level else None  # now the backlog is full
                seen = var.get()
                var.set(levels)
                inner = pool.submit(outer, levels - 1).result() if levels else []
                assert var.get() == levels
                return [seen, *inner]

            expected = ["mine", *range(level, 0, -1)]
            assert run_with("mine", lambda: pool.submit(outer, level).result()) == expected
            assert pool.submit(var.get).result() == "nothing"

    @pytest.mark.parametrize("how", ["result", "exception", "scope", "map", "map_unordered"])
    def test_in_place(self, pool: Pool, how: str) -> None:
        """A task run by the one that waits for it sees that one's values, and leaves them as they are."""
        seen: list[Any] = []

        def inner(*_: object) -> None:
            seen.append(var.get())
            var.set("inner")

        def outer() -> object:
            var.set("outer")
            if how == "scope":
                with pool.scope() as scope:
                    scope.submit(inner)
            elif how in ("map", "map_unordered"):
                list(getattr(pool, how)(inner, [1]))
            else:
                getattr(pool.submit(inner), how)()
            return var.get()

        assert pool.submit(outer).result() == "outer"
        assert seen == ["outer"]

    def test_in_place_for_another_submitter(self, pool: Pool) -> None:
        """One that somebody else has submitted is run in that one's context, by whoever waits for it."""
        submitted = threading.Event()
        futures: list[concurrent.futures.Future[Any]] = []

        def outer() -> tuple[Any, Any]:
            submitted.wait()
            return futures[0].result(), var.get()

        waiting = run_with("outer", pool.submit, outer)
        futures.append(run_with("other", pool.submit, var.get))
        submitted.set()
        assert waiting.result() == ("other", "outer")

    def test_same_context_in_many_tasks_at_once(self) -> None:
        """Tasks of one submitter run side by side: each has a copy, since a context can be entered only once."""
        everyone = threading.Barrier(4)
        with StatefulThreadPoolExecutor(4, copy_context=True) as pool:

            def task(number: int) -> object:
                everyone.wait()
                var.set(number)
                everyone.wait()
                return var.get()

            futures = [pool.submit(task, number) for number in range(4)]
            assert [future.result() for future in futures] == [0, 1, 2, 3]

    def test_states_are_made_in_the_workers(self) -> None:
        """Initializer, policy and teardown run in the worker's own context, where they see what they have set."""
        seen: list[Any] = []

        def make() -> list[int]:
            seen.append(var.get())
            var.set("worker")
            return []

        def look(state: list[int]) -> None:
            seen.append(var.get())

        with StatefulThreadPoolExecutor(
            1, initializer=make, finalizer=look, policy=StatePolicy(check=look, reset=look), copy_context=True
        ) as pool:
            assert run_with("task", lambda: pool.with_state().submit(lambda _: var.get()).result()) == "task"
        assert seen[0] == "nothing"
        assert len(seen) >= 4
        assert set(seen[1:]) == {"worker"}

    def test_initializer_is_out_of_reach(self) -> None:
        """So a decimal context set by an initializer does not reach the tasks: that is what the default is for."""
        with StatefulThreadPoolExecutor(
            1, initializer=decimal.setcontext, initargs=(decimal.Context(prec=3),), copy_context=True
        ) as pool:
            assert pool.submit(lambda: decimal.getcontext().prec).result() == decimal.getcontext().prec != 3
            with decimal.localcontext() as context:
                context.prec = 7
                assert pool.submit(lambda: decimal.Decimal(1) / 3).result() == decimal.Decimal("0.3333333")

    def test_traceback(self, pool: Pool) -> None:
        """The error's traceback begins with the task's function, as without it."""

        def fail() -> None:
            raise ValueError

        error = pool.submit(fail).exception()
        assert error is not None
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_frame.f_code is fail.__code__

    def test_arguments_and_results(self, pool: Pool) -> None:
        """They go through unchanged, keywords too, whatever their names."""
        assert pool.submit(lambda *args, **kwargs: (args, kwargs), 1, fn=2, self=3, func=4).result() == (
            (1,),
            {"fn": 2, "self": 3, "func": 4},
        )
        assert pool.with_state().submit(lambda state, *, key: (state, key), key=1).result() == ([], 1)

    @pytest.mark.parametrize("ending", ["ended", "failed", "cancelled"])
    def test_context_is_not_kept(self, pool: Pool, ending: str) -> None:
        """A finished task keeps nothing of its context, though its future is there still."""

        class Value:
            pass

        value = Value()
        ref = weakref.ref(value)
        go_on = threading.Event()
        pool.submit(go_on.wait)
        future = run_with(value, pool.submit, divmod, 1, int(ending != "failed"))
        del value
        assert ref() is not None
        gc.collect()
        gc.disable()
        try:
            if ending == "cancelled":
                assert future.cancel()
                settle()
                assert ref() is None
            go_on.set()
            concurrent.futures.wait([future])
            pool.submit(int).result()
            pool.submit(int).result()  # the worker has forgotten the one before
            settle()
            assert ref() is None
        finally:
            gc.enable()
        assert ending == "cancelled" or (future.exception() is None) == (ending == "ended")

    def test_asyncio_tasks(self) -> None:
        """Each coroutine's own values, in one event loop."""

        async def use(pool: Pool, value: int) -> bool:
            var.set(value)
            await asyncio.sleep(0)
            return value == await (await pool.asubmit(var.get))

        async def main(pool: Pool) -> list[bool]:
            return await asyncio.gather(*[use(pool, value) for value in range(20)])

        with StatefulThreadPoolExecutor(2, max_backlog=2, copy_context=True) as pool:
            assert asyncio.run(main(pool)) == [True] * 20


class TestShared:
    """By default, as in the standard library."""

    def test_submitters_values_are_not_seen(self, sharing: Pool, entry_point: EntryPoint) -> None:
        """Workers start in an empty context, whoever makes them start."""
        assert run_with("mine", lambda: (sharing.submit(int).result(), entry_point(sharing, var.get))[1]) == "nothing"

    def test_tool_that_carries_contexts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They start in an empty one though a tool has threads run in the one that made them."""
        init, run = threading.Thread.__init__, threading.Thread.run

        def make(thread: Any, *args: Any, **kwargs: Any) -> None:
            init(thread, *args, **kwargs)
            thread.carried = contextvars.copy_context()

        monkeypatch.setattr(threading.Thread, "__init__", make)
        monkeypatch.setattr(threading.Thread, "run", lambda thread: thread.carried.run(run, thread))
        with StatefulThreadPoolExecutor(1) as pool:
            assert run_with("mine", lambda: pool.submit(var.get).result()) == "nothing"

    def test_what_is_left_ends_with_the_worker(self) -> None:
        """In its thread, while `threading` knows that: a destructor that asks who it is leaves no dummy behind."""

        class Left:
            def __del__(self) -> None:
                ended.append(threading.current_thread().name)

        ended: list[str] = []
        with StatefulThreadPoolExecutor(1, "w") as pool:
            pool.submit(lambda: bool(var.set(Left()))).result()
        assert ended == ["w_0"]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("Dummy")]

    def test_initializer_reaches_the_tasks(self, entry_point: EntryPoint) -> None:
        """What the initializer has set is there in every task."""
        context = decimal.Context(prec=3)
        with StatefulThreadPoolExecutor(1, initializer=decimal.setcontext, initargs=(context,)) as pool:
            pool.submit(int).result()
            assert entry_point(pool, lambda: decimal.getcontext().prec) == 3  # type: ignore[arg-type]
            assert entry_point(pool, lambda: str(decimal.Decimal(1) / 3)) == "0.333"  # type: ignore[arg-type]

    def test_each_worker_its_own(self) -> None:
        """Each worker's initializer sets its own."""
        both = threading.Barrier(2)
        numbers = iter((3, 4))

        def start() -> None:
            both.wait()
            decimal.setcontext(decimal.Context(prec=next(numbers)))

        with StatefulThreadPoolExecutor(2, initializer=start) as pool:
            futures = [pool.submit(lambda: (both.wait(), decimal.getcontext().prec)[1]) for _ in range(2)]
            assert sorted(future.result() for future in futures) == [3, 4]

    def test_changes_stay_in_the_worker(self, sharing: Pool) -> None:
        """What a task sets, the next one of that worker finds."""
        sharing.submit(var.set, "left behind").result()
        assert sharing.submit(var.get).result() == "left behind"
        assert sharing.with_state().submit(lambda _: var.get()).result() == "left behind"
        assert var.get() == "nothing"


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0)


class TestPatchedStart:
    """Tools carry the context of whoever starts a thread over into it, by a `Thread.start` of their own."""

    @pytest.fixture(autouse=True)
    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def carry_over(thread: threading.Thread) -> None:
            context, run = contextvars.copy_context(), thread.run
            monkeypatch.setattr(thread, "run", lambda: context.run(run))
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", carry_over)

    @staticmethod
    def request(name: str, pool: StatefulThreadPoolExecutor[Any]) -> list[Any]:
        """What tasks see that are submitted in the thread of a request, through a pool that may have no worker yet."""
        seen: list[Any] = []

        def handle() -> None:
            var.set(name)
            seen.append(pool.submit(var.get).result())
            seen.extend(pool.map(lambda _: var.get(), range(2)))

        thread = threading.Thread(target=contextvars.Context().run, args=(handle,))
        thread.start()
        thread.join()
        return seen

    def test_no_context_for_life(self) -> None:
        """A worker does not keep that of the first request."""
        with StatefulThreadPoolExecutor(2) as pool:
            assert self.request("first", pool) == ["nothing"] * 3
            assert self.request("second", pool) == ["nothing"] * 3

    def test_each_its_own(self) -> None:
        """With `copy_context=True` a task sees that of its own request."""
        with StatefulThreadPoolExecutor(2, copy_context=True) as pool:
            assert self.request("first", pool) == ["first"] * 3
            assert self.request("second", pool) == ["second"] * 3

    def test_initializer(self) -> None:
        """The initializer sees none either."""
        seen: list[Any] = []
        with StatefulThreadPoolExecutor(1, initializer=lambda: seen.append(var.get())) as pool:
            self.request("first", pool)
        assert seen == ["nothing"]
