"""The cases of the Rust crates this descends from (scope-threadpool, scoped-threadpool, scoped_pool), in Python."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


def test_smoke() -> None:
    """Each element of a list borrowed from the enclosing function is changed by a task; the list is complete after."""
    numbers = [0] * 8

    def increment(index: int) -> None:
        numbers[index] += index + 1

    with StatefulThreadPoolExecutor(4) as pool, pool.scope() as scope:
        for index in range(8):
            scope.submit(increment, index)
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8]


def test_task_error() -> None:
    """What a task raises is raised by the block, and the pool serves the next scope."""
    with StatefulThreadPoolExecutor(2) as pool:
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as scope:
            scope.submit(divmod, 1, 0)
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        with pool.scope() as scope:
            future = scope.submit(divmod, 7, 2)
        assert future.result() == (3, 1)


def test_body_error() -> None:
    """The body's own exception goes on unchanged, after the tasks have ended."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        go_on.wait()
        ended.set()

    error = LookupError("the body's own")
    with StatefulThreadPoolExecutor(1) as pool:
        with pytest.raises(LookupError) as caught, pool.scope() as scope:
            scope.submit(task)
            begun.wait()
            threading.Thread(target=go_on.set).start()
            raise error
        assert ended.is_set()
    assert caught.value is error


def test_join_in_the_order_of_time() -> None:
    """Two scopes one after the other: all tasks of the first end before any of the second begins."""
    log: list[str] = []
    with StatefulThreadPoolExecutor(4) as pool:
        for name in "ab":
            with pool.scope() as scope:
                for _ in range(4):
                    scope.submit(log.append, name)
            log.append(name.upper())
    assert log == ["a"] * 4 + ["A"] + ["b"] * 4 + ["B"]


@pytest.mark.parametrize("failing", range(4))
def test_all_are_joined_although_one_raises(failing: int) -> None:
    """The block ends after the slow tasks, not when the first error comes (unsound in scope-threadpool)."""
    failed = threading.Event()
    values = [0] * 4

    def task(index: int) -> None:
        if index == failing:
            raise ValueError(index)
        failed.wait()
        values[index] = 1

    with StatefulThreadPoolExecutor(4) as pool:
        with pytest.raises(ExceptionGroup), pool.scope() as scope:
            for index in range(4):
                scope.submit(task, index).add_done_callback(lambda future: future._exception and failed.set())
        assert values == [index != failing for index in range(4)]


def test_no_leak_of_what_tasks_close_over() -> None:
    """After the block nothing refers to what tasks were given, closed over or returned."""

    class Thing:
        pass

    things = [Thing() for _ in range(10)]
    results: list[weakref.ref[Thing]] = []

    def task(given: Thing, closed_over: Thing) -> Thing:
        made = Thing()
        results.append(weakref.ref(made))
        return made

    refs = [weakref.ref(thing) for thing in things]
    gc.collect()
    gc.disable()
    try:
        with StatefulThreadPoolExecutor(3) as pool:
            with pool.scope() as scope:
                for thing in things:
                    scope.submit(lambda given, thing=thing: task(given, thing), thing)
                del thing
            if FREE_THREADED:  # there an object goes when the thread that made it comes to drop it
                gc.collect()
            assert [ref() for ref in results] == [None] * 10
            things.clear()
            if FREE_THREADED:
                gc.collect()
            assert [ref() for ref in refs] == [None] * 10
    finally:
        gc.enable()


def test_backlog_blocks() -> None:
    """One worker, a backlog of one: the third task is not accepted while the first runs."""
    begun, go_on = threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        go_on.wait()

    with StatefulThreadPoolExecutor(1, max_backlog=1, submit_timeout=0) as pool:
        pool.submit(task)
        begun.wait()
        second = pool.submit(int)
        with pytest.raises(BacklogFull):
            pool.submit(int)
        go_on.set()
        assert second.result() == 0


def test_no_backlog_does_not_block() -> None:
    """Without a bound, any number of tasks is accepted while the worker is busy."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        pool.submit(go_on.wait)
        futures = [pool.submit(int) for _ in range(10_000)]
        assert not any(future.done() for future in futures)
        go_on.set()
        assert [future.result() for future in futures] == [0] * 10_000


def test_many_workers_many_tasks_with_backlog() -> None:
    """512 workers, 3,000 tasks, a backlog of 1,000."""
    done: list[int] = []
    with StatefulThreadPoolExecutor(512, max_backlog=1_000) as pool, pool.scope() as scope:
        for number in range(3_000):
            scope.submit(done.append, number)
    assert sorted(done) == list(range(3_000))


def test_state_is_made_once_per_worker() -> None:
    """Four workers, each held by a task until all four are: four states, whatever comes later."""
    made: list[int] = []

    def make() -> str:
        made.append(threading.get_ident())
        return "state"

    everyone = threading.Barrier(4)
    with StatefulThreadPoolExecutor(4, initializer=make) as pool:
        view = pool.with_state()
        with pool.scope() as scope:
            for _ in range(4):
                scope.with_state().submit(lambda state: everyone.wait())
        assert {view.submit(str.upper).result() for _ in range(100)} == {"STATE"}
    assert len(made) == len(set(made)) == 4


def test_state_is_mutated() -> None:
    """What one task changes in its state, the next one of that worker sees."""
    with StatefulThreadPoolExecutor(1, initializer=list) as pool:
        view = pool.with_state()
        for number in range(5):
            view.submit(list.append, number)
        assert view.submit(list.copy).result() == [0, 1, 2, 3, 4]


def test_initializer_error() -> None:
    """An initializer that never succeeds breaks the pool, and every task learns why."""
    with StatefulThreadPoolExecutor(2, initializer=divmod, initargs=(1, 0)) as pool:
        with pytest.raises(RuntimeError) as caught, pool.scope() as scope:
            scope.submit(int).result()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("backlog", [None, 1, 100])
def test_recursion_into_the_own_scope(workers: int, backlog: int | None) -> None:
    """Tasks submit to the scope that they are in; the block ends after the last of them."""
    leaves: list[int] = []

    def split(low: int, high: int) -> None:
        if high - low == 1:
            leaves.append(low)
            return
        middle = (low + high) // 2
        scope.submit(split, low, middle)
        scope.submit(split, middle, high)

    with StatefulThreadPoolExecutor(workers, max_backlog=backlog) as pool, pool.scope() as scope:
        scope.submit(split, 0, 128)
    assert sorted(leaves) == list(range(128))


def test_subscopes() -> None:
    """Scopes inside tasks of scopes: each joins its own before its task goes on."""
    log: list[str] = []

    def inner(name: str) -> None:
        with pool.scope() as scope:
            for _ in range(3):
                scope.submit(log.append, name)
        log.append(name.upper())

    with StatefulThreadPoolExecutor(2) as pool:
        with pool.scope() as scope:
            for name in "abc":
                scope.submit(inner, name)
        log.append("end")
    assert sorted(log[:-1]) == sorted("aaaAbbbBcccC")
    assert log[-1] == "end"
    for name in "abc":
        assert log.index(name.upper()) > max(index for index, entry in enumerate(log) if entry == name)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("backlog", [None, 1, 10])
def test_quicksort_by_nested_scopes(workers: int, backlog: int | None) -> None:
    """In place, by tasks that open scopes for their halves and wait: no deadlock with any number of workers."""
    numbers = [(number * 7919) % 1009 for number in range(1009)]

    def sort(low: int, high: int) -> None:
        if high - low < 16:
            numbers[low:high] = sorted(numbers[low:high])
            return
        pivot = numbers[(low + high) // 2]
        part = numbers[low:high]
        less, same = [n for n in part if n < pivot], [n for n in part if n == pivot]
        numbers[low:high] = [*less, *same, *(n for n in part if n > pivot)]
        with pool.scope() as scope:
            scope.submit(sort, low, low + len(less))
            scope.submit(sort, low + len(less) + len(same), high)

    with StatefulThreadPoolExecutor(workers, max_backlog=backlog) as pool:
        pool.submit(sort, 0, len(numbers)).result()
    assert numbers == sorted(numbers)
