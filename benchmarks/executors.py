"""The executors that are compared, each used as its own documentation says, behind the same few names."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module, metadata
from operator import methodcaller
from queue import SimpleQueue
from threading import Barrier, BoundedSemaphore, Thread
from typing import Any, ClassVar

from _paired import MAX_BACKLOG, Submit, burst, noop, noop_with, noop_with_two
from race import FLOOR, OURS, STDLIB

INNER = 100  # tasks that a task of a fan-out submits


class Adapter:
    """An executor, open. A pool's own `submit` and `map` are called directly where their signatures allow it."""

    name: ClassVar[str]
    module: ClassVar[str]  # what a program imports
    distribution: ClassVar[str | None] = None  # None: no package of others
    share: ClassVar[float] = 1  # of the tasks of a round, for the slow: only the time of one task is compared
    least_workers: ClassVar[int] = 1
    cannot: ClassVar[frozenset[str]] = frozenset()  # questions that it has no answer to
    args_in_tuple: ClassVar[bool] = False  # submit(fn, (1, 2))

    submit: Submit
    close: Callable[[], object]
    result: Callable[[Any], Any] = staticmethod(methodcaller("result"))
    noop: Callable[..., object] = staticmethod(noop)

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    @contextmanager
    def entry_point(self) -> Iterator[Any]:
        """What tasks go through: it has a `submit`, at least."""
        yield self

    def start(self, workers: int) -> None:
        """Have all of its threads run, by as many tasks that wait for each other."""
        together = Barrier(workers)
        for handle in [self.submit(together.wait) for _ in range(workers)]:
            self.result(handle)

    def burst(self, tasks: int) -> None:
        with self.entry_point() as entry_point:
            burst(entry_point.submit, self.noop, tasks, self.result)

    def round_trips(self, tasks: int) -> None:
        with self.entry_point() as entry_point:
            submit, result, fn = entry_point.submit, self.result, self.noop
            for _ in range(tasks):
                result(submit(fn))

    def fan_out(self, tasks: int) -> None:
        """Tasks that submit tasks, whose results are taken outside."""
        with self.entry_point() as entry_point:
            submit, result, fn = entry_point.submit, self.result, self.noop
            outer = [submit(lambda *_: [submit(fn) for _ in range(INNER)]) for _ in range(max(tasks // INNER, 1))]
            for handle in outer:
                for inner in result(handle):
                    result(inner)

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        raise NotImplementedError

    def stream(self, tasks: int) -> None:
        """As many tasks as can be with bounded memory, results dropped."""
        raise NotImplementedError

    def stream_in_order(self, items: range) -> Iterable[object]:
        """The same with each result in the order of the items."""
        raise NotImplementedError


class Stdlib(Adapter):
    name = STDLIB
    module = "concurrent.futures.thread"
    cannot = frozenset() if sys.version_info >= (3, 14) else frozenset({"stream in order"})

    def __init__(self, workers: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(workers)
        self.submit = self.pool.submit
        self.close = self.pool.shutdown
        self.workers = workers

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        return self.pool.map(noop_with, items, chunksize=chunksize)

    def stream(self, tasks: int) -> None:
        """What people write: a semaphore around it."""
        places = BoundedSemaphore(self.workers + MAX_BACKLOG)
        for _ in range(tasks):
            places.acquire()
            self.submit(noop).add_done_callback(lambda _: places.release())
        for _ in range(self.workers + MAX_BACKLOG):
            places.acquire()

    def stream_in_order(self, items: range) -> Iterable[object]:
        options: Any = {"buffersize": MAX_BACKLOG}  # from 3.14 on
        return self.pool.map(noop_with, items, **options)


class Ours(Adapter):
    name = OURS
    module = "stateful_executor"

    def __init__(
        self,
        workers: int,
        *,
        state: bool = False,
        scope: bool | dict[str, Any] = False,
        bound: bool = False,
        **options: Any,
    ) -> None:
        from stateful_executor import StatefulThreadPoolExecutor

        if state or bound:
            options["initializer"] = object
        self.pool = StatefulThreadPoolExecutor[object](workers, **options)
        self.submit = self.pool.submit
        self.close = self.pool.shutdown
        self.state, self.scope = state, scope
        if state:
            self.noop = noop_with
        if bound:
            self.noop = self.pool.with_state().bind(noop_with)

    @contextmanager
    def entry_point(self) -> Iterator[Any]:
        if self.scope is False:
            yield self._stateful(self.pool)
        else:
            with self.pool.scope(**({} if self.scope is True else self.scope)) as scope:
                yield self._stateful(scope)

    def _stateful(self, entry_point: Any) -> Any:
        return entry_point.with_state() if self.state else entry_point

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        """Asks for all results, since a scope's come inside its block."""
        with self.entry_point() as entry_point:
            deque(entry_point.map(noop_with_two if self.state else noop_with, items, chunksize=chunksize), maxlen=0)
        return ()

    def stream(self, tasks: int) -> None:
        with self.entry_point() as entry_point:
            submit, fn = entry_point.submit, self.noop
            for _ in range(tasks):
                submit(fn)

    def stream_in_order(self, items: range) -> Iterable[object]:
        return self.pool.map(noop_with, items, buffersize=MAX_BACKLOG)


class Unordered(Ours):
    def burst(self, tasks: int) -> None:
        deque(self.pool.map_unordered(noop_with, range(tasks)), maxlen=0)


class MultiprocessingThreadPool(Adapter):
    name = "mp.pool"
    module = "multiprocessing.pool"
    cannot = frozenset({"stream"})
    args_in_tuple = True
    result = staticmethod(methodcaller("get"))

    def __init__(self, workers: int) -> None:
        from multiprocessing.pool import ThreadPool

        self.pool = ThreadPool(workers)
        self.submit = self.pool.apply_async

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        return self.pool.map(noop_with, items, chunksize)

    def stream_in_order(self, items: range) -> Iterable[object]:
        return self.pool.imap(noop_with, items)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Pebble(Adapter):
    name = "pebble"
    module = "pebble"
    distribution = "Pebble"
    cannot = frozenset({"stream", "stream in order"})
    args_in_tuple = True

    def __init__(self, workers: int) -> None:
        self.pool: Any = import_module("pebble").ThreadPool(max_workers=workers)
        self.submit = self.pool.schedule

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        results: Iterable[object] = self.pool.map(noop_with, items, chunksize=chunksize).result()
        return results

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Mpire(Adapter):
    name = "mpire"
    module = "mpire"
    distribution = "mpire"
    share = 0.1
    # A task takes two steps of its queue, with no lock around them: only one thread may submit. Tasks are pickled, also
    # for threads: none can refer to an event or a list outside.
    cannot = frozenset({"producers", "fan-out", "stream", "memory", "crowd"})
    args_in_tuple = True
    result = staticmethod(methodcaller("get"))

    def __init__(self, workers: int) -> None:
        self.pool: Any = import_module("mpire").WorkerPool(workers, start_method="threading", keep_alive=True)
        self.submit = self.pool.apply_async

    def start(self, workers: int) -> None:
        self.burst(workers)  # the first task starts them all

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        results: Iterable[object] = self.pool.map(noop_with, items, chunk_size=chunksize)
        return results

    def stream_in_order(self, items: range) -> Iterable[object]:
        results: Iterable[object] = self.pool.imap(noop_with, items, chunk_size=1, max_tasks_active=MAX_BACKLOG)
        return results

    def close(self) -> None:
        self.pool.stop_and_join()
        self.pool.terminate()


class Joblib(Adapter):
    name = "joblib"
    module = "joblib"
    distribution = "joblib"
    least_workers = 2  # with one, it runs all in the caller
    # It has no `submit`: one call runs all of its tasks.
    cannot = frozenset({"round-trip", "producers", "fan-out", "memory", "crowd", "stream"})

    def __init__(self, workers: int) -> None:
        joblib: Any = import_module("joblib")
        self.delayed = joblib.delayed
        self.parallel = partial(joblib.Parallel, workers, backend="threading")
        self.pool = self.parallel().__enter__()

    def start(self, workers: int) -> None:
        self.burst(workers)  # the first call starts them all

    def burst(self, tasks: int) -> None:
        self.pool(self.delayed(noop)() for _ in range(tasks))

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        results: Iterable[object] = self.parallel(batch_size=chunksize)(self.delayed(noop_with)(item) for item in items)
        return results

    def stream_in_order(self, items: range) -> Iterable[object]:
        parallel = self.parallel(return_as="generator", pre_dispatch=MAX_BACKLOG)
        results: Iterable[object] = parallel(self.delayed(noop_with)(item) for item in items)
        return results

    def close(self) -> None:
        self.pool.__exit__(None, None, None)


class Bounded(Adapter):
    """Executors whose submit blocks at their bound, and that are `concurrent.futures` executors otherwise."""

    pool: Any

    def _use(self, pool: Any) -> None:
        self.pool, self.submit, self.close = pool, pool.submit, pool.shutdown

    def map(self, items: Sequence[int], chunksize: int) -> Iterable[object]:
        results: Iterable[object] = self.pool.map(noop_with, items, chunksize=chunksize)
        return results

    def stream(self, tasks: int) -> None:
        submit = self.submit
        for _ in range(tasks):
            submit(noop)


class MoreExecutors(Bounded):
    name = "more-ex"
    module = "more_executors"
    distribution = "more-executors"
    share = 0.1
    cannot = frozenset({"stream in order"})

    def __init__(self, workers: int) -> None:
        executors: Any = import_module("more_executors").Executors
        self._use(executors.thread_pool(max_workers=workers).with_throttle(count=MAX_BACKLOG, block=True))


class BoundedPoolExecutor(Bounded):
    name = "bounded"
    module = "bounded_pool_executor"
    distribution = "bounded-pool-executor"
    # No more tasks than workers: none waits in a queue, and a task that submits may wait for its own place for ever.
    cannot = frozenset({"fan-out", "memory", "stream in order"})

    def __init__(self, workers: int) -> None:
        self._use(import_module("bounded_pool_executor").BoundedThreadPoolExecutor(max_workers=workers))


def serve(calls: SimpleQueue[Callable[[], object] | None], results: SimpleQueue[object]) -> None:
    while (call := calls.get()) is not None:
        results.put(call())


class Floor(Adapter):
    """No executor: plain threads take calls from one queue, and put what they return into another. No futures."""

    name = FLOOR
    module = "queue"
    cannot = frozenset({"map", "stream", "stream in order"})

    def __init__(self, workers: int) -> None:
        self.calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.results: SimpleQueue[object] = SimpleQueue()
        self.threads = [Thread(target=serve, args=(self.calls, self.results)) for _ in range(workers)]
        for thread in self.threads:
            thread.start()
        self.submit = self.calls.put
        self.result = lambda _: self.results.get()

    def burst(self, tasks: int) -> None:
        put, get = self.calls.put, self.results.get
        for _ in range(tasks):
            put(noop)
        for _ in range(tasks):
            get()

    def fan_out(self, tasks: int) -> None:
        put, get, outer = self.calls.put, self.results.get, max(tasks // INNER, 1)
        for _ in range(outer):
            put(lambda: [put(noop) for _ in range(INNER)])
        for _ in range(outer * (INNER + 1)):
            get()

    def close(self) -> None:
        for _ in self.threads:
            self.calls.put(None)
        for thread in self.threads:
            thread.join()


def _governed() -> dict[str, Any]:
    from stateful_executor import StatePolicy

    policy = StatePolicy[object](check=noop_with, reset=noop_with, discard_on=OSError, max_tasks=10**9, max_age=10**6)
    return {"state": True, "policy": policy}


Make = Callable[[int], Adapter]
BACKLOG: dict[str, Any] = {"max_backlog": MAX_BACKLOG}
THREE: dict[str, Any] = {"state": True, "scope": True, **BACKLOG}

PLAIN = "plain"
ALL_THREE = "state, backlog, scope"
VARIANTS: dict[str, Make] = {
    PLAIN: Ours,
    "state": partial(Ours, state=True),
    "backlog": partial(Ours, **BACKLOG),
    "scope": partial(Ours, scope=True),
    "copy_context": partial(Ours, copy_context=True),
    ALL_THREE: partial(Ours, **THREE),
    "these three, copy_context": partial(Ours, copy_context=True, **THREE),
    "scope and backlog": partial(Ours, scope=True, **BACKLOG),
}
OPTIONS: dict[str, Make] = {
    "policy, all of it": lambda workers: Ours(workers, **_governed()),
    "bind": partial(Ours, bound=True),
    "fail_fast and timeout": partial(Ours, scope={"fail_fast": True, "timeout": 60}),
    "idle_timeout": partial(Ours, idle_timeout=60),
    "map_unordered": Unordered,
}
RIVALS: tuple[type[Adapter], ...] = (
    MultiprocessingThreadPool,
    Pebble,
    Mpire,
    Joblib,
    MoreExecutors,
    BoundedPoolExecutor,
    Floor,
)
ADAPTERS: dict[str, type[Adapter]] = {Stdlib.name: Stdlib, Ours.name: Ours} | {rival.name: rival for rival in RIVALS}


def version(adapter: type[Adapter]) -> str | None:
    """Of its package; None where that is missing."""
    try:
        return metadata.version(adapter.distribution or "")
    except (metadata.PackageNotFoundError, ValueError):
        return None


def missing() -> list[str]:
    return [rival.distribution for rival in RIVALS if rival.distribution and version(rival) is None]


def rivals(question: str, workers: int = 4) -> list[type[Adapter]]:
    """Those that are installed and can do it."""
    return [
        rival
        for rival in RIVALS
        if question not in rival.cannot
        and workers >= rival.least_workers
        and not (rival.distribution and version(rival) is None)
    ]
