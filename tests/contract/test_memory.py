"""Memory: nothing of a finished task is kept, however it was submitted and however it ended; and nothing grows.

The rounds are few by default; with `STRESS=1` in the environment they are as many as a soak's.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import re
import sys
import threading
import time
import tracemalloc
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any

import pytest
from inside import containers, inside
from kept import Blocked, Failure, Thing, no_collector, outcome, run_in_place, run_inline
from starts import fail_to_start
from threads import PATIENCE, until

from stateful_executor import BacklogFull, InitializerError, StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
STRESS = bool(os.environ.get("STRESS"))


# What is kept of a task


class Notes:
    """Weak references to what belongs to a task, and the names of these."""

    def __init__(self) -> None:
        self.refs: list[tuple[str, weakref.ref[Any]]] = []

    def add(self, name: str, thing: Any) -> Any:
        self.refs.append((name, weakref.ref(thing)))
        return thing

    def alive(self) -> list[str]:
        """The names of what has not gone, each with what refers to it."""
        if not GIL:
            gc.collect()  # there, some references are given up late
        return [f"{name}: {referrers(thing)}" for name, ref in self.refs if (thing := ref()) is not None]


def referrers(thing: Any, levels: int = 3) -> str:
    """What refers to `thing`, and what to that, for a person."""
    own = {id(sys._getframe())}
    names = []
    for referrer in gc.get_referrers(thing):
        if id(referrer) in own or (isinstance(referrer, types.FrameType) and referrer.f_code.co_filename == __file__):
            continue
        if isinstance(referrer, types.FrameType):
            names.append(f"frame of {referrer.f_code.co_qualname} at line {referrer.f_lineno}")
        elif levels > 1 and isinstance(referrer, (dict, list, tuple, types.CellType)):
            names.append(f"{type(referrer).__name__} < [{referrers(referrer, levels - 1)}]")
        else:
            names.append(type(referrer).__qualname__)
    return ", ".join(names) or "a frame, or C code"


class Call:
    """A task's function. What it returns is noted, and what stands in its frame."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        local = self.notes.add("local", Thing())  # noqa: F841
        return self.notes.add("result", Thing())


class Failing(Call):
    """As `Call`, for what it raises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        local = self.notes.add("local", Thing())  # noqa: F841
        error = self.notes.add("error", Failure())
        try:
            raise error
        finally:
            del error  # a cycle of the test's own


def all_of(futures: Any) -> None:
    for future in futures:
        future.exception(PATIENCE)


def with_scope(use: Callable[..., Any], **options: Any) -> Callable[[Pool, Any, Any], None]:
    """A entry point: `use(scope, fn, arg)` inside of a scope's block. The scope itself is dropped as well."""

    def entry_point(pool: Pool, fn: Any, arg: Any) -> None:
        with contextlib.suppress(BaseExceptionGroup, TimeoutError), pool.scope(**options) as scope:
            use(scope, fn, arg)

    return entry_point


def consumed(results: Iterator[Any]) -> None:
    """All results, or those before the first error."""
    with contextlib.suppress(Failure):
        for result in results:
            del result
    del results


def in_loop(start: Callable[..., Any]) -> Callable[[Pool, Any, Any], None]:
    """A entry point: `start(pool, fn, arg)` in an event loop, whose own cycles are collected."""

    def entry_point(pool: Pool, fn: Any, arg: Any) -> None:
        async def main() -> None:
            with contextlib.suppress(Failure):
                await start(pool, fn, arg)

        asyncio.run(main())
        gc.collect()

    return entry_point


async def asubmitted(entry_point: Any, fn: Any, arg: Any) -> Any:
    return await (await entry_point.asubmit(fn, arg, key=arg))


async def in_async_scope(pool: Pool, fn: Any, arg: Any) -> Any:
    async with pool.scope() as scope:
        return await asubmitted(scope, fn, arg)


async def in_executor(pool: Pool, fn: Any, arg: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, pool.with_state().bind(fn), arg)


def nested_scope(pool: Pool, fn: Any, arg: Any) -> None:
    """In a task: the end of a scope runs what it has."""
    with contextlib.suppress(BaseExceptionGroup), pool.scope() as scope:
        scope.submit(fn, arg, key=arg)
        scope.with_state().submit(fn, arg)


def timed_out_wait(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool):
        future = pool.submit(fn, arg)
        for wait in future.result, future.exception:
            with contextlib.suppress(TimeoutError):
                wait(0.001)
        assert not concurrent.futures.wait([future], 0.001).done
    future.exception(PATIENCE)


def left_map(pool: Pool, fn: Any, arg: Any, method: str = "map") -> None:
    """An iterator that is closed with tasks running, queued and ended."""
    results = getattr(pool, method)(fn, [arg] * 3)
    with contextlib.suppress(Failure):
        next(results)
    results.close()


def timed_out_map(pool: Pool, fn: Any, arg: Any, method: str = "map") -> None:
    with Blocked(pool):
        with pytest.raises(TimeoutError):
            next(getattr(pool, method)(fn, [arg] * 3, timeout=0.001))


RUNNING: dict[str, Callable[[Pool, Any, Any], Any]] = {
    "submit": lambda pool, fn, arg: outcome(pool.submit(fn, arg, key=arg)),
    "view": lambda pool, fn, arg: outcome(pool.with_state().submit(fn, arg, key=arg)),
    "view of its own": lambda pool, fn, arg: outcome(pool.with_state(Thing).submit(fn, arg, key=arg)),
    "view with policy": lambda pool, fn, arg: outcome(
        pool.with_state(Thing, policy=StatePolicy(check=id, reset=id, discard_on=Failure, max_tasks=1)).submit(fn, arg)
    ),
    "bound": lambda pool, fn, arg: outcome(pool.submit(pool.with_state().bind(fn), arg, key=arg)),
    "bound in a task": lambda pool, fn, arg: outcome(pool.submit(lambda: pool.with_state().bind(fn)(arg, key=arg))),
    "scope": with_scope(lambda scope, fn, arg: scope.submit(fn, arg, key=arg)),
    "scope, taken": with_scope(lambda scope, fn, arg: outcome(scope.submit(fn, arg, key=arg))),
    "scope's view": with_scope(lambda scope, fn, arg: scope.with_state().submit(fn, arg, key=arg)),
    "scope's own view": with_scope(lambda scope, fn, arg: scope.with_state(Thing).submit(fn, arg, key=arg)),
    "scope with timeout": with_scope(lambda scope, fn, arg: scope.submit(fn, arg, key=arg), timeout=PATIENCE),
    "scope with fail_fast": with_scope(lambda scope, fn, arg: all_of([scope.submit(fn, arg)]), fail_fast=True),
    "scope's map": with_scope(lambda scope, fn, arg: consumed(scope.map(fn, [arg, arg], chunksize=2))),
    "scope's map_unordered": with_scope(lambda scope, fn, arg: consumed(scope.map_unordered(fn, [arg, arg]))),
    "map": lambda pool, fn, arg: consumed(pool.map(fn, [arg, arg])),
    "map in chunks": lambda pool, fn, arg: consumed(pool.map(fn, [arg, arg, arg], chunksize=2)),
    "map with a buffer": lambda pool, fn, arg: consumed(pool.map(fn, [arg] * 4, buffersize=2)),
    "map of a view": lambda pool, fn, arg: consumed(pool.with_state().map(fn, [arg] * 4, chunksize=2, buffersize=1)),
    "map_unordered": lambda pool, fn, arg: consumed(pool.map_unordered(fn, [arg, arg])),
    "map_unordered in chunks": lambda pool, fn, arg: consumed(pool.map_unordered(fn, [arg] * 3, chunksize=2)),
    "map_unordered with a buffer": lambda pool, fn, arg: consumed(pool.map_unordered(fn, [arg] * 4, buffersize=2)),
    "map_unordered of a view": lambda pool, fn, arg: consumed(pool.with_state().map_unordered(fn, [arg] * 3)),
    "map, left": left_map,
    "map_unordered, left": lambda pool, fn, arg: left_map(pool, fn, arg, "map_unordered"),
    "broadcast": lambda pool, fn, arg: all_of(pool.broadcast(fn, arg, key=arg)),
    "broadcast of a view": lambda pool, fn, arg: all_of(pool.with_state().broadcast(fn, arg, key=arg)),
    "broadcast of a scope's view": with_scope(lambda scope, fn, arg: scope.with_state().broadcast(fn, arg)),
    "in place": lambda pool, fn, arg: outcome(pool.submit(run_in_place, pool, fn, arg)),
    "in place, in a scope": lambda pool, fn, arg: outcome(pool.submit(nested_scope, pool, fn, arg)),
    "in place, in a map": lambda pool, fn, arg: outcome(pool.submit(lambda: consumed(pool.map(fn, [arg, arg])))),
    "in place, unordered": lambda pool, fn, arg: outcome(
        pool.submit(lambda: consumed(pool.with_state().map_unordered(fn, [arg, arg])))
    ),
    "inline": lambda pool, fn, arg: outcome(pool.submit(run_inline, pool, fn, arg)),
    "asubmit": in_loop(asubmitted),
    "asubmit of a view": in_loop(lambda pool, fn, arg: asubmitted(pool.with_state(), fn, arg)),
    "asubmit of a scope": in_loop(in_async_scope),
    "run_in_executor": in_loop(in_executor),
    "wait": lambda pool, fn, arg: all_of(concurrent.futures.wait([pool.submit(fn, arg)], PATIENCE).done),
    "as_completed": lambda pool, fn, arg: all_of(concurrent.futures.as_completed([pool.submit(fn, arg)], PATIENCE)),
    "wait in vain": timed_out_wait,
}


class Seen:
    """A callback."""

    def __init__(self) -> None:
        self.called = threading.Event()

    def __call__(self, future: Any) -> None:
        future.exception()
        self.called.set()


class Raising(Seen):
    def __call__(self, future: Any) -> None:
        super().__call__(future)
        raise LookupError


def called_back(pool: Pool, fn: Any, arg: Any, kind: type[Seen] = Seen) -> None:
    """Callbacks added before the task begins and after its end; they go with the future, too."""
    seen = kind(), kind()
    with Blocked(pool):
        future = pool.submit(fn, arg)
        future.add_done_callback(fn.notes.add("callback", seen[0]))
    future.exception(PATIENCE)
    assert seen[0].called.wait(PATIENCE)
    future.add_done_callback(fn.notes.add("callback", seen[1]))


RUNNING["callbacks"] = called_back
RUNNING["raising callbacks"] = lambda pool, fn, arg: called_back(pool, fn, arg, Raising)


# Those that end otherwise


def cancelled(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool):
        for future in pool.submit(fn, arg, key=arg), pool.with_state().submit(fn, arg):
            seen = fn.notes.add("callback", Seen())
            future.add_done_callback(seen)
            assert future.cancel()
            with contextlib.suppress(CancelledError):
                future.result()


def cancelled_by_scope(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool), pool.scope() as scope:
        scope.submit(fn, arg, key=arg)
        scope.with_state().submit(fn, arg)
        scope.cancel()
        with pytest.raises(RuntimeError):
            scope.submit(fn, arg)


def cancelled_by_an_error(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool), contextlib.suppress(LookupError), pool.scope() as scope:
        scope.submit(fn, arg, key=arg)
        raise LookupError


def cancelled_by_deadline(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool), contextlib.suppress(TimeoutError), pool.scope(timeout=0.001) as scope:
        scope.submit(fn, arg, key=arg)


def cancelled_by_failure(pool: Pool, fn: Any, arg: Any) -> None:
    with contextlib.suppress(BaseExceptionGroup), pool.scope(fail_fast=True) as scope:
        with Blocked(pool):
            scope.submit(divmod, 1, 0)
            scope.submit(fn, arg, key=arg)


def cancelled_by_shutdown(_: Pool, fn: Any, arg: Any) -> Pool:
    pool: Pool = StatefulThreadPoolExecutor(1)
    with Blocked(pool):
        pool.submit(fn, arg, key=arg)
        pool.shutdown(wait=False, cancel_futures=True)
    return pool


def cancelled_broadcast(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool):
        for future in pool.broadcast(fn, arg):
            assert future.cancel()


def refused_after_shutdown(_: Pool, fn: Any, arg: Any) -> Pool:
    pool: Pool = StatefulThreadPoolExecutor(1, initializer=Thing)
    pool.submit(int).result(PATIENCE)
    pool.shutdown()
    for entry_point in pool.submit, pool.with_state().submit, pool.broadcast:
        with pytest.raises(RuntimeError):
            entry_point(fn, arg)
    with pytest.raises(RuntimeError):
        pool.map(fn, [arg], chunksize=2)
    return pool


def refused_when_full(_: Pool, fn: Any, arg: Any) -> Pool:
    pool: Pool = StatefulThreadPoolExecutor(1, initializer=Thing, max_backlog=1, submit_timeout=0.001)
    with Blocked(pool):
        pool.submit(int)
        for entry_point in pool.submit, pool.with_state().submit:
            with pytest.raises(BacklogFull):
                entry_point(fn, arg, key=arg)
        with pool.scope() as scope:
            with pytest.raises(BacklogFull):
                scope.submit(fn, arg)
        with pytest.raises(BacklogFull):
            asyncio.run(asubmitted(pool, fn, arg))
    gc.collect()  # the loop's cycles
    return pool


def refused_by_closed_scope(pool: Pool, fn: Any, arg: Any) -> Any:
    with pool.scope() as scope:
        pass
    for entry_point in scope.submit, scope.with_state().submit:
        with pytest.raises(RuntimeError):
            entry_point(fn, arg, key=arg)
    return scope


def refused_for_want_of_threads(_: Pool, fn: Any, arg: Any) -> Pool:
    pool: Pool = StatefulThreadPoolExecutor(1)
    with pytest.MonkeyPatch.context() as patch:
        fail_to_start(patch)
        with pytest.raises(RuntimeError, match="start new thread"):
            pool.submit(fn, arg, key=arg)
    return pool


def without_state(pool: Pool, fn: Any, arg: Any) -> None:
    """The initializer fails: what it had in hand goes as well."""
    notes = fn.notes  # alone, since the worker knows the initializer as long as it lives

    def make() -> None:
        local = notes.add("local", Thing())  # noqa: F841
        raise notes.add("error", Failure())

    error = pool.with_state(make).submit(fn, arg).exception(PATIENCE)
    assert isinstance(error, InitializerError)
    del error


def broken(_: Pool, fn: Any, arg: Any) -> Pool:
    go_on = threading.Event()

    def make() -> None:
        assert go_on.wait(PATIENCE)
        raise LookupError  # which a broken pool keeps, as the cause of what it raises from now on

    pool: Pool = StatefulThreadPoolExecutor(1, initializer=make)
    futures = [pool.submit(fn, arg, key=arg), pool.with_state().submit(fn, arg)]
    go_on.set()
    for future in futures:
        assert isinstance(future.exception(PATIENCE), BrokenThreadPool)
    with pytest.raises(BrokenThreadPool):
        pool.submit(fn, arg)
    return pool


def failed_start(_: Pool, fn: Any, arg: Any) -> Pool:
    """A later worker can't make the pool's own state: one task fails, and the worker waits for another one."""
    notes, made = fn.notes, []

    def make() -> None:
        made.append(None)
        if len(made) > 1:
            local = notes.add("local", Thing())  # noqa: F841
            raise notes.add("error", Failure())

    pool: Pool = StatefulThreadPoolExecutor(2, initializer=make)
    with Blocked(pool):
        assert isinstance(pool.submit(fn, arg).exception(PATIENCE), InitializerError)
    until(lambda: len(inside(pool).idle) == 2)
    return pool


def cancelled_with_system_exit(pool: Pool, fn: Any, arg: Any) -> None:
    """From callbacks, which goes on to who cancels."""

    def leave(future: Any) -> None:
        raise SystemExit

    with Blocked(pool):
        for _ in range(2):
            future = pool.submit(fn, arg)
            future.add_done_callback(leave)
            with pytest.raises(SystemExit):
                future.cancel()
            with pytest.raises(SystemExit):
                with pool.scope() as scope:
                    scope.submit(fn, arg).add_done_callback(leave)
                    scope.cancel()


def failed_check(pool: Pool, fn: Any, arg: Any) -> None:
    notes = fn.notes

    def check(state: Any) -> None:
        local = notes.add("local", Thing())  # noqa: F841
        raise notes.add("error", Failure())

    future = pool.with_state(Thing, policy=StatePolicy(check=check)).submit(fn, arg)
    assert isinstance(future.exception(PATIENCE), Failure)


def by_hand(pool: Pool, fn: Any, arg: Any) -> None:
    with Blocked(pool):
        one, two, three = [pool.submit(fn, arg) for _ in range(3)]
        one.set_result(fn.notes.add("result", Thing()))
        two.set_exception(fn.notes.add("error", Failure()))
        assert three.set_running_or_notify_cancel()
        three.set_result(fn.notes.add("result", Thing()))
        two.exception()


def too_late_for_a_map(pool: Pool, fn: Any, arg: Any) -> None:
    timed_out_map(pool, fn, arg)
    timed_out_map(pool, fn, arg, "map_unordered")


def interrupted_map(pool: Pool, fn: Any, arg: Any) -> None:
    """Its input raises in the middle."""

    def items() -> Iterator[Any]:
        yield arg
        raise LookupError

    for options in {}, {"chunksize": 2}, {"buffersize": 1}:
        with Blocked(pool) if not options else contextlib.nullcontext():
            with pytest.raises(LookupError):
                list(pool.map(fn, items(), **options))  # type: ignore[arg-type]


def cancelled_asubmit(pool: Pool, fn: Any, arg: Any) -> None:
    bounded: Pool = StatefulThreadPoolExecutor(1, max_backlog=1)

    async def main() -> None:
        with Blocked(bounded):
            bounded.submit(int)
            waiting = asyncio.ensure_future(bounded.asubmit(fn, arg))
            while not inside(bounded).waiters:
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

    asyncio.run(main())
    gc.collect()
    bounded.shutdown()


NOT_RUN: dict[str, Callable[[Pool, Any, Any], Any]] = {
    "cancelled": cancelled,
    "cancelled by its scope": cancelled_by_scope,
    "cancelled by an error of the body": cancelled_by_an_error,
    "cancelled by a deadline": cancelled_by_deadline,
    "cancelled by fail_fast": cancelled_by_failure,
    "cancelled by shutdown": cancelled_by_shutdown,
    "cancelled broadcast": cancelled_broadcast,
    "refused after shutdown": refused_after_shutdown,
    "refused when full": refused_when_full,
    "refused by a closed scope": refused_by_closed_scope,
    "refused for want of threads": refused_for_want_of_threads,
    "without a state": without_state,
    "broken": broken,
    "failed start": failed_start,
    "failed check": failed_check,
    "cancelled with SystemExit": cancelled_with_system_exit,
    "by hand": by_hand,
    "too late for a map": too_late_for_a_map,
    "input of a map fails": interrupted_map,
    "cancelled asubmit": cancelled_asubmit,
}


def check_that_nothing_is_kept(
    entry_point: Callable[[Pool, Any, Any], Any], kind: type[Call], least: int, max_backlog: int = 5
) -> None:
    notes = Notes()

    def use(pool: Pool) -> Any:
        fn, arg = notes.add("function", kind(notes)), notes.add("argument", Thing())
        try:
            return entry_point(pool, fn, arg)
        finally:
            del fn, arg  # an error refers to the frames of those who called what it passed through

    pool: Pool = StatefulThreadPoolExecutor(1, initializer=Thing, max_backlog=max_backlog)
    with pool, no_collector():
        pool.submit(int).result(PATIENCE)
        kept = use(pool)
        if not isinstance(kept, (Pool_, Scope_)):
            kept = None  # an outcome
        until(lambda: len(inside(pool).idle) == len(pool._threads))  # the worker has taken its hands off the task
        assert len(notes.refs) >= least
        give_up = time.monotonic() + PATIENCE / 4
        while left := notes.alive():
            assert time.monotonic() < give_up, left
            time.sleep(0)
        if isinstance(kept, Pool_):
            kept.shutdown()


Pool_ = StatefulThreadPoolExecutor
Scope_ = type(Pool_(1).scope())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lost errors, failed callbacks and broken pools are meant here; and the log would keep them."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", [Call, Failing])
@pytest.mark.parametrize("entry_point", RUNNING)
def test_nothing_of_a_task_is_kept(entry_point: str, kind: type[Call]) -> None:
    """Function, arguments, result or error, its locals and callbacks go with the future, while the pool is idle."""
    check_that_nothing_is_kept(RUNNING[entry_point], kind, 4, max_backlog=1 if entry_point == "inline" else 5)


@pytest.mark.parametrize("entry_point", NOT_RUN)
def test_nothing_is_kept_of_a_task_that_ends_otherwise(entry_point: str) -> None:
    """Cancelled, refused, failed before it began or finished by hand: function, arguments and outcome go."""
    check_that_nothing_is_kept(NOT_RUN[entry_point], Call, 2)


@pytest.mark.parametrize("entry_point", ["submit", "view", "in place", "broadcast", "scope, taken"])
@pytest.mark.parametrize("options", [{}, {"task_decorator": lambda fn: lambda *args: fn(*args)}])
def test_nothing_is_kept_by_a_pool_that_copies_contexts(entry_point: str, options: dict[str, Any]) -> None:
    """The copy of the context goes with the task, and what a variable of it holds; so does what a decorator made."""
    import contextvars

    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")
    notes = Notes()

    def use(pool: Pool) -> None:
        fn, arg = notes.add("function", Call(notes)), notes.add("argument", Thing())
        context = contextvars.copy_context()
        context.run(variable.set, notes.add("variable", Thing()))
        context.run(RUNNING[entry_point], pool, fn, arg)

    pool: Pool = StatefulThreadPoolExecutor(1, initializer=Thing, copy_context=True, **options)
    with pool, no_collector():
        pool.submit(int).result(PATIENCE)
        use(pool)
        until(lambda: len(inside(pool).idle) == 1)
        until(lambda: not notes.alive())


ENDS: dict[str, Callable[[Pool], object]] = {
    "shutdown": lambda pool: pool.shutdown(),
    "without wait": lambda pool: pool.shutdown(wait=False),
    "dropped": lambda pool: None,
}


@pytest.mark.skipif(not GIL, reason="there, some references are given up late")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"initializer": list, "finalizer": len, "max_backlog": 4, "idle_timeout": 60},
        {"initializer": list, "policy": StatePolicy(check=lambda state: True), "copy_context": True},
        {"exit_timeout": 60, "task_decorator": lambda fn: fn},
    ],
    ids=", ".join,
)
def test_an_ended_pool_leaves_no_cycle(end: str, options: dict[str, Any]) -> None:
    """Neither the pool nor its workers wait for the collector, however many pools a program makes."""
    with no_collector():
        pool: Pool = StatefulThreadPoolExecutor(2, **options)
        pool.submit(int).result()
        assert list(pool.map(abs, range(4), buffersize=2)) == [0, 1, 2, 3]
        with pool.scope() as scope:
            scope.submit(pool.submit(int).result)
            scope.with_state(list).submit(len)
        del scope
        pool.broadcast(int)
        pool.resize(1)
        refs = [weakref.ref(inside(pool).home), *map(weakref.ref, list(inside(pool).workers))]
        threads = pool._threads
        ENDS[end](pool)
        del pool
        for thread in threads:
            thread.join(PATIENCE)
        del threads, thread
        until(lambda: not [ref for ref in refs if ref() is not None])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_ended_pool_keeps_no_stacks() -> None:
    """From Python 3.13 on a thread's stack is free when somebody joins it."""

    def taken() -> int:
        [size] = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(size) << 10

    def ended() -> Pool:
        everyone = threading.Barrier(32)
        with StatefulThreadPoolExecutor(32) as pool:
            futures = [pool.submit(everyone.wait, PATIENCE) for _ in range(32)]
            assert sorted(future.result() for future in futures) == list(range(32))
        return pool

    outer = threading.stack_size(32 << 20)
    try:
        ended()  # each thread may have memory of its own from here on, which it leaves to others
        before = taken()
        pool = ended()
        assert taken() - before < 16 * (32 << 20)
        del pool
    finally:
        threading.stack_size(outer)


def test_a_worker_needs_no_dict() -> None:
    """CPython keeps up to 29 attributes inside an object; with more, each worker has a dict besides, and is slower."""
    with StatefulThreadPoolExecutor(1, initializer=list) as pool:
        pool.submit(int).result()
        [worker] = inside(pool).workers
        assert len(vars(worker)) <= 29


def test_referrers_are_named() -> None:
    """So that a failure of the tests above says what holds what."""
    thing, notes = Thing(), Notes()
    notes.add("argument", thing)
    holder = types.SimpleNamespace(held=[thing])
    [text] = notes.alive()
    assert text.startswith("argument: ")
    assert "SimpleNamespace" in text
    del holder


# What grows


def sizes(pool: Pool) -> dict[str, int]:
    """How much there is in each container of the pool, its workers and bindings, and of the library."""
    registry = inside(pool)
    found = {name: len(container) for name, container in containers(pool)}
    found |= {f"counts.{name}": len(getattr(registry.counts, name).ones) // 1024 for name in ("cancelled", "completed")}
    workers = [inside(worker) for worker in list(registry.workers)]
    for name in "inbox", "broadcasts", "slots", "tearing", "late", "torn", "base_depth", "start_claim":
        found[f"worker.{name}"] = sum(len(getattr(worker, name)) for worker in workers)
    slots = [inside(slot) for worker in workers for slot in list(worker.slots.values())]
    for name in "states", "needs_attention", "when_free":
        found[f"slot.{name}"] = sum(len(getattr(slot, name)) for slot in slots)
    found["threads"] = threading.active_count()
    return found


def each_state_replaced(pool: Pool) -> None:
    view = pool.with_state()
    view.discard_all()
    view.submit(id).result(PATIENCE)


def discarded(pool: Pool) -> None:
    view = pool.with_state()
    view.submit(lambda state: view.discard()).result(PATIENCE)


def failing_state(pool: Pool) -> None:
    pool.with_state(raise_failure).submit(id).exception(PATIENCE)


def raise_failure(*_: Any) -> None:
    raise Failure


def check_fails(state: Any) -> bool:
    return False


CHECKED: StatePolicy[Any] = StatePolicy(check=check_fails)


def own_states(pool: Pool) -> None:
    with pool.scope() as scope:
        scope.with_state(Thing).submit(id)


def refuse_when_full(pool: Pool) -> None:
    async def main() -> None:
        with contextlib.suppress(BacklogFull):
            await pool.asubmit(int)

    with Blocked(pool):
        futures = [pool.submit(int) for _ in range(5)]
        for _ in range(20):
            with contextlib.suppress(BacklogFull):
                pool.submit(int)
        asyncio.run(main())
        for future in futures:
            future.cancel()


def cancel_queued(pool: Pool) -> None:
    with Blocked(pool):
        for _ in range(300):
            assert pool.submit(int).cancel()


def drop_pool(_: Pool) -> None:
    pool: Pool = StatefulThreadPoolExecutor(1, initializer=Thing)
    pool.submit(int).result(PATIENCE)
    worker = inside(next(iter(inside(pool).workers)))
    del pool
    until(lambda: worker.ended)


def shut_pool(_: Pool) -> None:
    with StatefulThreadPoolExecutor(1, initializer=Thing) as pool:
        pool.submit(int)
        pool.me = pool  # type: ignore[attr-defined]  # a cycle


def retire(pool: Pool) -> None:
    pool.submit(int).result(PATIENCE)
    until(lambda: not inside(pool).workers)


# What is done, and how often for each of the rounds that the test goes.
OPERATIONS: dict[str, tuple[Callable[[Pool], Any], float]] = {
    "submit": (lambda pool: pool.submit(int).result(PATIENCE), 1),
    "failure": (lambda pool: pool.submit(raise_failure).exception(PATIENCE), 1),
    "lost error": (lambda pool: pool.submit(raise_failure), 1),
    "view": (lambda pool: pool.with_state().submit(id).result(PATIENCE), 1),
    "equal view": (lambda pool: pool.with_state(Thing, policy=StatePolicy(max_tasks=100)), 1),
    "bound": (lambda pool: pool.submit(pool.with_state().bind(id)).result(PATIENCE), 1),
    "scope": (lambda pool: with_scope(lambda scope, *_: scope.submit(int))(pool, None, None), 1),
    "empty scope": (lambda pool: with_scope(lambda *_: None)(pool, None, None), 1),
    "failing scope": (lambda pool: with_scope(lambda s, *_: s.submit(raise_failure))(pool, 0, 0), 0.5),
    "scope's own states": (own_states, 0.5),
    "scope with a deadline": (lambda pool: with_scope(lambda *_: None, timeout=60)(pool, 0, 0), 0.2),
    "map": (lambda pool: list(pool.map(int, range(20), chunksize=3, buffersize=2)), 0.1),
    "map_unordered": (lambda pool: list(pool.map_unordered(int, range(20))), 0.1),
    "left map": (lambda pool: pool.map(int, range(20)).close(), 0.1),  # type: ignore[attr-defined]
    "broadcast": (lambda pool: all_of(pool.broadcast(int)), 0.5),
    "view's broadcast": (lambda pool: all_of(pool.with_state().broadcast(id)), 0.5),
    "in place": (lambda pool: pool.submit(run_in_place, pool, lambda *_, **__: 0, 0).result(PATIENCE), 0.5),
    "nested scope": (lambda pool: pool.submit(nested_scope, pool, lambda *_, **__: 0, 0).result(PATIENCE), 0.3),
    "cancel": (lambda pool: pool.submit(int).cancel(), 1),
    "cancel queued": (cancel_queued, 0.01),
    "by hand": (lambda pool: finish_by_hand(pool), 0.5),
    "callback": (lambda pool: pool.submit(int).add_done_callback(id), 1),
    "wait": (lambda pool: concurrent.futures.wait([pool.submit(int)], PATIENCE), 0.5),
    "as_completed": (lambda pool: list(concurrent.futures.as_completed([pool.submit(int)], PATIENCE)), 0.3),
    "refused when full": (refuse_when_full, 0.01),
    "states replaced": (each_state_replaced, 0.3),
    "states discarded": (discarded, 0.3),
    "states that can't be made": (failing_state, 0.3),
    "states that fail": (lambda pool: pool.with_state(Thing, policy=CHECKED).submit(id).exception(PATIENCE), 0.3),
    "stats": (lambda pool: (pool.stats(), repr(pool)), 0.3),
    "pool shut down": (shut_pool, 0.02),
    "pool dropped": (drop_pool, 0.02),
    "worker retired": (retire, 0.04),
}


# What is counted in a list, which is emptied when it is 1,024 long.
TALLIED = ("cancel", "by hand", "cancel queued", "left map", "refused when full")


def finish_by_hand(pool: Pool) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        pool.submit(int).set_result(1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_grows(operation: str) -> None:
    """However often: the containers of the pool stay as they are, and so does the memory taken."""
    do, share = OPERATIONS[operation]
    rounds = 125_000 if STRESS else 300 if GIL else 1_500
    warm_up, more = max(int(rounds * share / 5), 3), max(int(rounds * share * 4 / 5), 12)
    allowed = (4_000 if GIL else 16_000) + more  # a list that has been longer once keeps some space
    if operation in TALLIED:
        allowed += 8 * 1_024
        if share >= 0.5:
            warm_up, more = max(warm_up, 1_100), max(more, 600)
    idle_timeout = 0 if operation == "worker retired" else None
    options: dict[str, Any] = {"max_backlog": 5, "submit_timeout": 0 if "refused" in operation else None}
    with StatefulThreadPoolExecutor(1, initializer=Thing, idle_timeout=idle_timeout, **options) as pool:
        before, taken_before = repeat(pool, do, warm_up)
        after, taken_after = repeat(pool, do, more)
        # Counted one too many when a worker met the entry between a task's end and its count; compacted at 64.
        assert after.pop("run queue.tombstones") <= before.pop("run queue.tombstones") + 64
        for ending in (
            "threads",
            "workers.retired",
            "workers.free_indices",
            "workers.unended",
            "current",
        ):  # a thread may not have ended yet
            assert after.pop(ending) <= before.pop(ending) + 2
        assert after == before
        # What is kept of each round would be 50 bytes at least, each time. A table of the interpreter's that becomes
        # larger takes more, but once; and threads may be about to end, which take some.
        for _ in range(3):
            if taken_after - taken_before >= allowed:
                taken_before, taken_after = taken_after, repeat(pool, do, more)[1]
        assert taken_after - taken_before < allowed


def repeat(pool: Pool, do: Callable[[Pool], Any], times: int) -> tuple[dict[str, int], int]:
    """Do it; then the sizes of containers, and the bytes taken, once all is at rest."""
    tracemalloc.start() if not tracemalloc.is_tracing() else None
    for _ in range(times):
        do(pool)
    if inside(pool).idle_timeout is None:
        pool.submit(int).result(PATIENCE)
        until(lambda: len(inside(pool).idle) == len(inside(pool).workers))
        with Blocked(pool):
            pass  # the entry of what was cancelled last has been taken
        until(lambda: len(inside(pool).idle) == len(inside(pool).workers) and not inside(pool).tail)
    gc.collect()
    return sizes(pool), tracemalloc.get_traced_memory()[0]


@pytest.fixture(autouse=True)
def no_tracing() -> Iterator[None]:
    yield
    tracemalloc.stop()
