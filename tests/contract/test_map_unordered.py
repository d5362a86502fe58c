"""`map_unordered`, on all three entry points."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from inside import hook, inside
from threads import settle, until, where

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor

Mapped = Callable[..., Iterator[Any]]


class EntryPoint:
    """A pool, and one of the three things that have a `map_unordered`; here each of them calls `fn(*items)`."""

    def __init__(self, kind: str, pool: StatefulThreadPoolExecutor[list[int]], stack: ExitStack) -> None:
        self.kind = kind
        self.pool = pool
        self.scope = stack.enter_context(pool.scope()) if kind in ("scope", "view of a scope") else None

    def map_unordered(self, fn: Callable[..., Any], *iterables: Any, **kwargs: Any) -> Iterator[Any]:
        entry_point: Any = self.scope or self.pool
        if "view" not in self.kind:
            return entry_point.map_unordered(fn, *iterables, **kwargs)
        return entry_point.with_state().map_unordered(_Stateless(fn), *iterables, **kwargs)


def test_sees_to_it_that_submit_is_called() -> None:
    """One that a subclass overrides, or that somebody has replaced in this pool."""
    submitted: list[tuple[Any, ...]] = []

    class Pool(StatefulThreadPoolExecutor[None]):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            submitted.append(args)
            return super().submit(fn, *args, **kwargs)

    with Pool(1) as pool:
        assert sorted(pool.map_unordered(abs, range(3))) == [0, 1, 2]
    with StatefulThreadPoolExecutor(1) as other:
        true_submit = other.submit
        other.submit = lambda fn, *args: (submitted.append(args), true_submit(fn, *args))[1]  # type: ignore[method-assign, misc, assignment]
        assert list(other.map_unordered(abs, range(3, 5))) == [3, 4]
        del other.submit
    assert submitted == [(number,) for number in range(5)]


def test_submit_that_gives_the_same_again() -> None:
    """Each item has its result, from whatever future a user's own `submit` takes it."""

    class Pool(StatefulThreadPoolExecutor[None]):
        known: ClassVar[dict[Any, Any]] = {}

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            if args not in self.known:
                self.known[args] = super().submit(fn, *args, **kwargs)
            return self.known[args]

    with Pool(2) as pool:
        for buffersize in (None, 1, 3):
            assert sorted(pool.map_unordered(abs, [1, 2, 1, 1, 3, 2], buffersize=buffersize)) == [1, 1, 1, 2, 2, 3]


def test_submit_of_another_pool() -> None:
    """`map` takes futures of any kind from a user's own `submit`."""

    class Pool(StatefulThreadPoolExecutor[None]):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return other.submit(fn, *args, **kwargs)

    with ThreadPoolExecutor(1) as other, Pool(1) as pool:
        assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]


class _Stateless:
    """Drops the state."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, state: list[int], *items: Any) -> Any:
        assert state == []
        return self.fn(*items)


@pytest.fixture(params=["pool", "scope", "view", "view of a scope"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which entry point."""
    return str(request.param)


@pytest.fixture
def entry_point(kind: str) -> Iterator[EntryPoint]:
    """A entry point to a pool of two workers."""
    with StatefulThreadPoolExecutor(2, initializer=list) as pool, ExitStack() as stack:
        yield EntryPoint(kind, pool, stack)


@pytest.fixture
def single(kind: str) -> Iterator[EntryPoint]:
    """A entry point to a pool of one worker."""
    with StatefulThreadPoolExecutor(1, initializer=list) as pool, ExitStack() as stack:
        yield EntryPoint(kind, pool, stack)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free what is not used any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Thing:
    """A result that can be watched."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class TestResults:
    """What comes out, and when."""

    def test_order_of_finishing(self, entry_point: EntryPoint) -> None:
        """Each result as soon as it is there, while an earlier item is still being worked on."""
        go_on = threading.Event()

        def work(number: int) -> int:
            if number == 0:
                go_on.wait()
            return number

        results = entry_point.map_unordered(work, range(5))
        assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
        go_on.set()
        assert list(results) == [0]

    def test_the_iterator_waits(self, entry_point: EntryPoint) -> None:
        """It sleeps until the next one has ended, in whatever order."""
        events = [threading.Event() for _ in range(2)]

        def work(number: int) -> int:
            events[number].wait()
            return number

        results = entry_point.map_unordered(work, range(2))
        for number in (1, 0):
            thread = threading.Thread(target=events[number].set)
            thread.start()
            assert next(results) == number
            thread.join()
        assert next(results, "end") == "end"

    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    @pytest.mark.parametrize("buffersize", [None, 1, 4])
    def test_all_of_them(self, entry_point: EntryPoint, chunksize: int, buffersize: int | None) -> None:
        """Each result once."""
        results = entry_point.map_unordered(
            pow, range(20), itertools.repeat(2), chunksize=chunksize, buffersize=buffersize
        )
        assert sorted(results) == [n * n for n in range(20)]

    def test_chunks(self, entry_point: EntryPoint) -> None:
        """The results of a chunk come together, in its order; the chunk that ended first comes first."""
        go_on = threading.Event()

        def work(number: int) -> int:
            if number < 3:
                go_on.wait()
            return number

        results = entry_point.map_unordered(work, range(7), chunksize=3)
        assert [next(results) for _ in range(4)] == [3, 4, 5, 6]
        go_on.set()
        assert list(results) == [0, 1, 2]

    def test_a_chunk_is_one_task(self, entry_point: EntryPoint) -> None:
        """One thread for all of its calls."""
        results = entry_point.map_unordered(lambda n: (n // 5, threading.get_ident()), range(20), chunksize=5)
        assert len(set(results)) == 4
        assert entry_point.pool.stats().submitted == 4

    def test_shortest_input(self, entry_point: EntryPoint) -> None:
        """As `zip` has it; and an empty one gives nothing."""
        assert sorted(entry_point.map_unordered(lambda *items: items, "abc", range(2))) == [("a", 0), ("b", 1)]
        assert list(entry_point.map_unordered(abs, [])) == []
        assert list(entry_point.map_unordered(abs, [], buffersize=2, chunksize=3)) == []

    def test_in_several_threads(self, entry_point: EntryPoint, nervous: None) -> None:
        """Maps of several threads on one pool get their own results."""
        wrong: list[object] = []

        def use(base: int) -> None:
            for _ in range(10):
                results = sorted(entry_point.map_unordered(base.__add__, range(20), buffersize=3))
                if results != [base + n for n in range(20)]:
                    wrong.append(results)

        threads = [threading.Thread(target=use, args=(base,)) for base in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.parametrize(
        ("kwargs", "error", "text"),
        [
            ({"chunksize": 0}, ValueError, "chunksize must be at least 1, not 0"),
            ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
            ({"buffersize": 1.5}, TypeError, "buffersize must be an integer"),
        ],
    )
    def test_wrong_arguments(
        self, entry_point: EntryPoint, kwargs: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        """They are found at once, and nothing is submitted."""
        with pytest.raises(error, match=text):
            entry_point.map_unordered(abs, [1], **kwargs)
        assert entry_point.pool.stats().submitted == 0


class TestBuffersize:
    """Never more than `buffersize` tasks whose results have not been yielded."""

    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_input_is_read_lazily(self, entry_point: EntryPoint, chunksize: int) -> None:
        """Not further than the buffer before the first result, and then one task for each that was yielded."""
        read: list[int] = []
        numbers = (read.append(n) or n for n in itertools.count())
        results = entry_point.map_unordered(abs, numbers, buffersize=3, chunksize=chunksize)
        assert len(read) == 3 * chunksize
        for yielded in range(50):
            next(results)
            assert len(read) == (3 + yielded // chunksize) * chunksize
        results.close()  # type: ignore[attr-defined]
        assert len(read) == (3 + 49 // chunksize) * chunksize

    def test_slow_first_item(self, entry_point: EntryPoint) -> None:
        """One that takes long is ahead of the caller, and counts, but the others go on."""
        go_on = threading.Event()
        read: list[int] = []

        def work(number: int) -> int:
            if number == 0:
                go_on.wait()
            return number

        results = entry_point.map_unordered(work, (read.append(n) or n for n in range(10)), buffersize=2)
        for number in range(1, 10):
            assert next(results) == number
            assert len(read) == number + 1
        go_on.set()
        assert list(results) == [0]

    def test_input_that_needs_a_result(self, entry_point: EntryPoint) -> None:
        """The input may depend on what was yielded before."""
        seen = [1]

        def numbers() -> Iterator[int]:
            while seen[-1] < 1000:
                yield seen[-1]

        for result in entry_point.map_unordered(lambda n: 2 * n, numbers(), buffersize=1):
            seen += [result]
        assert seen == [2**n for n in range(11)]


class TestTimeout:
    """`timeout` counts from the call."""

    def test_next_item(self, single: EntryPoint) -> None:
        """What has ended is yielded, then TimeoutError; what has not begun is cancelled."""
        go_on, ran = threading.Event(), []

        def work(number: int) -> int:
            if number == 1:
                go_on.wait()
            ran.append(number)
            return number

        results = single.map_unordered(work, range(4), timeout=0.2)
        try:
            assert next(results) == 0
            with pytest.raises(TimeoutError):
                next(results)
        finally:
            go_on.set()
        assert next(results, "end") == "end"
        single.pool.submit(int).result()
        assert ran == [0, 1]
        assert single.pool.stats().cancelled == 2

    def test_what_is_there_comes_though_the_time_is_up(self, single: EntryPoint) -> None:
        """A result that is there needs no time."""
        results = single.map_unordered(abs, range(3), timeout=0)
        single.pool.submit(int).result()
        assert list(results) == [0, 1, 2]

    def test_zero_in_a_worker(self, single: EntryPoint) -> None:
        """Nothing is run in place when there is no time."""

        def outer() -> None:
            with pytest.raises(TimeoutError):
                next(single.map_unordered(pytest.fail, ["ran"], timeout=0))

        single.pool.submit(outer).result()


class TestErrors:
    """Tasks that fail, and input that does."""

    def test_of_a_task(self, single: EntryPoint) -> None:
        """It is raised in its turn, what has not begun is cancelled, and then the iterator has ended."""
        begun, go_on = threading.Event(), threading.Event()
        ran: list[int] = []

        def work(number: int) -> float:
            if number == 3:
                begun.set()
                go_on.wait()
            ran.append(number)
            return 1 / (2 - number)

        results = single.map_unordered(work, range(6))
        begun.wait()
        assert [next(results) for _ in range(2)] == [0.5, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
        go_on.set()
        assert next(results, "end") == "end"
        single.pool.submit(int).result()
        assert ran == [0, 1, 2, 3]

    def test_in_a_chunk(self, entry_point: EntryPoint) -> None:
        """What came before it in its chunk is yielded first."""
        results = entry_point.map_unordered(lambda n: 1 / (2 - n), range(4), chunksize=4)
        assert [next(results) for _ in range(2)] == [0.5, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_base_exception(self, entry_point: EntryPoint) -> None:
        """One that is no Exception comes out as well."""

        def leave(_: int) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            list(entry_point.map_unordered(leave, range(3)))
        assert entry_point.pool.submit(int).result() == 0
        if entry_point.scope is not None:
            for task in list(inside(entry_point.scope).failures):
                task.exception()

    def test_input_raises_at_once(self, single: EntryPoint) -> None:
        """Without a buffersize the call raises, and what has not begun is cancelled."""
        go_on, ran = threading.Event(), []

        def numbers() -> Iterator[int]:
            yield from range(3)
            raise LookupError("input")

        single.pool.submit(go_on.wait)
        with pytest.raises(LookupError, match="input"):
            single.map_unordered(ran.append, numbers())
        go_on.set()
        single.pool.submit(int).result()
        assert not ran
        assert single.pool.stats().cancelled == 3

    def test_input_raises_later(self, entry_point: EntryPoint) -> None:
        """With one, the results of what was submitted before come first."""

        def numbers() -> Iterator[int]:
            yield from range(4)
            raise LookupError("input")

        results = entry_point.map_unordered(abs, numbers(), buffersize=2)
        assert sorted(itertools.islice(results, 4)) == [0, 1, 2, 3]
        with pytest.raises(LookupError, match="input"):
            next(results)
        assert next(results, "end") == "end"

    def test_not_iterable(self, entry_point: EntryPoint) -> None:
        """Told at once."""
        with pytest.raises(TypeError, match="int"):
            entry_point.map_unordered(abs, 3)

    def test_refused_at_once(self, kind: str) -> None:
        """A bounded backlog with a timeout: BacklogFull from the call, and nothing stays behind."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=2, submit_timeout=0) as pool:
            with ExitStack() as stack:
                entry_point = EntryPoint(kind, pool, stack)
                pool.submit(go_on.wait)
                until(lambda: not pool.stats().backlog)
                with pytest.raises(BacklogFull):
                    entry_point.map_unordered(pytest.fail, "abcd")
                assert pool.stats().backlog == 0
                go_on.set()
        assert inside(pool).free_permits is not None
        assert len(inside(pool).free_permits) == 2

    def test_refused_later(self, kind: str) -> None:
        """After a shutdown, the results of what was accepted come first, then the refusal."""
        pool = StatefulThreadPoolExecutor(1, initializer=list)
        with ExitStack() as stack:
            results = EntryPoint(kind, pool, stack).map_unordered(abs, range(10), buffersize=3)
            assert next(results) == 0
            pool.shutdown()
            assert [next(results), next(results)] == [1, 2]
            with pytest.raises(RuntimeError, match="after shutdown"):
                next(results)

    def test_thrown_while_the_next_one_is_submitted(self, single: EntryPoint, monkeypatch: pytest.MonkeyPatch) -> None:
        """An exception of a signal handler, or of another thread: it is raised, and the map has come to its end."""
        true_add = getattr(*hook("AsTheyFinish.add"))
        left = [None]

        def add(parts: Any, part: Any) -> None:
            if not left:
                monkeypatch.undo()
                raise InterruptedError
            left.clear()
            true_add(parts, part)

        monkeypatch.setattr(*hook("AsTheyFinish.add"), add)
        results = single.map_unordered(abs, range(3), buffersize=1)
        assert next(results) == 0
        with pytest.raises(InterruptedError):
            next(results)
        assert list(results) == []

    @pytest.mark.parametrize("chunksize", [1, 2])
    def test_of_the_input_that_is_false(self, entry_point: EntryPoint, chunksize: int) -> None:
        """An error whose class says that it is empty is one all the same."""

        class Empty(Exception):
            def __len__(self) -> int:
                return 0

        def numbers() -> Iterator[int]:
            yield from range(4)
            raise Empty

        results = entry_point.map_unordered(abs, numbers(), buffersize=1, chunksize=chunksize)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(Empty):
            next(results)


class TestEarlyEnd:
    """What has not begun is cancelled when nobody asks any more."""

    @pytest.mark.parametrize("how", ["close", "drop", "break"])
    def test_close(self, single: EntryPoint, how: str) -> None:
        """By `close`, by the last reference, or by leaving the loop; what runs is left alone."""
        begun, go_on, ran = threading.Event(), threading.Event(), []

        def work(number: int) -> None:
            if number == 1:
                begun.set()
                go_on.wait()
            ran.append(number)

        if how == "break":
            for _ in single.map_unordered(work, range(5)):
                begun.wait()
                break
            gc.collect()
        else:
            results = single.map_unordered(work, range(5))
            next(results)
            begun.wait()
            if how == "close":
                results.close()  # type: ignore[attr-defined]
            else:
                del results
                gc.collect()
        assert single.pool.stats().cancelled == 3
        go_on.set()
        single.pool.submit(int).result()
        assert ran == [0, 1]

    def test_never_asked(self, single: EntryPoint) -> None:
        """A map that nobody iterates over runs all the same, as the standard library's `map` does."""
        done: list[int] = []
        single.map_unordered(done.append, range(5))
        gc.collect()
        single.pool.submit(int).result()
        assert done == list(range(5))

    def test_input_is_closed_in_time(self, entry_point: EntryPoint) -> None:
        """Closed early, the iterator reads no more of its input."""
        read: list[int] = []
        results = entry_point.map_unordered(abs, (read.append(n) or n for n in itertools.count()), buffersize=2)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert len(read) == 2

    def test_places_come_back(self, kind: str) -> None:
        """Those of the cancelled tasks."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=4) as pool, ExitStack() as stack:
            results = EntryPoint(kind, pool, stack).map_unordered(lambda n: n and go_on.wait(), range(5), buffersize=4)
            assert next(results) == 0
            until(lambda: pool.stats().backlog == 2)
            results.close()  # type: ignore[attr-defined]
            assert pool.stats().backlog == 0
            assert inside(pool).free_permits == [None] * 4
            go_on.set()


class TestInAWorker:
    """The next item is got by running what has not begun, in place."""

    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("backlog", [None, 1, 2])
    @pytest.mark.parametrize("buffersize", [None, 1, 2])
    def test_nested(self, kind: str, workers: int, backlog: int | None, buffersize: int | None) -> None:
        """To any depth, with any bound: no deadlock."""
        with StatefulThreadPoolExecutor(workers, initializer=list, max_backlog=backlog) as pool:

            def total(depth: int) -> int:
                if depth == 0:
                    return 1
                with ExitStack() as stack:
                    entry_point = EntryPoint(kind, pool, stack)
                    return sum(entry_point.map_unordered(total, [depth - 1] * 3, buffersize=buffersize))

            assert pool.submit(total, 3).result() == 27

    def test_chunks(self, single: EntryPoint) -> None:
        """Chunks as well, each with a state of its own."""
        results = single.pool.submit(lambda: sorted(single.map_unordered(abs, range(10), chunksize=3))).result()
        assert results == list(range(10))

    def test_lazily(self, single: EntryPoint) -> None:
        """With a buffer, the input is read no further than that in a worker, too; and close cancels the rest."""
        read: list[int] = []
        ran: list[int] = []

        def outer() -> int:
            numbers = (read.append(n) or n for n in itertools.count())
            results = single.map_unordered(ran.append, numbers, buffersize=3)
            next(results)
            next(results)
            results.close()  # type: ignore[attr-defined]
            return len(read)

        assert single.pool.submit(outer).result() == 4
        single.pool.submit(int).result()
        assert ran == [0, 1]

    def test_what_others_run_is_waited_for(self) -> None:
        """With nothing left to run in place, the worker sleeps until the others' tasks end."""
        with StatefulThreadPoolExecutor(2) as pool:
            begun, go_on = threading.Event(), threading.Event()

            def work(number: int) -> int:
                if number == 0:
                    begun.set()
                    go_on.wait()
                return threading.get_ident()

            def outer() -> list[int]:
                results = pool.map_unordered(work, range(3))
                begun.wait()  # in the other worker
                idents = [next(results), next(results)]
                go_on.set()
                return [*idents, next(results), threading.get_ident()]

            *in_place, elsewhere, here = pool.submit(outer).result()
            assert in_place == [here] * 2
            assert elsewhere != here

    def test_over_another_pool(self, entry_point: EntryPoint) -> None:
        """A map of another pool is that pool's to run."""
        with StatefulThreadPoolExecutor(1) as other:
            idents = other.submit(
                lambda: {threading.get_ident(), *entry_point.map_unordered(lambda _: threading.get_ident(), range(5))}
            ).result()
        assert len(idents) >= 2

    def test_stress(self, nervous: None) -> None:
        """Trees of maps from several threads, on three workers with a small backlog."""
        with StatefulThreadPoolExecutor(3, max_backlog=2, initializer=list) as pool:

            def tree(depth: int) -> int:
                if depth == 0:
                    return 1
                numbers = [depth - 1] * 2
                total = sum(pool.map_unordered(tree, numbers))
                with pool.scope() as scope:
                    return total + sum(scope.map_unordered(tree, numbers, buffersize=1))

            totals: list[int] = []
            threads = [
                threading.Thread(target=lambda: totals.extend(pool.map_unordered(tree, [4] * 2))) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert totals == [4**4] * 6


class TestMemory:
    """What was yielded is the caller's alone."""

    @pytest.mark.parametrize("chunksize", [1, 2])
    @pytest.mark.parametrize("buffersize", [None, 3])
    def test_results_are_not_kept(
        self, entry_point: EntryPoint, no_collector: None, buffersize: int | None, chunksize: int
    ) -> None:
        """A result is gone when the caller lets it go, or, of a chunk, has asked for the next one's; slowly or not."""
        results = entry_point.map_unordered(Thing, range(12), buffersize=buffersize, chunksize=chunksize)
        until(lambda: entry_point.pool.stats().completed * chunksize >= min(12, (buffersize or 12) * chunksize))
        refs: list[weakref.ref[Thing]] = []
        for number in range(12):
            refs.append(weakref.ref(next(results)))
            let_go = refs if chunksize == 1 else refs[: number // chunksize * chunksize]
            until(lambda refs=let_go: settle() or not any(ref() for ref in refs))  # a worker may be about to forget it

    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_results_go_with_close(self, single: EntryPoint, no_collector: None, chunksize: int) -> None:
        """A closed iterator keeps none, though somebody keeps that."""
        refs: list[weakref.ref[Thing]] = []

        def make(number: int) -> Thing:
            thing = Thing(number)
            refs.append(weakref.ref(thing))
            return thing

        results = single.map_unordered(make, range(3), chunksize=chunksize)
        next(results)
        until(lambda: len(refs) == 3)
        results.close()  # type: ignore[attr-defined]
        until(lambda: settle() or not any(ref() for ref in refs))

    def test_an_endless_input_grows_nothing(self, entry_point: EntryPoint) -> None:
        """With a buffer, however slow the caller is."""
        results: Any = entry_point.map_unordered(abs, itertools.count(), buffersize=4)
        for number in range(200):
            until(lambda number=number: entry_point.pool.stats().completed >= max(number + 3, 4))  # the buffer is full
            next(results)
        parts = results.gi_frame.f_locals["parts"]
        assert max(map(len, (inside(parts).arrived, parts, inside(parts).unbegun or ()))) <= 8
        results.close()

    @pytest.mark.parametrize("ending", ["exhausted", "closed", "failed", "input", "never asked"])
    def test_no_cycles(self, kind: str, no_collector: None, ending: str) -> None:
        """However it ends, its tasks and their results go without a collection."""
        refs: list[weakref.ref[Any]] = []

        def work(number: int) -> Thing:
            if ending == "failed" and number == 2:
                raise ValueError
            thing = Thing(number)
            refs.append(weakref.ref(thing))
            return thing

        def numbers() -> Iterator[int]:
            yield from range(4)
            if ending == "input":
                raise LookupError

        def iterate(results: Any) -> None:
            refs.extend(weakref.ref(task) for task in results.gi_frame.f_locals["parts"])
            refs.append(weakref.ref(next(results)))
            if ending == "closed":
                results.close()
            while True:
                refs.append(weakref.ref(next(results)))

        def use(entry_point: EntryPoint) -> None:
            results: Any = entry_point.map_unordered(work, numbers(), buffersize=None if ending == "never asked" else 2)
            if ending != "never asked":
                with pytest.raises({"failed": ValueError, "input": LookupError}.get(ending, StopIteration)) as caught:
                    iterate(results)
                caught.value.__traceback__ = None
                del caught
            refs.append(weakref.ref(results))

        with StatefulThreadPoolExecutor(1, initializer=list) as pool:
            with ExitStack() as stack:
                use(EntryPoint(kind, pool, stack))
                pool.submit(int).result()
                pool.submit(int).result()  # the worker has forgotten the ones before
            settle()
            assert [ref() for ref in refs] == [None] * len(refs)
            assert len(refs) >= 4

    def test_errors_are_not_kept(self, entry_point: EntryPoint, no_collector: None) -> None:
        """The error that was raised is in no cycle with the iterator's frames."""

        class Error(Exception):
            pass

        def work(_: int) -> None:
            raise Error

        def use() -> weakref.ref[Error]:
            try:
                next(entry_point.map_unordered(work, [1]))
            except Error as exc:
                return weakref.ref(exc)
            pytest.fail("no error")

        ref = use()
        entry_point.pool.submit(int).result()
        until(lambda: settle() or ref() is None)  # both workers have forgotten it


class TestCancelledByOthers:
    """Tasks of a map that somebody else cancels."""

    def test_shutdown(self, single: EntryPoint) -> None:
        """What has ended comes first, then CancelledError."""
        begun, go_on = threading.Event(), threading.Event()

        def work(number: int) -> int:
            if number == 1:
                begun.set()
                go_on.wait()
            return number

        results = single.map_unordered(work, range(4))
        begun.wait()
        assert next(results) == 0
        single.pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(CancelledError):
            list(results)
        go_on.set()

    def test_while_the_iterator_sleeps(self, single: EntryPoint) -> None:
        """It is woken."""
        go_on = threading.Event()
        until(single.pool.submit(go_on.wait).running)
        results = single.map_unordered(abs, range(3))

        def cancel() -> None:
            until(lambda: results.gi_running)  # type: ignore[attr-defined]
            inside(single.pool).cancel_waiting()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(CancelledError):
            next(results)
        thread.join()
        go_on.set()

    @pytest.mark.parametrize("view", [False, True])
    def test_scope(self, view: bool) -> None:
        """A body that ends with the CancelledError of a map whose scope was cancelled has not failed itself."""
        go_on = threading.Event()
        with StatefulThreadPoolExecutor(1, initializer=list) as pool:
            with pool.scope() as scope:
                until(scope.submit(go_on.wait).running)
                results = (
                    scope.with_state().map_unordered(lambda _, n: n, range(3))
                    if view
                    else scope.map_unordered(abs, range(3))
                )
                scope.cancel()
                go_on.set()
                next(results)
                pytest.fail("it was not cancelled")

    def test_in_a_worker(self, single: EntryPoint) -> None:
        """So in a worker: nothing is run that was cancelled."""

        def outer() -> None:
            results = single.map_unordered(pytest.fail, range(3))
            inside(single.pool).cancel_waiting()
            next(results)

        with pytest.raises(CancelledError):
            single.pool.submit(outer).result()


def test_of_several_pools_in_a_worker() -> None:
    """A user's `submit` chooses the pool: a worker of one runs in place what is its own, and nothing of the other."""
    begun, gate = threading.Event(), threading.Event()

    class Chosen(StatefulThreadPoolExecutor[Any]):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return (one if args == (0,) else other).submit(fn, *args, **kwargs)

    def task(number: int) -> str:
        if number == 0:
            begun.set()
            assert gate.wait(20)
        return where()

    def outer() -> set[str]:
        results = chosen.map_unordered(task, range(4))
        assert begun.wait(20)
        waits.set()
        return set(results)

    waits = threading.Event()
    with (
        StatefulThreadPoolExecutor(2, "one", max_backlog=9) as one,
        StatefulThreadPoolExecutor(1, "other", max_backlog=9) as other,
        Chosen(1) as chosen,
    ):
        busy = other.submit(waits.wait, 20)
        until(busy.running)
        outcome = one.submit(outer)
        until(lambda: other.stats().completed == 4)
        gate.set()
        assert outcome.result(20) == {"one_1", "other_0"}
        for pool in one, other:
            assert len(inside(pool).free_permits) == 9
            assert pool.stats().backlog == 0
