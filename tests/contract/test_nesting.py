"""Waiting in a worker for tasks of the same pool: no deadlock, to any depth, with any bound, with one worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stateful_executor import StatefulThreadPoolExecutor


@pytest.fixture(params=[(1, None), (1, 1), (3, None), (3, 2)], ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[StatefulThreadPoolExecutor[None]]:
    """One worker or several, without and with a bound."""
    workers, backlog = request.param
    with StatefulThreadPoolExecutor(workers, max_backlog=backlog) as pool:
        yield pool


def test_fib(pool: StatefulThreadPoolExecutor[None]) -> None:
    """Tasks that wait for two tasks each, by `result()`."""

    def fib(n: int) -> int:
        if n < 2:
            return n
        first, second = pool.submit(fib, n - 1), pool.submit(fib, n - 2)
        return first.result() + second.result()

    assert pool.submit(fib, 14).result() == 377


def test_exception(pool: StatefulThreadPoolExecutor[None]) -> None:
    """`exception()` runs the awaited task as well."""

    def outer() -> BaseException | None:
        return pool.submit(divmod, 1, 0).exception()

    assert isinstance(pool.submit(outer).result(), ZeroDivisionError)


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("buffersize", [None, 2])
def test_map(pool: StatefulThreadPoolExecutor[None], chunksize: int, buffersize: int | None) -> None:
    """Iterating over a map in a task runs what has not begun."""

    def total(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(pool.map(total, [depth - 1] * 3, chunksize=chunksize, buffersize=buffersize))

    assert pool.submit(total, 3).result() == 27


def test_directory_walk(pool: StatefulThreadPoolExecutor[None], tmp_path: Path) -> None:
    """A task for each directory, which opens a scope for its subdirectories."""
    for path in ("a/b/c", "a/d", "e/f/g/h", "i"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "file").write_text("x" * len(path))

    def size(directory: Path) -> int:
        entries = list(directory.iterdir())
        with pool.scope() as scope:
            below = [scope.submit(size, entry) for entry in entries if entry.is_dir()]
        return sum(future.result() for future in below) + sum(e.stat().st_size for e in entries if e.is_file())

    assert pool.submit(size, tmp_path).result() == 5 + 3 + 7 + 1


def test_quicksort(pool: StatefulThreadPoolExecutor[None]) -> None:
    """Two tasks for the halves, each of which makes two more."""

    def sort(numbers: list[int]) -> list[int]:
        if len(numbers) < 2:
            return numbers
        pivot, *rest = numbers
        low = pool.submit(sort, [number for number in rest if number < pivot])
        high = pool.submit(sort, [number for number in rest if number >= pivot])
        return [*low.result(), pivot, *high.result()]

    numbers = [number * 7919 % 211 for number in range(211)]
    assert pool.submit(sort, numbers).result() == sorted(numbers)


def test_crawler(pool: StatefulThreadPoolExecutor[None]) -> None:
    """A crawler whose tasks submit to their own scope, which ends when no page is left: each is visited once."""
    links = {page: [page * 2 % 97, page * 3 % 97, page + 1] for page in range(97)}
    claims = {page: [None] for page in links}  # who takes the item visits the page
    visited: list[int] = []
    with pool.scope() as scope:
        sessions = scope.with_state(dict)

        def visit(session: dict[int, list[int]], page: int) -> None:
            session[page] = links[page]
            visited.append(page)
            for link in session[page]:
                if claims.get(link):
                    try:
                        claims[link].pop()
                    except IndexError:
                        continue  # another task has been faster
                    sessions.submit(visit, link)

        claims[1].clear()
        sessions.submit(visit, 1)
    assert sorted(visited) == sorted(page for page, claim in claims.items() if not claim)
    assert len(visited) > 90


def test_depth() -> None:
    """A hundred levels of tasks that wait for each other, on one worker."""
    with StatefulThreadPoolExecutor(1) as pool:

        def dive(levels: int) -> int:
            return 1 + pool.submit(dive, levels - 1).result() if levels else 0

        assert pool.submit(dive, 100).result() == 100


def test_only_the_awaited_task() -> None:
    """Not the tasks that stand before it in the queue: those could need what the waiting one holds."""
    with StatefulThreadPoolExecutor(1) as pool:
        log: list[str] = []

        def outer() -> None:
            before = pool.submit(log.append, "before")
            pool.submit(log.append, "awaited").result()
            assert not before.done()
            log.append("outer")

        pool.submit(outer).result()
    assert log == ["awaited", "outer", "before"]


def test_timeout_zero_runs_nothing() -> None:
    """`result(0)` only looks."""
    with StatefulThreadPoolExecutor(1) as pool:

        def outer() -> bool:
            future = pool.submit(int)
            with pytest.raises(TimeoutError):
                future.result(0)
            return future.done()

        assert pool.submit(outer).result() is False


def test_a_cancelled_task_is_not_run() -> None:
    """Waiting for a cancelled task raises, and does not run it."""
    with StatefulThreadPoolExecutor(1) as pool:

        def outer() -> bool:
            future = pool.submit(pytest.fail, "ran")
            future.cancel()
            return future.cancelled() and isinstance(_caught(future.result), BaseException)

        assert pool.submit(outer).result() is True


def _caught(fn: object) -> BaseException | None:
    try:
        fn()  # type: ignore[operator]
    except BaseException as exc:
        return exc
    return None


def test_waiting_for_another_pool() -> None:
    """A task of another pool is not run here, where it has no state; its own worker does."""
    with StatefulThreadPoolExecutor(1) as first, StatefulThreadPoolExecutor(1) as second:
        idents = first.submit(lambda: (threading.get_ident(), second.submit(threading.get_ident).result())).result()
        assert idents[0] != idents[1]


def test_pools_that_wait_for_each_other() -> None:
    """A task waits for one of another pool, which submits to the first pool and waits for it: one worker each."""
    with StatefulThreadPoolExecutor(2) as first, StatefulThreadPoolExecutor(1) as second:

        def there() -> int:
            return first.submit(int, 5).result()

        assert first.submit(lambda: second.submit(there).result()).result() == 5


def test_scope_end_runs_what_comes_late() -> None:
    """A worker at the end of its scope runs, too, what a running task submits to the scope meanwhile."""
    with StatefulThreadPoolExecutor(2) as pool:
        waiting, ran = threading.Event(), threading.Event()

        def submit_late() -> None:
            waiting.wait()
            scope_of_task[0].submit(ran.set)
            ran.wait()  # a wait that is not ours: only the worker at the end of the scope can end it

        scope_of_task: list = []

        def outer() -> None:
            with pool.scope() as scope:
                scope_of_task.append(scope)
                begun = threading.Event()
                scope.submit(lambda: (begun.set(), submit_late()))
                begun.wait()
                waiting.set()

        pool.submit(outer).result()


@pytest.mark.parametrize("padding", range(8))
def test_recursion_error(padding: int) -> None:
    """Tasks that wait for tasks until the stack is full fail with RecursionError, each of them; the scope ends."""
    futures = []

    def dive() -> None:
        if not (futures and any(future.done() for future in futures)):
            futures.append(scope.submit(dive))
            futures[-1].result()

    def pad(levels: int) -> None:
        if levels:
            pad(levels - 1)
        else:
            dive()

    with StatefulThreadPoolExecutor(1) as pool:
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as scope:
            scope.submit(pad, padding)
        assert {type(error) for error in caught.value.exceptions} == {RecursionError}
        assert all(future.done() for future in futures)
        assert pool.submit(int).result(5) == 0


def test_stress(nervous: None) -> None:
    """Trees of tasks that wait in all ways, from several threads at once, on three workers with a small backlog."""
    with StatefulThreadPoolExecutor(3, max_backlog=3, initializer=list) as pool:

        def tree(state: list[int], depth: int) -> int:
            assert not state  # lent to nobody else
            state.append(depth)
            try:
                if depth == 0:
                    return 1
                with pool.scope() as scope:
                    in_scope = scope.with_state().submit(tree, depth - 1)
                alone = pool.with_state().submit(tree, depth - 1)
                return in_scope.result() + alone.result() + sum(pool.with_state().map(tree, [depth - 1] * 2))
            finally:
                state.pop()

        totals: list[int] = []
        threads = [
            threading.Thread(target=lambda: totals.append(pool.with_state().submit(tree, 4).result())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert totals == [4**4] * 4
