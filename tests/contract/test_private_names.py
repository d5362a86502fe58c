"""Private names of `ThreadPoolExecutor` that code in the wild reads, and hooks that its subclasses override."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import pytest
from inside import inside
from threads import beside, until, where

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]
T = TypeVar("T")


@contextmanager
def held(pool: ThreadPoolExecutor) -> Iterator[None]:
    """The pool's one worker is busy."""
    begun, go_on = threading.Event(), threading.Event()
    pool.submit(lambda: (begun.set(), go_on.wait()))
    begun.wait()
    try:
        yield
    finally:
        go_on.set()


class TestRead:
    """What is looked at."""

    @pytest.mark.parametrize("pool_cls", [ThreadPoolExecutor, StatefulThreadPoolExecutor])
    def test_as_in_the_standard_library(self, pool_cls: type[ThreadPoolExecutor]) -> None:
        """The same values at the same time."""
        with pool_cls(1, "prefix") as pool:
            assert (pool._thread_name_prefix, pool._shutdown, bool(pool._broken)) == ("prefix", False, False)
            assert pool._work_queue.empty()
            with held(pool):
                pool.submit(int)
                assert not pool._work_queue.empty()
                assert pool._work_queue.qsize() == 1
        assert pool._shutdown
        assert pool_cls()._thread_name_prefix.startswith(pool_cls.__name__)

    def test_initializer(self) -> None:
        """As given."""
        pool = StatefulThreadPoolExecutor(1, initializer=list, initargs=((1, 2),))
        assert (pool._initializer, pool._initargs) == (list, ((1, 2),))
        plain = StatefulThreadPoolExecutor(1)
        assert (plain._initializer, plain._initargs) == (None, ())


class TestTakenOut:
    """`_work_queue.get_nowait()`: the tasks are the taker's, and their futures cancelled."""

    def test_in_order(self) -> None:
        """The call as it was submitted, until there is no more."""
        with StatefulThreadPoolExecutor(1, initializer=list) as pool, held(pool):
            work = pool._work_queue
            futures = [pool.submit(pow, 2, 3), pool.submit(int, "1", base=2), pool.with_state().submit(getattr, "pop")]
            items = [work.get_nowait(), work.get(block=False), work.get(timeout=5)]
            assert [item.future for item in items] == futures
            assert [item.task for item in items] == [
                (pow, (2, 3), {}),
                (int, ("1",), {"base": 2}),
                (getattr, ("pop",), {}),
            ]
            assert all((item.fn, item.args, item.kwargs) == item.task for item in items)
            assert all(future.cancelled() for future in futures)
            for get in (work.get_nowait, work.get, partial(work.get, timeout=5)):
                with pytest.raises(queue.Empty):
                    get()
            assert (work.qsize(), work.empty(), pool.stats().cancelled) == (0, True, 3)

    def test_partials(self) -> None:
        """The user's own and ours call the same, however they are merged; the arguments are those of `submit`."""
        with StatefulThreadPoolExecutor(1) as pool, held(pool):
            for fn in (partial(int, base=2), partial(partial(divmod, 7)), partial(dict, [("a", 1)], b=2)):
                pool.submit(fn, *(["11"] if fn.func is int else [2] * (fn.func is divmod)))
            pool.submit(partial(dict, [("a", 1)], b=2), c=3)
            items = [pool._work_queue.get_nowait() for _ in range(4)]
            assert [item.args for item in items] == [("11",), (2,), (), ()]
            results = [item.fn(*item.args, **item.kwargs) for item in items]
            assert results == [3, (3, 1), {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}]

    @pytest.mark.parametrize("cancels", [True, False])
    @pytest.mark.parametrize("max_backlog", [None, 200])
    def test_emptied_by_hand(self, cancels: bool, max_backlog: int | None) -> None:
        """As programs do that were written before `shutdown(cancel_futures=True)`."""
        with StatefulThreadPoolExecutor(1, max_backlog=max_backlog) as pool, held(pool):
            futures = [pool.submit(int) for _ in range(200)]
            futures[0].cancel()
            pool.shutdown(wait=False)
            while True:
                try:
                    item = pool._work_queue.get_nowait()
                except queue.Empty:
                    break
                if cancels:
                    assert item.future.cancel()
            done, not_done = concurrent.futures.wait(futures, timeout=0)
            assert not not_done
            assert all(future.cancelled() for future in done)
            assert inside(pool).entries() == len(inside(pool).tombstones) == 0
            assert inside(pool).permits_left() == (max_backlog or 0)

    def test_who_waits_is_told(self) -> None:
        """For the future, for a place, for the end of the scope; callbacks are called here."""
        called: list[str] = []
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            with pool.scope() as scope, held(pool):
                future = scope.submit(int)
                future.add_done_callback(lambda _: called.append(where()))
                with beside(pytest.raises, CancelledError, future.result), beside(pool.submit, int):
                    until(lambda: pool.stats().blocked_submitters == 1)
                    assert pool._work_queue.get_nowait().future is future
        assert called == [where()]
        assert pool.stats().completed == 2

    def test_has_no_result(self) -> None:
        """It can't be run, nor finished, in place of the pool."""
        with StatefulThreadPoolExecutor(1) as pool, held(pool):
            pool.submit(int)
            item = pool._work_queue.get_nowait()
            with pytest.raises(RuntimeError, match=r"was cancelled as it was taken out of the queue.*call fn"):
                item.run()
            with pytest.raises(InvalidStateError):
                item.future.set_result(0)

    @pytest.mark.parametrize("takers", [1, 3])
    def test_against_the_workers(self, takers: int) -> None:
        """Each task is run once, or taken once."""
        ran: list[int] = []
        taken: list[int] = []

        def take() -> None:
            while not (ended.is_set() and pool._work_queue.empty()):
                with suppress(queue.Empty):
                    taken.append(pool._work_queue.get_nowait().args[0])
                time.sleep(0)

        ended = threading.Event()
        with StatefulThreadPoolExecutor(2, max_backlog=20) as pool:
            threads = [threading.Thread(target=take) for _ in range(takers)]
            for thread in threads:
                thread.start()
            futures = [pool.submit(ran.append, number) for number in range(300)]
            for future in futures[::3]:
                future.cancel()
            ended.set()
            for thread in threads:
                thread.join()
        cancelled = {number for number, future in enumerate(futures) if future.cancelled()}
        assert sorted(ran) == sorted(set(range(300)) - cancelled)
        assert len(taken) == len(set(taken))
        assert set(taken) <= cancelled
        assert cancelled - set(taken) <= set(range(0, 300, 3))
        assert inside(pool).permits_left() == 20

    def test_put_is_not_there(self) -> None:
        """A worker is not told to go by a None."""
        with pytest.raises(AttributeError, match="put"):
            StatefulThreadPoolExecutor(1)._work_queue.put(None)


class TestSubclasses:
    """A hook that is never called is said to be, where the class is made."""

    @pytest.mark.parametrize(
        ("name", "instead"),
        [
            ("_adjust_thread_count", "initializer=.*thread_name_prefix=.*exit_timeout="),
            ("_initializer_failed", "BrokenThreadPool"),
            ("prepare_context", "task_decorator="),
            ("_work_queue", "max_backlog="),
        ],
    )
    @pytest.mark.parametrize("inherited", [False, True])
    def test_warning(self, name: str, instead: str, inherited: bool) -> None:
        """Also when the class has it from another one. A subclass of that is not warned of again."""
        hooks = {name: lambda self: None}
        if inherited:
            mixin = type("Mixin", (), hooks)
            hooks = {}
        bases = (mixin, StatefulThreadPoolExecutor) if inherited else (StatefulThreadPoolExecutor,)
        with pytest.warns(RuntimeWarning, match=rf"^Mine\.{name} is never used: .*{instead}") as warned:
            mine = type("Mine", bases, hooks)
        assert [warning.filename for warning in warned] == [__file__]
        type("More", (mine,), {})

    def test_where(self) -> None:
        """The warning is at the class statement, of a generic class too."""
        with pytest.warns(RuntimeWarning) as warned:

            class Mine(StatefulThreadPoolExecutor[T], Generic[T]):
                def _adjust_thread_count(self) -> None:
                    pass

        first_line = Mine._adjust_thread_count.__code__.co_firstlineno
        assert (warned[0].filename, warned[0].lineno) == (__file__, first_line - 1)

    def test_what_works_is_not_warned_of(self) -> None:
        """`submit`, which reaches the pool's own submits and maps, and names of one's own."""
        seen: list[Any] = []

        class Mine(StatefulThreadPoolExecutor[Any]):
            limit = 5

            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
                seen.append(fn)
                return super().submit(fn, *args, **kwargs)

        with Mine(1) as pool:
            assert pool.submit(int).result() == sum(pool.map(int, [0])) == sum(pool.map_unordered(int, [0]))
            assert seen == [int] * 3
            with pool.scope() as scope:
                scope.submit(int)
            assert seen == [int] * 3

    def test_queue_of_its_own(self) -> None:
        """The error says what to do instead of a queue with a bound, or with priorities."""

        class Mine(StatefulThreadPoolExecutor[Any]):
            def __init__(self) -> None:
                super().__init__(1)
                self._work_queue = queue.Queue(5)

        with pytest.raises(AttributeError, match=r"_work_queue of a Mine can't be replaced: .*max_backlog=.*priorit"):
            Mine()


def test_the_pool_itself_warns_of_nothing() -> None:
    """A class of which nothing is overridden."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Mine", (StatefulThreadPoolExecutor,), {"limit": 1})
