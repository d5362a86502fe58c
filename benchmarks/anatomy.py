"""Where does the time of a task go? All of it in one thread, so that nothing but the work is timed.

First what is called for a task that does nothing, from `submit` to `result`: functions in Python, and in C. None of
those in C is a lock's: each is one atomic step on a list, deque or dict. Then how long each part takes, in nanoseconds.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from time import perf_counter
from types import FrameType
from typing import Any

from _paired import noop, noop_with

from stateful_executor import StatefulThreadPoolExecutor
from stateful_executor._future import new_task
from stateful_executor._worker import Worker

ENTRY_POINTS = ("plain", "state", "backlog", "scope", "state, backlog and scope")

EntryPoint = tuple[Worker, Callable[..., Future[Any]], Callable[..., None]]


@contextmanager
def opened(name: str, tasks: int) -> Iterator[EntryPoint]:
    """A pool whose only worker is busy, a worker without a thread, what to submit with, and what to submit."""
    go_on, begun = threading.Event(), threading.Event()
    bound = tasks + 1 if "backlog" in name else None
    with StatefulThreadPoolExecutor(1, initializer=object, max_backlog=bound) as pool:
        pool.submit(lambda: begun.set() or go_on.wait())  # type: ignore[func-returns-value]
        begun.wait()
        worker = Worker(pool._registry, pool._own)
        with pool.scope() if "scope" in name else nullcontext(pool) as entry_point:
            try:
                if "state" in name:
                    yield worker, entry_point.with_state().submit, noop_with
                else:
                    yield worker, entry_point.submit, noop
            finally:
                go_on.set()
        worker.states.tear_down(pool._own)  # type: ignore[arg-type]  # there is an initializer


def run(worker: Worker) -> None:
    """What has been submitted."""
    worker.run()
    forget_idle(worker)


def forget_idle(worker: Worker) -> None:
    """It has listed itself as idle, and is to run more."""
    worker.registry.idle.workers.clear()
    worker.listed_idle = False


def calls(entry_point: EntryPoint, tasks: int) -> Counter[str]:
    """How many times each function is called, for one task."""
    worker, submit, fn = entry_point
    counted: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            counted[f"{frame.f_code.co_name}()"] += 1
        elif event == "c_call" and hasattr(arg, "__self__"):
            counted[f"{type(arg.__self__).__name__}.{arg.__name__}"] += 1

    sys.setprofile(profile)
    try:
        futures = tuple(submit(fn) for _ in range(tasks))
        worker.run()
        for future in futures:
            future.result()
    finally:
        sys.setprofile(None)
    forget_idle(worker)
    del counted["<genexpr>()"]
    return Counter({name: round(number / tasks) for name, number in counted.items() if number >= tasks})


def parts(entry_point: EntryPoint, tasks: int) -> list[float]:
    """Nanoseconds of one task: submit, run, result, and to let go of the future."""
    worker, submit, fn = entry_point
    gc.collect()
    times = [perf_counter()]
    futures = [submit(fn) for _ in range(tasks)]
    times.append(perf_counter())
    run(worker)
    times.append(perf_counter())
    for future in futures:
        future.result()
    times.append(perf_counter())
    del future
    futures.clear()
    times.append(perf_counter())
    return [(after - before) / tasks * 1e9 for before, after in pairwise(times)]


def made(entry_point: EntryPoint, tasks: int) -> float:
    """Nanoseconds to make a future and its call, with the collector off."""
    registry = entry_point[0].registry
    start = perf_counter()
    futures = [new_task(registry, noop, (), {}, None) for _ in range(tasks)]
    duration = perf_counter() - start
    futures.clear()
    return duration / tasks * 1e9


@contextmanager
def without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="of which the median is shown (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=10_000, help="in a round (default %(default)s)")
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {options.tasks:,} tasks at once")
    for name in ENTRY_POINTS:
        with opened(name, options.tasks) as entry_point:
            parts(entry_point, 100)
            counted = calls(entry_point, 100)
            print(f"\n{name}")
            print("  calls  ", ", ".join(f"{number:g} {called}" for called, number in counted.items()))
            rounds = [parts(entry_point, options.tasks) for _ in range(options.rounds)]
            figures = [statistics.median(part) for part in zip(*rounds, strict=True)]
            names = ("submit", "run", "result", "let go")
            shown = ", ".join(f"{part} {figure:.0f}" for part, figure in zip(names, figures, strict=True))
            print(f"  time    {shown}; in all {sum(figures):.0f}")
            with without_collector():
                submits = statistics.median(parts(entry_point, options.tasks)[0] for _ in range(options.rounds))
                making = statistics.median(made(entry_point, options.tasks) for _ in range(options.rounds))
            print(f"          of submit: the collector {figures[0] - submits:.0f}, to make the future {making:.0f}")


if __name__ == "__main__":
    main()
