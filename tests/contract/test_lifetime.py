"""How long pools, workers and what tasks refer to live, and what ends them; in process."""

import concurrent.futures
import contextlib
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from contextvars import ContextVar
from typing import Any

import pytest
from inside import inside, place
from kept import Blocked, Failure, Thing, no_collector, outcome, run_in_place, run_inline
from starts import Shortage
from threads import PATIENCE, beside, until

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class States:
    """Counts its states: an initializer, and a finalizer that looks at the thread."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.torn_down: list[tuple[int, int]] = []

    def make(self) -> int:
        self.made.append(threading.get_ident())
        return threading.get_ident()

    def finalize(self, state: int) -> None:
        self.torn_down.append((state, threading.get_ident()))

    def pool(self, max_workers: int = 1, **options: Any) -> Pool:
        return StatefulThreadPoolExecutor(max_workers, initializer=self.make, finalizer=self.finalize, **options)

    def all_gone(self) -> bool:
        """Each was torn down once, in its thread. Threads may have had the same identifier one after the other."""
        return sorted(self.torn_down) == sorted((thread, thread) for thread in self.made)


def let_go(pool: Pool) -> None:
    """Return when the workers sleep, and so refer to no task. Free-threaded builds collect until that is so."""
    until(lambda: not GIL or all(inside(worker).asleep for worker in inside(pool).workers))


def until_gone(ref: "weakref.ref[Any]") -> None:
    """Return when the object is gone, which another thread may be about to let go."""

    def gone() -> bool:
        if not GIL:
            gc.collect()  # there, some references are given up late
        return ref() is None

    until(gone)


def threads_of(pool: Pool) -> list[threading.Thread]:
    return list(pool._threads)


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# Dropping the pool


@pytest.mark.parametrize("workers", [1, 3])
def test_dropped_pool_tears_down(workers: int) -> None:
    """Without a last reference the sleeping workers end, each with its teardown; no collection is needed."""
    states = States()
    with no_collector():
        pool = states.pool(workers)
        with contextlib.ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(Blocked(pool))
        threads = threads_of(pool)
        del pool
        if not GIL:
            gc.collect()
        join(threads)
    assert len(states.made) == workers
    assert states.all_gone()


@pytest.mark.parametrize("cycle", ["itself", "scope", "view", "future", "closure", "bound method as finalizer"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_dropped_pool_in_a_cycle(cycle: str, busy: bool) -> None:
    """A pool in a cycle with what it gave out is collected, runs what is queued, and ends its workers."""
    states = States()
    done: list[int] = []

    class Owner:
        def __init__(self) -> None:
            self.pool = states.pool(thread_name_prefix="cycle")
            self.pool.submit(int).result(PATIENCE)
            self.others: list[object] = []

    owner = Owner()
    pool = owner.pool
    match cycle:
        case "itself":
            pool.owner = owner  # type: ignore[attr-defined]
        case "scope":
            scope = pool.scope()
            scope.owner = pool.owner = scope  # type: ignore[attr-defined]
            del scope
        case "view":
            view = pool.with_state()
            view.owner = pool.owner = view  # type: ignore[attr-defined]
            del view
        case "future":
            future = pool.submit(int)
            future.result(PATIENCE)
            pool.owner = future  # type: ignore[attr-defined]
            future.owner = pool  # type: ignore[attr-defined]
            del future
            let_go(pool)
        case "closure":
            pool.owner = functools.partial(id, pool)  # type: ignore[attr-defined]
        case _:
            pool.owner = pool.submit  # type: ignore[attr-defined]
    threads = threads_of(pool)
    gone = weakref.ref(pool)
    with Blocked(pool) if busy else contextlib.nullcontext():
        pool.submit(done.append, 1)
        del pool, owner
        gc.collect()
        until_gone(gone)
    join(threads)
    assert done == [1]
    assert states.all_gone()


@pytest.mark.parametrize("when", ["idle", "running", "queued"])
def test_workers_do_not_keep_the_pool(when: str) -> None:
    """Neither asleep, nor while they run, nor with tasks to come; what was accepted is run."""
    states = States()
    done: list[int] = []
    pool = states.pool()
    pool.submit(int).result(PATIENCE)
    threads, gone = threads_of(pool), weakref.ref(pool)
    with Blocked(pool) if when != "idle" else contextlib.nullcontext():
        futures = [pool.submit(done.append, number) for number in range(3 * (when == "queued"))]
        concurrent.futures.wait(futures, 0)
        del pool
        until_gone(gone)
        assert not any(future.done() for future in futures)
    join(threads)
    assert len(done) == len(futures)
    assert states.all_gone()


def test_dropped_in_a_task() -> None:
    """The last reference goes in the pool's own worker: it ends after that task, with its teardown."""
    states = States()
    holder = [states.pool()]
    threads: list[threading.Thread] = []

    def drop() -> None:
        threads.extend(threads_of(holder[0]))
        holder.clear()
        gc.collect()

    holder[0].submit(drop).result(PATIENCE)
    join(threads)
    assert states.all_gone()


@pytest.mark.parametrize(
    "keep",
    [
        lambda pool: pool.with_state(),
        lambda pool: pool.with_state(list),
        lambda pool: pool.scope().__enter__(),
        lambda pool: pool.scope().__enter__().with_state(),
        lambda pool: pool.map(abs, range(3), buffersize=1),
    ],
    ids=["view", "view-of-its-own", "scope", "scope's-view", "map-with-buffersize"],
)
def test_what_keeps_the_pool(keep: Callable[[Pool], Any]) -> None:
    """A view, an open scope and a map that has to submit more can be used although nobody names the pool."""
    pool = States().pool()
    gone = weakref.ref(pool)
    kept = keep(pool)
    del pool
    gc.collect()
    assert gone() is not None
    threads = threads_of(gone())  # type: ignore[arg-type]
    if isinstance(kept, Iterator):
        assert list(kept) == [0, 1, 2]
    else:
        state = "StateView" in repr(kept)
        assert kept.submit(*[lambda state: 1] if state else [int, 1]).result(PATIENCE) == 1
        threads = threads_of(gone())  # type: ignore[arg-type]
    del kept
    until_gone(gone)
    join(threads)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_does_not_keep_the_pool(chunksize: int) -> None:
    """Without `buffersize` all is submitted: the iterator gives its results although the pool has gone."""
    pool = States().pool()
    gone = weakref.ref(pool)
    results = pool.map(abs, range(5), chunksize=chunksize)
    threads = threads_of(pool)
    del pool
    until_gone(gone)
    assert list(results) == list(range(5))
    join(threads)


# What is kept of a task

ENTRY_POINTS: dict[str, Callable[..., Any]] = {
    "pool": lambda pool, fn, arg: pool.submit(fn, arg, key=arg),
    "view": lambda pool, fn, arg: pool.with_state().submit(fn, arg, key=arg),
    "own view": lambda pool, fn, arg: pool.with_state(Thing).submit(fn, arg, key=arg),
    "map": lambda pool, fn, arg: pool.map(fn, [arg]),
    "chunked map": lambda pool, fn, arg: pool.map(fn, [arg, arg], chunksize=2),
    "map with buffersize": lambda pool, fn, arg: pool.map(fn, [arg] * 3, buffersize=2),
    "scope": lambda pool, fn, arg: in_scope(pool, fn, arg),
    "in place": lambda pool, fn, arg: pool.submit(run_in_place, pool, fn, arg),
    "inline": lambda pool, fn, arg: pool.submit(run_inline, pool, fn, arg),
}


def in_scope(pool: Pool, fn: Any, arg: Any) -> Any:
    with pool.scope() as scope:
        future = scope.submit(fn, arg, key=arg)
        future.exception(PATIENCE)
    return future


def settle(pool: Pool) -> None:
    """Return when the pool is idle: the worker has taken its hands off the task before."""
    until(lambda: len(inside(pool).idle) == len(pool._threads))


class Returns(Thing):
    """A function, whose result is noted."""

    def __init__(self, notes: "list[weakref.ref[Any]]") -> None:
        self.notes = notes

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        local, result = Thing(), Thing()
        self.notes += [weakref.ref(local), weakref.ref(result)]
        return result


class Fails(Returns):
    """A function, whose error is noted, and what stands in its frame."""

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        local, error = Thing(), Failure()
        self.notes += [weakref.ref(local), weakref.ref(error)]
        try:
            raise error
        finally:
            del error  # a cycle of the test's own


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("kind", [Returns, Fails])
def test_nothing_of_a_task_is_kept(entry_point: str, kind: type[Returns]) -> None:
    """Its function, argument, result and error, and the error's locals, go with the future; no cycle holds them."""
    notes: list[weakref.ref[Any]] = []

    def use(pool: Pool) -> None:
        fn, arg = kind(notes), Thing()
        notes.extend([weakref.ref(fn), weakref.ref(arg)])
        made = ENTRY_POINTS[entry_point](pool, fn, arg)
        del fn, arg
        try:
            assert isinstance(outcome(made), Failure if kind is Fails else Thing)
            if hasattr(made, "close"):
                made.close()
        finally:
            del made  # an error refers to the frames of those who called what it passed through, hence to this one

    with StatefulThreadPoolExecutor(1, initializer=Thing, max_backlog=1) as pool, no_collector():
        use(pool)
        settle(pool)
        assert len(notes) >= 4
        for ref in notes:
            until_gone(ref)


@pytest.mark.parametrize("kind", [Returns, Fails])
@pytest.mark.parametrize("entry_point", ["pool", "view", "scope"])
def test_a_kept_future_keeps_the_outcome_only(entry_point: str, kind: type[Returns]) -> None:
    """The function and the arguments of a task that returned are gone at once; those that failed, with the error."""
    notes: list[weakref.ref[Any]] = []
    fn, arg = kind(notes), Thing()
    notes += [weakref.ref(fn), weakref.ref(arg)]
    with StatefulThreadPoolExecutor(1, initializer=Thing) as pool, no_collector():
        future = ENTRY_POINTS[entry_point](pool, fn, arg)
        del fn, arg
        outcome(future)
        settle(pool)
        if kind is Returns:
            until_gone(notes[0])
            until_gone(notes[1])
            assert notes[-1]() is future.result()
        else:
            assert notes[-1]() is future.exception()
            future.exception().__traceback__ = None
            until_gone(notes[0])
            until_gone(notes[1])


def test_nothing_of_a_cancelled_task_is_kept() -> None:
    """Function and arguments go with `cancel()`, though the future is kept and the worker has not come to it."""
    with StatefulThreadPoolExecutor(1) as pool, Blocked(pool), no_collector():
        fn, arg = Thing(), Thing()
        refs = weakref.ref(fn), weakref.ref(arg)
        future = pool.submit(fn, arg, key=arg)
        del fn, arg
        assert future.cancel()
        for ref in refs:
            until_gone(ref)


@pytest.mark.parametrize("ends", ["InitializerError", "teardown"])
def test_nothing_of_a_state_is_kept(ends: str) -> None:
    """A torn down state goes, and so does what a failed initializer had in hand, once the future is dropped."""
    notes: list[weakref.ref[Any]] = []

    def make() -> Thing:
        local = Thing()
        notes.append(weakref.ref(local))
        if ends == "InitializerError":
            raise Failure
        return local

    with StatefulThreadPoolExecutor(1) as pool, no_collector():
        with pool.scope() as scope:
            future = scope.with_state(make).submit(lambda state: None)
            future.exception(PATIENCE)
            del future
        scope = None  # type: ignore[assignment]
        settle(pool)
        assert notes
        for ref in notes:
            until_gone(ref)


# Shutdown


def test_shutdown_timeout() -> None:
    """`TimeoutError` names the workers that run, and what; a later `shutdown` succeeds."""
    states = States()
    pool = states.pool(2, thread_name_prefix="busy")
    with Blocked(pool):
        pool.submit(int).result(PATIENCE)
        with pytest.raises(TimeoutError, match=r"busy.*: .*busy_0 runs Blocked\.run"):
            pool.shutdown(timeout=0)
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(int)
        with pytest.raises(TimeoutError):
            pool.shutdown(timeout=0.001)
    pool.shutdown(timeout=PATIENCE)
    pool.shutdown(timeout=0)
    assert states.all_gone()


def test_shutdown_timeout_names_the_unnamed() -> None:
    """A task without a name of its own, and one whose `repr` fails, are named by their class."""

    class Nameless:
        def __init__(self) -> None:
            self.begun, self.end = threading.Event(), threading.Event()

        def __call__(self) -> None:
            self.begun.set()
            assert self.end.wait(PATIENCE)

        def __repr__(self) -> str:
            raise LookupError

    with StatefulThreadPoolExecutor(1) as pool:
        task = Nameless()
        pool.submit(task)
        assert task.begun.wait(PATIENCE)
        with pytest.raises(TimeoutError, match=r"runs .*Nameless"):
            pool.shutdown(timeout=0)
        task.end.set()


@pytest.mark.parametrize("copy_context", [False, True])
def test_shutdown_timeout_names_what_has_keywords(copy_context: bool) -> None:
    """Function and keywords travel as one, and it is the function that is named."""
    begun, end = threading.Event(), threading.Event()

    def with_keywords(*, event: threading.Event) -> None:
        event.set()
        assert end.wait(PATIENCE)

    with StatefulThreadPoolExecutor(1, copy_context=copy_context) as pool:
        pool.submit(with_keywords, event=begun)
        assert begun.wait(PATIENCE)
        with pytest.raises(TimeoutError, match=r"runs .*with_keywords"):
            pool.shutdown(timeout=0)
        end.set()


@pytest.mark.parametrize("nested", [True, False], ids=["in-place", "own"])
def test_shutdown_in_a_task(nested: bool) -> None:
    """It would wait for itself with `wait=True`, and says so; with `wait=False` it works."""
    states = States()
    pool = states.pool()

    def task() -> None:
        with pytest.raises(RuntimeError, match=r"shutdown\(wait=False\)"):
            pool.shutdown()
        with pytest.raises(RuntimeError, match=r"shutdown\(wait=False\)"):
            pool.shutdown(timeout=0)
        pool.shutdown(wait=False)

    pool.submit(lambda: pool.submit(task).result(PATIENCE) if nested else task()).result(PATIENCE)
    pool.shutdown()
    assert states.all_gone()


def test_shutdown_in_another_pools_task() -> None:
    """A worker may wait for the end of a pool that is not its own."""
    states = States()
    with StatefulThreadPoolExecutor(1) as outer:
        inner = states.pool()
        future = inner.submit(int)
        outer.submit(inner.shutdown).result(PATIENCE)
        assert future.done()
        assert states.all_gone()


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelling", "finishing"])
@pytest.mark.parametrize("submitters", [1, 5])
def test_shutdown_wakes_blocked_submits(submitters: int, cancel: bool) -> None:
    """Each raises `RuntimeError`, and none takes or loses a place: all are free in the end."""
    errors: list[BaseException] = []
    states = States()
    pool = states.pool(max_backlog=2)

    def submit() -> None:
        try:
            pool.submit(int)
        except RuntimeError as exc:
            errors.append(exc)

    with contextlib.ExitStack() as stack:
        blocked = stack.enter_context(Blocked(pool))
        queued = [pool.submit(int) for _ in range(2)]
        for _ in range(submitters):
            stack.enter_context(beside(submit))
        until(lambda: len(inside(pool).waiters) == submitters)
        pool.shutdown(wait=False, cancel_futures=cancel)
        until(lambda: len(errors) == submitters)
        assert pool._work_queue.qsize() == (0 if cancel else 2)
        blocked.end.set()
    pool.shutdown()
    assert [future.cancelled() for future in queued] == [cancel] * 2
    assert all("after shutdown" in str(error) and not isinstance(error, BacklogFull) for error in errors)
    assert len(inside(pool).free_permits) == 2  # type: ignore[arg-type]
    assert states.all_gone()


@pytest.mark.parametrize("return_when", [concurrent.futures.ALL_COMPLETED, concurrent.futures.FIRST_COMPLETED])
def test_shutdown_cancelling_wakes_wait(return_when: str) -> None:
    """`concurrent.futures.wait` hears of cancelled tasks at once; the standard library's hangs (cpython#109934)."""
    woken: list[int] = []
    pool = States().pool()
    with Blocked(pool):
        queued = [pool.submit(int) for _ in range(3)]

        def wait() -> None:
            woken.append(len(concurrent.futures.wait(queued, PATIENCE, return_when).done))

        with beside(wait):
            until(lambda: all(future._waiters for future in queued))
            pool.shutdown(wait=False, cancel_futures=True)
        assert woken
        assert woken[0] == 3 or return_when != concurrent.futures.ALL_COMPLETED
    pool.shutdown()


def test_shutdown_from_many_threads() -> None:
    """All return when the workers have ended, and no state is torn down twice."""
    states = States()
    pool = states.pool(3)
    seen: list[bool] = []
    with contextlib.ExitStack() as threads, contextlib.ExitStack() as tasks:
        for _ in range(3):
            tasks.enter_context(Blocked(pool))
        for _ in range(5):
            threads.enter_context(beside(lambda: (pool.shutdown(), seen.append(states.all_gone()))))
        until(lambda: inside(pool).close_reason is not None)
    assert seen == [True] * 5


@pytest.mark.parametrize("backlog", [None, 1])
def test_shutdown_while_the_first_submit_starts_a_worker(backlog: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the look at whether tasks are accepted, before a thread is started: refused, or run; not lost."""
    pool = StatefulThreadPoolExecutor(1, max_backlog=backlog)
    new_worker = inside(pool).new_worker

    def shut_down_and_make() -> Any:
        pool.shutdown(wait=False)
        return new_worker()

    monkeypatch.setattr(*place(pool, "new_worker"), shut_down_and_make)
    future = None
    with contextlib.suppress(RuntimeError):
        future = pool.submit(int)
    pool.shutdown()
    assert future is None or future.result(0) == 0
    assert pool._work_queue.qsize() == 0


def test_shutdown_and_submits_race(nervous: None) -> None:
    """Each submit is either refused or its task is run, whatever moment the shutdown comes."""
    for _ in range(30):
        states = States()
        pool = states.pool(2, max_backlog=3)
        accepted: list[concurrent.futures.Future[int]] = []
        everyone = threading.Barrier(4)

        def submit(pool: Pool = pool, accepted: Any = accepted, everyone: Any = everyone) -> None:
            everyone.wait(PATIENCE)
            with contextlib.suppress(RuntimeError):
                while True:
                    accepted.append(pool.submit(int))

        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(beside(submit))
            everyone.wait(PATIENCE)
            pool.shutdown()
        assert [future.result(0) for future in accepted] == [0] * len(accepted)
        assert states.all_gone()


# Breakage


@pytest.mark.parametrize("cancelled", [0, 1, 2], ids=["first", "middle", "last"])
@pytest.mark.parametrize("backlog", [None, 3])
def test_a_cancelled_task_does_not_disturb_breakage(
    cancelled: int, backlog: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other task gets an error of its own with the initializer's as its cause; the standard library hangs."""
    go_on = threading.Event()
    error = Failure("no state")

    def make() -> None:
        assert go_on.wait(PATIENCE)
        raise error

    with StatefulThreadPoolExecutor(1, initializer=make, max_backlog=backlog) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        assert futures[cancelled].cancel()
        go_on.set()
        broken = [future.exception(PATIENCE) for index, future in enumerate(futures) if index != cancelled]
        with pytest.raises(BrokenThreadPool) as caught:
            pool.submit(int)
    errors = [*broken, caught.value]
    assert len({id(one) for one in errors}) == 3
    for one in errors:
        assert isinstance(one, BrokenThreadPool)
        assert one.__cause__ is error
    assert futures[cancelled].cancelled()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_breakage_wakes_blocked_submits() -> None:
    """A submit that waits for a place in a pool that breaks raises `BrokenThreadPool`."""
    go_on, errors = threading.Event(), []

    def make() -> None:
        assert go_on.wait(PATIENCE)
        raise Failure

    def submit() -> None:
        with pytest.raises(BrokenThreadPool) as caught:
            pool.submit(int)
        errors.append(caught.value)

    with StatefulThreadPoolExecutor(1, initializer=make, max_backlog=1) as pool:
        first = pool.submit(int)
        with beside(submit), beside(submit):
            until(lambda: len(inside(pool).waiters) == 2)
            go_on.set()
        assert isinstance(first.exception(PATIENCE), BrokenThreadPool)
    assert len({id(error) for error in errors}) == 2


# Threads that can't be started


@pytest.mark.parametrize("backlog", [None, 1])
def test_the_first_thread_cannot_be_started(backlog: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submit raises, and leaves no trace: its place is free, and the next one works when threads can start."""
    states = States()
    with monkeypatch.context() as patch, states.pool(2, max_backlog=backlog) as pool:
        shortage = Shortage(patch, "start")
        done: list[int] = []
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(done.append, 1)
        assert pool._work_queue.qsize() == 0
        assert not pool._threads
        shortage.fails = lambda number: False
        assert pool.submit(len, "abc").result(PATIENCE) == 3
        assert [thread.name.rpartition("_")[2] for thread in threads_of(pool)] == ["0"]
    assert done == []
    assert len(states.made) == 1
    assert states.all_gone()


def test_the_next_thread_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The submit succeeds, since there is a worker to run the task sooner or later; more start when they can."""
    states = States()
    with monkeypatch.context() as patch, states.pool(3) as pool:
        shortage = Shortage(patch, "start")
        shortage.fails = lambda number: number > 1
        with Blocked(pool):
            futures = [pool.submit(int) for _ in range(3)]
            assert len(pool._threads) == 1
            assert not any(future.done() for future in futures)
            shortage.fails = lambda number: False
            assert pool.submit(len, "abc").result(PATIENCE) == 3
            assert len(pool._threads) in (2, 3)  # the new one starts another, if it finds more tasks
        assert [future.result(PATIENCE) for future in futures] == [0] * 3
    assert states.all_gone()


@pytest.mark.parametrize("entry_point", ["scope", "map", "view"])
def test_a_entry_point_when_no_thread_can_be_started(entry_point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry point raises, and the scope of a task that was never accepted ends."""
    with monkeypatch.context() as patch, StatefulThreadPoolExecutor(1, initializer=Thing) as pool:
        shortage = Shortage(patch, "start")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ENTRY_POINTS[entry_point](pool, Thing(), Thing())
        shortage.fails = lambda number: False
        assert isinstance(outcome(ENTRY_POINTS[entry_point](pool, Thing(), Thing())), Thing)


def test_three_hundred_workers() -> None:
    """They all run at once, each with its state, and all end."""
    states = States()
    everyone = threading.Barrier(300)
    with states.pool(300) as pool, pool.scope() as scope:
        for _ in range(300):
            scope.submit(everyone.wait, PATIENCE)
    assert len(states.made) == 300
    assert states.all_gone()


# What users' objects may do to a worker


class Awkward:
    """A function whose every special method but the call raises."""

    def __init__(self, result: Any = 1) -> None:
        self.result = result

    def __call__(self, *args: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def _raise(self, *args: Any) -> Any:
        raise LookupError("awkward")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = _raise  # type: ignore[assignment]
    __getattr__ = _raise


@pytest.mark.parametrize("error", [None, Failure(), SystemExit(), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("entry_point", ["pool", "map", "chunked map", "scope"])
def test_awkward_objects(entry_point: str, error: BaseException | None) -> None:
    """A worker looks at nothing of its task's function, arguments, result and error but what it has to."""
    awkward = Awkward(error or Awkward())
    with StatefulThreadPoolExecutor(1) as pool:
        threads = None
        for _ in range(2):
            try:
                match entry_point:
                    case "pool":
                        result = pool.submit(awkward, awkward).result(PATIENCE)
                    case "scope":
                        with pool.scope() as scope:
                            future = scope.submit(awkward, awkward)
                            future.exception(PATIENCE)
                        result = future.result()
                    case _:
                        result = next(pool.map(awkward, [awkward], chunksize=2 if entry_point == "chunked map" else 1))
            except BaseException as exc:
                assert exc is error
            else:
                assert result is awkward.result
            assert threads in (None, threads_of(pool))
            threads = threads_of(pool)


@pytest.mark.parametrize("error", [Failure, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("added", ["before", "after"])
def test_raising_callbacks_do_not_end_a_worker(error: type[BaseException], added: str) -> None:
    """The other callbacks are called, and the worker serves the next task."""
    called: list[int] = []

    def callback(future: object) -> None:
        called.append(1)
        raise error

    with StatefulThreadPoolExecutor(1) as pool:
        with Blocked(pool) as blocked:
            future = pool.submit(int)
            for target in (blocked.future, future) if added == "before" else ():
                target.add_done_callback(callback)
                target.add_done_callback(callback)
        threads = threads_of(pool)
        future.result(PATIENCE)
        if added == "after":
            for _ in range(4):
                with contextlib.suppress(error):
                    future.add_done_callback(callback)
        assert pool.submit(len, "abc").result(PATIENCE) == 3
        assert called == [1] * 4
        assert threads_of(pool) == threads


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [Failure, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("part", ["function", "argument", "result", "state"])
def test_raising_destructors_do_not_end_a_worker(part: str, error: type[BaseException]) -> None:
    """What `__del__` raises where the worker lets go of something ends nothing."""
    gone: list[int] = []

    class Mortal(Thing):
        def __del__(self) -> None:
            gone.append(1)
            raise error

    def task(*args: Any) -> Any:
        return Mortal() if part == "result" else None

    def submit(pool: Pool) -> None:
        if part == "function":
            pool.submit(Mortal())
        elif part == "argument":
            pool.submit(task, Mortal())
        elif part == "result":
            pool.submit(task)
        else:
            with pool.scope() as scope:
                scope.with_state(Mortal).submit(task)

    with StatefulThreadPoolExecutor(1) as pool:
        for _ in range(3):
            submit(pool)
            assert pool.submit(len, "abc").result(PATIENCE) == 3
        assert len(pool._threads) == 1
        threads = threads_of(pool)
    join(threads)
    gc.collect()
    assert gone == [1] * 3


@pytest.mark.parametrize("error", [Failure, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("generator", [True, False], ids=["generator", "finalizer"])
def test_raising_teardowns_do_not_end_a_worker(
    generator: bool, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A scope raises what its teardown raised; the other states are torn down, and the worker goes on."""
    states = States()

    def yields() -> Iterator[int]:
        yield 1
        raise error

    def fails(state: object) -> None:
        raise error

    with states.pool() as pool:
        for _ in range(2):
            with pytest.raises(BaseExceptionGroup) as caught, pool.scope() as scope:
                if generator:
                    view = scope.with_state(yields)
                else:
                    view = scope.with_state(int, finalizer=fails)  # type: ignore[assignment]
                view.submit(abs).result(PATIENCE)
            assert [type(one) for one in caught.value.exceptions] == [error]
            assert pool.submit(len, "abc").result(PATIENCE) == 3
        assert len(pool._threads) == 1
    assert states.all_gone()
    assert len(caplog.records) == 2


def test_shutdown_with_a_timeout_longer_than_any() -> None:
    pool = StatefulThreadPoolExecutor(1)
    assert pool.submit(int).result() == 0
    pool.shutdown(timeout=1e10)


def test_shutdown_by_a_destructor_as_a_worker_ends() -> None:
    """What a task leaves in its thread's context dies with that, after the worker's last step: it can't wait for it."""

    class Last:
        def __del__(self) -> None:
            try:
                pool.shutdown()
            except RuntimeError as error:
                errors.append(error)

    errors: list[RuntimeError] = []
    variable: ContextVar[Last] = ContextVar("variable")
    pool = StatefulThreadPoolExecutor(1)
    assert pool.submit(lambda: bool(variable.set(Last()))).result()
    pool.shutdown()
    until(lambda: errors)
