"""`task_decorator`: each task's function goes through it, in the thread that submits, whichever way that is done."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from inside import inside
from threads import until, where

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]
var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="nothing")


def asubmitted(submitter: Any, *args: Any) -> Any:
    async def main() -> Any:
        return await (await submitter.asubmit(*args))

    return asyncio.run(main())


def in_scope(pool: Pool, use: Callable[[Any], Any]) -> Any:
    with pool.scope() as scope:
        return use(scope)


def in_loop(pool: Pool) -> Any:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, abs, -1)

    return asyncio.run(main())


def add(state: list[int], number: int = 0) -> int:
    return len(state) + number


# What is submitted, and how often: each gives 1.
DOORS: dict[str, tuple[Callable[[Pool], Any], int]] = {
    "submit": (lambda pool: pool.submit(abs, -1).result(), 1),
    "submit with keywords": (lambda pool: pool.submit(int, "1", base=10).result(), 1),
    "asubmit": (lambda pool: asubmitted(pool, abs, -1), 1),
    "run_in_executor": (in_loop, 1),
    "map": (lambda pool: sum(pool.map(abs, [-1, 0])), 2),
    "map, chunks": (lambda pool: sum(pool.map(abs, [-1, 0, 0], chunksize=2)), 2),
    "map, buffered": (lambda pool: sum(pool.map(abs, [-1, 0, 0], buffersize=1)), 3),
    "map_unordered": (lambda pool: sum(pool.map_unordered(abs, [-1, 0])), 2),
    "broadcast": (lambda pool: pool.broadcast(abs, -1)[0].result(), 1),
    "bind": (lambda pool: pool.submit(pool.with_state().bind(add), 1).result(), 1),
    "view": (lambda pool: pool.with_state().submit(add, 1).result(), 1),
    "view with keywords": (lambda pool: pool.with_state().submit(add, number=1).result(), 1),
    "view, asubmit": (lambda pool: asubmitted(pool.with_state(), add, 1), 1),
    "view, map": (lambda pool: sum(pool.with_state().map(add, [1, 0], chunksize=2)), 1),
    "view, broadcast": (lambda pool: pool.with_state().broadcast(add, 1)[0].result(), 1),
    "scope": (lambda pool: in_scope(pool, lambda scope: scope.submit(abs, -1)).result(), 1),
    "scope, asubmit": (lambda pool: in_scope(pool, lambda scope: asubmitted(scope, abs, -1)), 1),
    "scope, map": (lambda pool: in_scope(pool, lambda scope: sum(scope.map(abs, [-1]))), 1),
    "scope, view": (lambda pool: in_scope(pool, lambda scope: scope.with_state(list).submit(add, 1)).result(), 1),
    "in a task": (lambda pool: pool.submit(lambda: pool.submit(abs, -1).result()).result(), 2),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("max_backlog", [None, 1])
@pytest.mark.parametrize("copies", [False, True])
def test_every_door(door: str, max_backlog: int | None, copies: bool) -> None:
    """Once a task, by the thread that submits; what it returns is called by the worker."""
    decorated: list[str] = []
    called: list[str] = []

    def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
        decorated.append(where())

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            called.append(where())
            assert not kwargs
            return fn(*args)

        return wrapper

    use, tasks = DOORS[door]
    with StatefulThreadPoolExecutor(
        1, "pool", list, max_backlog=max_backlog, copy_context=copies, task_decorator=decorator
    ) as pool:
        pool.submit(int).result()  # a worker, for a broadcast to reach
        decorated.clear()
        called.clear()
        assert use(pool) == 1
        assert decorated == [where(), "pool_0"][:tasks] if door == "in a task" else decorated == [where()] * tasks
        assert called == ["pool_0"] * tasks


def test_what_it_is_given() -> None:
    """The function itself; with keywords, a partial that has them and its name, of which the user's is left alone."""
    given: list[Any] = []

    def decorator(fn: Any) -> Any:
        given.append(fn)
        return fn

    users = partial(add, [0])
    with StatefulThreadPoolExecutor(1, initializer=list, task_decorator=decorator) as pool:
        pool.submit(add, [])
        pool.with_state().submit(add, number=1)
        assert pool.submit(users, number=2).result() == 3
        pool.submit(int, "1", base=3)
    assert given[0] is add
    assert [(fn.__module__, fn.__qualname__, fn.keywords) for fn in given[1:]] == [
        (__name__, "add", {"number": 1}),
        (__name__, "add", {"number": 2}),
        ("builtins", "int", {"base": 3}),
    ]
    assert vars(users) == {}


def test_with_copy_context() -> None:
    """It is called in the submitter's own context, of which what it returns then sees a copy, and changes only that."""

    def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
        seen.append(var.get())
        var.set("decorator's")

        def wrapper() -> Any:
            seen.append(var.get())
            var.set("wrapper's")
            return fn()

        return wrapper

    def use() -> None:
        var.set("mine")
        assert pool.submit(var.get).result() == "wrapper's"
        seen.append(var.get())

    seen: list[str] = []
    with StatefulThreadPoolExecutor(1, copy_context=True, task_decorator=decorator) as pool:
        contextvars.copy_context().run(use)
    assert seen == ["mine", "decorator's", "decorator's"]


class TestRefused:
    """What it raises comes out of `submit`, and the task was not accepted."""

    @pytest.mark.parametrize("door", DOORS)
    @pytest.mark.parametrize("max_backlog", [None, 1])
    def test_raises(self, door: str, max_backlog: int | None) -> None:
        """No place is lost, no task is left, and the pool goes on."""

        def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
            if refuses:
                raise LookupError("no tenant")
            return fn

        refuses: list[None] = []
        with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=max_backlog, task_decorator=decorator) as pool:
            pool.submit(int).result()
            if door == "in a task":
                task = pool.submit(lambda: (refuses.append(None), pool.submit(int)))
                with pytest.raises(LookupError, match="no tenant"):
                    task.result()
            else:
                refuses.append(None)
                with pytest.raises(LookupError, match="no tenant"):
                    DOORS[door][0](pool)
            refuses.clear()
            assert DOORS[door][0](pool) == 1
            until(lambda: pool.stats().idle == 1)
            assert pool.stats().cancelled == 0
            assert inside(pool).permits_left() == (max_backlog or 0)

    @pytest.mark.parametrize("keywords", [{}, {"base": 10}])
    def test_returns_no_callable(self, keywords: dict[str, int]) -> None:
        """The error names both."""

        def forgetful(fn: Callable[..., Any]) -> Any:
            pass

        with StatefulThreadPoolExecutor(1, task_decorator=forgetful) as pool:
            with pytest.raises(TypeError, match=r"task_decorator .*forgetful returned None for int, and no callable: "):
                pool.submit(int, "1", **keywords)
        assert pool.stats().submitted == 0

    def test_is_no_callable(self) -> None:
        """Said when the pool is made."""
        with pytest.raises(TypeError, match="task_decorator must be a callable that is given a callable, not 'trace'"):
            StatefulThreadPoolExecutor(task_decorator="trace")  # type: ignore[arg-type]

    def test_a_broadcast_is_all_or_nothing(self) -> None:
        """When the part of the second worker is refused, the first one is not asked either."""

        def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
            if fn is run:
                parts.append(None)
                if len(parts) == 2:
                    raise LookupError
            return fn

        ran: list[None] = []
        run = ran.append
        parts: list[None] = []
        both = threading.Barrier(3)
        with StatefulThreadPoolExecutor(2, task_decorator=decorator) as pool:
            tasks = [pool.submit(lambda: (both.wait(), both.wait())) for _ in range(2)]
            both.wait()  # both are busy, and so can't have begun their parts
            try:
                with pytest.raises(LookupError):
                    pool.broadcast(run, None)
            finally:
                both.wait()
            for task in tasks:
                task.result()
        assert not ran


def wrapping(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("keywords", [{}, {"key": 1}])
def test_names(copies: bool, keywords: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """What runs, and whose error is lost, goes by the name of the task's function where the decorator keeps it."""

    def users(**_: object) -> None:
        begun.set()
        go_on.wait()
        raise LookupError

    begun, go_on = threading.Event(), threading.Event()
    with StatefulThreadPoolExecutor(1, copy_context=copies, task_decorator=wrapping) as pool:
        pool.submit(users, **keywords)
        begun.wait()
        with pytest.raises(TimeoutError, match=r"test_names\.<locals>\.users"):
            pool.shutdown(timeout=0)
        go_on.set()
    (record,) = [record for record in caplog.records if record.name == "stateful_executor"]
    assert record.levelno == logging.ERROR
    assert "test_names.<locals>.users" in record.getMessage()


def test_a_function_that_cannot_be_called() -> None:
    """Fails as it is called, as ever."""
    with StatefulThreadPoolExecutor(1, task_decorator=wrapping) as pool:
        with pytest.raises(TypeError, match="not callable"):
            pool.submit(5).result()  # type: ignore[arg-type]
