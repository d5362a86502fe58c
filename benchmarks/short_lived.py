"""Pools that live for one `with` block, the commonest there are; many workers and many pools; the import."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from tempfile import TemporaryDirectory
from threading import Event, Semaphore, Thread
from typing import Any

from _paired import noop, noop_with, seconds
from race import OURS, STDLIB, TIME, Bar, Entry, Figures, Race

from stateful_executor import StatefulThreadPoolExecutor

LIVES, MOMENT = 20, 0.02
POOLS: dict[str, Callable[[int], Executor]] = {STDLIB: ThreadPoolExecutor, OURS: StatefulThreadPoolExecutor}
IMPORTS = {
    STDLIB: ("time", "concurrent.futures.thread"),
    OURS: ("time, concurrent.futures.thread", "stateful_executor"),
}
IMPORT = "import {}; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"

Work = Callable[[Callable[[int], Executor]], object]


def lives(live: Callable[[], object]) -> Figures:
    """The time of one, of as many as fit into a moment."""
    gc.collect()
    start, lived = time.perf_counter(), 0
    while lived < LIVES and time.perf_counter() - start < MOMENT:
        live()
        lived += 1
    return {TIME: (time.perf_counter() - start) / lived}


def mapped(fn: Callable[[int], object], items: int, workers: int) -> Work:
    def work(make: Callable[[int], Executor]) -> None:
        with make(workers) as pool:
            deque(pool.map(fn, range(items)), maxlen=0)

    return work


def sleep(_: object) -> None:
    time.sleep(0.001)


# What is done, and how many times as fast as the standard library it is to be.
SHORT: dict[str, tuple[Work, float]] = {
    "one no-op, 4 workers": (mapped(noop_with, 1, 4), 1),
    "10 no-ops, 4 workers": (mapped(noop_with, 10, 4), 2),
    "100 no-ops, 32 workers": (mapped(noop_with, 100, 32), 6),
    "10 of 1 ms, 10 workers": (mapped(sleep, 10, 10), 1),
    "100 of 1 ms, 32 workers": (mapped(sleep, 100, 32), 1.05),
    "1,000 no-ops, 8 workers": (mapped(noop_with, 1_000, 8), 4),
}
ELSEWHERE = "one no-op, 4 workers"  # measured in another thread as well, which no signal's handler interrupts


def short_lived() -> Race:
    entries = []
    for row, (work, bar) in SHORT.items():
        entries += _entries(row, lambda who, work=work: lives(partial(work, POOLS[who])), bar)  # type: ignore[misc]
        if row == ELSEWHERE:
            entries += _entries("the same in another thread", partial(_elsewhere, work), bar)
    title = "with Pool(n) as pool: list(pool.map(fn, items))"
    return Race("short", title, entries, effort=6, own_baselines=True)


def many(workers: int) -> Race:
    entries = [
        *_entries(f"{workers:,} workers, start to end", partial(_crowd, workers), 1),
        *_entries(f"{workers:,} pools of one worker", partial(_pools, workers), 1),
        *_entries("import, ours without stdlib's", _import, 1 / 0.6),
    ]
    return Race("short", "many workers, many pools, import", entries, own_baselines=True)


def _entries(row: str, measure: Callable[[str], Figures], bar: float) -> Iterator[Entry]:
    for who in STDLIB, OURS:
        yield Entry(row, who, partial(measure, who), (Bar(bar),) if who == OURS else ())


def _elsewhere(work: Work, who: str) -> Figures:
    figures: list[Figures] = []
    thread = Thread(target=lambda: figures.append(lives(partial(work, POOLS[who]))))
    thread.start()
    thread.join()
    return figures[0]


def _crowd(workers: int, who: str) -> Figures:
    """As many tasks as workers, none of which ends before the last one has begun."""

    def work() -> None:
        begun, go = Semaphore(0), Event()

        def task() -> None:
            begun.release()
            go.wait()

        with POOLS[who](workers) as pool:
            for _ in range(workers):
                pool.submit(task)
            for _ in range(workers):
                begun.acquire()
            go.set()

    return {TIME: seconds(work)}


def _pools(number: int, who: str) -> Figures:
    """All there at once."""

    def work() -> None:
        with ExitStack() as stack:
            futures = [stack.enter_context(POOLS[who](1)).submit(noop) for _ in range(number)]
            for future in futures:
                future.result()

    return {TIME: seconds(work)}


@cache
def _bytecode() -> Any:
    return TemporaryDirectory()


def _import(who: str) -> Figures:
    """In a fresh process, from the first look for the module to its last line; compiled the first time only."""
    env = os.environ | {"PYTHONPYCACHEPREFIX": _bytecode().name, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", IMPORT.format(*IMPORTS[who])]
    return {TIME: float(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)}
