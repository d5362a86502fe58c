"""Errors that nobody ever looked at are logged, once, when nobody can look at them any more; others are not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from inside import hook
from threads import settle, until

import stateful_executor
from stateful_executor import InitializerError, StatefulThreadPoolExecutor
from stateful_executor.errors import BrokenThreadPool

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
Pool = StatefulThreadPoolExecutor[list[int]]


@pytest.fixture(params=[False, True], ids=["", "copy_context"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of one worker, without and with contexts, which wrap what is called."""
    with StatefulThreadPoolExecutor(1, initializer=list, copy_context=request.param) as pool:
        yield pool


class Lost:
    """What was logged as lost."""

    def __init__(self, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
        self._pool = pool
        self._caplog = caplog

    def __call__(self) -> list[str]:
        """The texts, since the last call; no collection is needed for them, only that the worker has let go."""
        self._pool.submit(int).result()
        self._pool.submit(int).result()
        settle()
        records = list(self._caplog.records)
        self._caplog.clear()
        assert {(record.name, record.levelno) for record in records} <= {("stateful_executor", logging.ERROR)}
        assert all(record.exc_info for record in records)
        return [record.getMessage() for record in records]


@pytest.fixture
def lost(pool: Pool, caplog: pytest.LogCaptureFixture) -> Iterator[Lost]:
    """With the collector off: a future without cycles goes when its last user lets it go."""
    gc.collect()
    gc.disable()
    lost = Lost(pool, caplog)
    yield lost
    assert not lost()
    gc.enable()


class Unseen(Exception):
    """What tasks raise here."""


def fail(*args: object) -> None:
    """Raise, whatever comes."""
    raise Unseen(*args)


class Failing:
    """Callables of all kinds."""

    def __call__(self, *args: object) -> None:
        raise Unseen

    def method(self, *args: object) -> None:
        raise Unseen


class Proxy:
    """A callable with a `__getattr__` of its own that fails, as that of a proxy for nothing."""

    def __call__(self, *args: object) -> None:
        raise Unseen

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("bound to nothing")


class TestLogged:
    """When the future is collected."""

    def test_when_the_future_goes(self, pool: Pool, lost: Lost, caplog: pytest.LogCaptureFixture) -> None:
        """Not before: until then somebody may look. With the error itself, and its traceback."""
        future = pool.submit(fail, "unseen")
        concurrent.futures.wait([future])
        assert not lost()
        del future
        settle()
        record = caplog.records[0]
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "unseen"
        traceback = record.exc_info[2]
        assert traceback is not None
        assert traceback.tb_frame.f_code is fail.__code__  # none of ours
        del record, traceback
        assert lost() == ["lost error: task fail failed, and nobody took the error from its future"]

    def test_at_once(self, pool: Pool, lost: Lost) -> None:
        """When nobody kept the future: as soon as the task has failed."""
        for _ in range(3):
            pool.submit(fail)
        assert len(lost()) == 3

    def test_base_exception(self, pool: Pool, lost: Lost) -> None:
        """Also one that is no Exception."""
        pool.submit(sys.exit, 3)
        assert len(lost()) == 1

    @pytest.mark.parametrize(
        ("fn", "name"),
        [
            (fail, "fail"),
            (partial(fail, 1), "fail"),
            (partial(partial(fail, 1), 2), "fail"),
            (lambda *_: fail(), "TestLogged.<lambda>"),
            (Failing(), "Failing"),
            (partial(Failing(), 1), "Failing"),
            (Failing().method, "Failing.method"),
            (partial(contextvars.copy_context().run, fail), "fail"),
        ],
    )
    def test_name(self, pool: Pool, lost: Lost, fn: Callable[..., Any], name: str) -> None:
        """That of the function, however it is wrapped, on every entry point."""
        view = pool.with_state()
        pool.submit(fn, 1)
        view.submit(fn, 1)
        pool.submit(view.bind(fn), 1)
        pool.map(fn, [1])
        view.map(fn, [1, 2], chunksize=2)
        assert [text.split()[3] for text in lost()] == [name] * 5

    @pytest.mark.parametrize("kind", ["context without a function", "proxy", "partial of a proxy"])
    def test_name_that_cannot_be_told(self, kind: str) -> None:
        """A name that is hard to find out keeps no task from its end, and no worker from the next."""
        fn, *args = {
            "context without a function": (partial(contextvars.copy_context().run), fail),
            "proxy": (Proxy(),),
            "partial of a proxy": (partial(Proxy()),),
        }[kind]
        with StatefulThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(fn, *args).exception(2), Unseen)
            assert pool.submit(int).result(2) == 0

    def test_state_that_cannot_be_made(self, pool: Pool, lost: Lost) -> None:
        """Is the task's error, and named after the task."""
        pool.with_state(fail).submit(print)
        assert [text.split()[3] for text in lost()] == ["print"]

    def test_worker_that_cannot_start(self, caplog: pytest.LogCaptureFixture) -> None:
        """So is the failed start of another worker, in a pool that has worked before."""
        starts = iter([None, OSError("no more")])
        begun, go_on = threading.Event(), threading.Event()

        def start() -> None:
            error = next(starts, None)
            if error is not None:
                raise error

        with StatefulThreadPoolExecutor(2, initializer=start) as pool:
            pool.submit(lambda: (begun.set(), go_on.wait()))
            begun.wait()
            pool.submit(print)
            pool.submit(int).result()
            go_on.set()
        assert [record.getMessage().split()[3] for record in caplog.records] == ["print"]
        assert caplog.records[0].exc_info is not None
        assert isinstance(caplog.records[0].exc_info[1], InitializerError)
        caplog.clear()

    def test_set_by_hand(self, pool: Pool, lost: Lost) -> None:
        """An error that another party gave to the future counts as well."""
        go_on = threading.Event()
        pool.submit(go_on.wait)
        pool.submit(fail).set_exception(KeyError("by hand"))
        go_on.set()
        assert len(lost()) == 1

    def test_in_a_callback_without_a_look(self, pool: Pool, lost: Lost) -> None:
        """A callback that does not look at the error has not taken it; nor has `wait`, nor `done`."""
        seen: list[bool] = []
        go_on = threading.Event()
        future = pool.submit(lambda: (go_on.wait(), fail()))
        future.add_done_callback(lambda future: seen.append(future.done() and repr(future) != ""))
        go_on.set()
        concurrent.futures.wait([future])
        list(concurrent.futures.as_completed([future]))
        del future
        assert len(lost()) == 1
        assert seen == [True]

    def test_broadcast(self, pool: Pool, lost: Lost) -> None:
        """The calls of a broadcast are tasks like others."""
        pool.submit(int).result()
        pool.broadcast(fail)
        pool.with_state().broadcast(fail)
        assert [text.split()[3] for text in lost()] == ["fail"] * 2

    def test_asubmit_given_up(self, pool: Pool, lost: Lost) -> None:
        """An asyncio task that was cancelled takes no error any more."""
        begun, go_on = threading.Event(), threading.Event()

        async def main() -> None:
            future = await pool.asubmit(lambda: (begun.set(), go_on.wait(), fail()))
            begun.wait()
            future.cancel()
            go_on.set()
            await asyncio.sleep(0)

        asyncio.run(main())
        pool.submit(int).result()
        gc.collect()  # asyncio's own cycles
        assert len(lost()) == 1

    def test_at_the_end_of_the_pool(self, caplog: pytest.LogCaptureFixture) -> None:
        """Those of the last tasks come before the end of the block."""
        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(fail)
        assert len(caplog.records) == 1
        caplog.clear()

    def test_hook_that_logs_into_the_pool(self, pool: Pool, lost: Lost) -> None:
        """A log handler may itself submit to the pool: no lock is held while the error is logged."""
        handled: list[int] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                handled.append(pool.submit(int).result() if threading.current_thread() is main else 0)
                pool.submit(int)

        main = threading.current_thread()
        handler = Handler()
        logging.getLogger("stateful_executor").addHandler(handler)
        try:
            future = pool.submit(fail)
            concurrent.futures.wait([future])
            pool.submit(int).result()
            del future
            settle()
        finally:
            logging.getLogger("stateful_executor").removeHandler(handler)
        assert handled == [0]
        assert len(lost()) == 1


class TestTaken:
    """Nothing is logged when somebody has looked."""

    @pytest.mark.parametrize(
        "how", ["result", "exception", "callback", "snapshot", "wrap_future", "asubmit", "in a task"]
    )
    def test_from_the_future(self, pool: Pool, lost: Lost, how: str) -> None:
        """Before or after the task's end, in whatever way."""
        if how == "result":
            with pytest.raises(Unseen):
                pool.submit(fail).result()
        elif how == "exception":
            assert isinstance(pool.submit(fail).exception(), Unseen)
        elif how == "callback":
            go_on = threading.Event()
            pool.submit(lambda: (go_on.wait(), fail())).add_done_callback(lambda future: future.exception())
            go_on.set()
        elif how == "snapshot":
            future = pool.submit(fail)
            concurrent.futures.wait([future])
            assert isinstance(future._get_snapshot()[3], Unseen)
            del future
        elif how == "in a task":
            assert isinstance(pool.submit(lambda: pool.submit(fail).exception()).result(), Unseen)
        else:

            async def main() -> None:
                with pytest.raises(Unseen):
                    await (asyncio.wrap_future(pool.submit(fail)) if how == "wrap_future" else await pool.asubmit(fail))

            asyncio.run(main())
            gc.collect()
        assert not lost()

    def test_late(self, pool: Pool, lost: Lost) -> None:
        """Long after the end is early enough, and more than once changes nothing."""
        future = pool.submit(fail)
        concurrent.futures.wait([future])
        assert not lost()
        for _ in range(2):
            assert isinstance(future.exception(), Unseen)
        del future
        assert not lost()

    def test_a_look_that_times_out(self, pool: Pool, lost: Lost) -> None:
        """Who waited in vain has seen no error."""
        go_on = threading.Event()
        future = pool.submit(lambda: (go_on.wait(), fail()))
        with pytest.raises(TimeoutError):
            future.result(0)
        go_on.set()
        concurrent.futures.wait([future])
        del future
        assert len(lost()) == 1

    def test_cancelled(self, pool: Pool, lost: Lost) -> None:
        """A cancelled task has no error."""
        go_on = threading.Event()
        pool.submit(go_on.wait)
        pool.submit(fail).cancel()
        go_on.set()
        assert not lost()

    @pytest.mark.parametrize("how", ["fails", "fails in a scope", "cancelled by a scope", "waited for", "taken over"])
    def test_no_dict(self, pool: Pool, how: str) -> None:
        """Nothing that happens to a future makes a dict for it: CPython 3.11 crashes when two threads do so at once."""
        with pool.scope() as scope:
            if how == "cancelled by a scope":
                go_on = threading.Event()
                until(scope.submit(go_on.wait).running)
                future = scope.submit(int)
                scope.cancel()
                go_on.set()
            elif how == "taken over":
                go_on = threading.Event()
                pool.submit(go_on.wait)
                future = pool.submit(int)
                assert future.set_running_or_notify_cancel()
                future.set_exception(KeyError())
                go_on.set()
            else:
                future = (scope if how == "fails in a scope" else pool).submit(fail)
            if how == "waited for":
                concurrent.futures.wait([future])
            if how != "cancelled by a scope":
                assert future.exception() is not None
        assert not vars(future)

    def test_success(self, pool: Pool, lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that does not fail costs nothing: no hook is made for it, and futures have none themselves."""
        monkeypatch.setattr(*hook("LostError"), pytest.fail)
        future = pool.submit(int)
        assert future.result() == 0
        assert not hasattr(future, "_failure")
        assert not vars(future)
        assert not hasattr(type(future), "__del__")
        assert list(pool.map(abs, range(3))) == [0, 1, 2]


class TestScope:
    """A scope's errors are the scope's to raise."""

    def test_raised(self, pool: Pool, lost: Lost) -> None:
        """In its group, and not logged."""
        with pytest.raises(ExceptionGroup), pool.scope() as scope:
            scope.submit(fail)
            scope.with_state().submit(fail)
        assert not lost()

    def test_kept(self, pool: Pool, lost: Lost) -> None:
        """Not either when the future is there still, and goes later."""
        with pytest.raises(ExceptionGroup), pool.scope() as scope:
            future = scope.submit(fail)
        del scope
        assert not lost()
        del future
        assert not lost()

    def test_body_error(self, pool: Pool, lost: Lost) -> None:
        """Logged when the body raised, once, though the futures are there still; not what the body has taken."""
        with pytest.raises(LookupError), pool.scope() as scope:
            future = scope.submit(fail)
            concurrent.futures.wait([future, scope.submit(fail)])
            scope.submit(fail).exception()
            raise LookupError
        assert len(lost()) == 2
        del future, scope
        assert not lost()

    def test_timeout(self, pool: Pool, lost: Lost) -> None:
        """Not when they are the cause of a TimeoutError."""
        with pytest.raises(TimeoutError), pool.scope(timeout=0.01) as scope:
            scope.submit(lambda: (until(lambda: scope.cancelled), fail()))
        assert not lost()


class TestMap:
    """Errors of a map's tasks."""

    @pytest.mark.parametrize("method", ["map", "map_unordered"])
    @pytest.mark.parametrize("view", [False, True])
    def test_after_the_first_one(self, pool: Pool, lost: Lost, method: str, view: bool) -> None:
        """The iterator has raised one: the others are not logged, neither of ended tasks nor of one that runs yet."""
        begun, go_on = threading.Event(), threading.Event()

        def work(*args: int) -> None:
            if args[-1] == 2:
                begun.set()
                go_on.wait()
            fail()

        results = getattr(pool.with_state() if view else pool, method)(work, range(5))
        begun.wait()
        with pytest.raises(Unseen):
            next(results)
        go_on.set()
        assert not lost()

    @pytest.mark.parametrize("method", ["map", "map_unordered"])
    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_closed(self, pool: Pool, lost: Lost, method: str, how: str) -> None:
        """Nor those behind an iterator that was closed, or dropped half-way."""
        begun, go_on = threading.Event(), threading.Event()

        def work(number: int) -> None:
            if number == 2:
                begun.set()
                go_on.wait()
            if number:
                fail()

        results = getattr(pool, method)(work, range(5))
        begun.wait()
        assert next(results) is None
        if how == "close":
            results.close()
        del results
        go_on.set()
        assert not lost()

    @pytest.mark.parametrize("method", ["map", "map_unordered"])
    def test_never_asked(self, pool: Pool, lost: Lost, method: str) -> None:
        """A map that nobody iterates over has nobody to take an error: each is logged."""
        getattr(pool, method)(fail, range(3))
        assert len(lost()) == 3

    @pytest.mark.parametrize("method", ["map", "map_unordered"])
    def test_input_error(self, pool: Pool, lost: Lost, method: str) -> None:
        """An input that raises at once: the call raises, and nobody is to see the tasks' errors."""

        def numbers() -> Iterator[int]:
            yield 1
            until(lambda: pool.stats().failed)
            raise LookupError

        with pytest.raises(LookupError):
            getattr(pool, method)(fail, numbers())
        assert not lost()

    @pytest.mark.parametrize("method", ["map", "map_unordered"])
    def test_in_a_scope(self, pool: Pool, lost: Lost, method: str) -> None:
        """The scope raises what the iterator did not; nothing is logged."""
        with pytest.raises(ExceptionGroup, match="2 tasks of"), pool.scope() as scope:
            results = getattr(scope, method)(fail, range(3))
            until(lambda: pool.stats().failed == 3)
            with pytest.raises(Unseen):
                next(results)
            del results
        del scope
        assert not lost()

    def test_no_callbacks_left(self, pool: Pool, lost: Lost) -> None:
        """Closing an iterator while its task runs leaves that task's value to nobody, and logs nothing of it."""
        begun, go_on = threading.Event(), threading.Event()
        results: Any = pool.map(lambda number: number and (begun.set(), go_on.wait()), range(2))
        assert next(results) == 0
        begun.wait()
        results.close()
        go_on.set()
        assert not lost()


class TestBroken:
    """A pool whose initializer never succeeded."""

    def test_one_log_entry(self, caplog: pytest.LogCaptureFixture) -> None:
        """The initializer's error is logged, critical, and none of those that tasks get for it."""
        begun, go_on = threading.Event(), threading.Event()

        def start() -> None:
            begun.set()
            go_on.wait()
            fail("no route")

        with StatefulThreadPoolExecutor(2, initializer=start) as pool:
            begun_by = [pool.submit(int) for _ in range(5)]
            pool.map(abs, range(5))
            kept = pool.submit(int)
            begun.wait()
            go_on.set()
            assert isinstance(kept.exception(), BrokenThreadPool)
            del begun_by
        gc.collect()
        names = [record.name for record in caplog.records]
        assert set(names) == {"concurrent.futures"}
        assert len(names) <= 2  # one for each worker that tried
        caplog.clear()


def run_child(source: str) -> subprocess.CompletedProcess[str]:
    """An interpreter of its own."""
    prelude = """
        import gc, logging, sys, threading
        from stateful_executor import StatefulThreadPoolExecutor

        def fail():
            raise ValueError("unseen")
    """
    return subprocess.run(
        [sys.executable, "-c", dedent(prelude) + dedent(source)],
        env={**os.environ, "PYTHONPATH": str(Path(stateful_executor.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )


class TestExit:
    """The end of the interpreter."""

    @pytest.mark.parametrize(
        "source",
        [
            "StatefulThreadPoolExecutor(1).submit(fail)",
            "pool = StatefulThreadPoolExecutor(1); future = pool.submit(fail)",
            "pool = StatefulThreadPoolExecutor(1); futures = [pool.submit(fail)]; futures.append(futures)",
            "with StatefulThreadPoolExecutor(1) as pool: sys.kept = pool.submit(fail)",
            "app = sys.modules['app'] = type(sys)('app'); app.kept = StatefulThreadPoolExecutor(1).submit(fail)",
        ],
        ids=["dropped", "global", "cycle", "sys", "module"],
    )
    def test_logged(self, source: str) -> None:
        """Wherever the future is kept, its error is logged once at most, and the exit is a clean one."""
        child = run_child(source)
        assert child.returncode == 0
        assert child.stdout == ""
        if source.startswith("Stateful") or ("kept" not in source and not FREE_THREADED):  # whose modules go earlier
            assert child.stderr.count("lost error: task") == 1
            assert child.stderr.count("ValueError: unseen") == 1
        assert child.stderr.count("lost error: task") <= 1
        assert "Exception ignored" not in child.stderr

    def test_taken(self) -> None:
        """Nothing is written when it was taken."""
        child = run_child("pool = StatefulThreadPoolExecutor(1); future = pool.submit(fail); future.exception()")
        assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
