"""How long from submit to begin, when tasks of a millisecond come as if from outside, at a rate that is given?"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import repeat
from multiprocessing.pool import ThreadPool
from time import perf_counter

from executors import Adapter
from race import DURATION, Figure, Figures

TASK = 0.001
P50, P99, P999 = Figure("p50"), Figure("p99"), Figure("p99.9")
LATE = Figure("submits late, p99", DURATION, absolute=True)


def task_seconds(workers: int) -> float:
    """How long a task really takes, when as many as there are workers sleep at once."""

    def measured(_: object) -> float:
        start = perf_counter()
        time.sleep(TASK)
        return perf_counter() - start

    with ThreadPool(workers) as pool:
        return statistics.median(pool.map(measured, repeat(None, 100 * workers), chunksize=100))


def under_load(adapter: Adapter, rate: float, tasks: int) -> Figures:
    """An open loop: each task has its due time, whatever became of the ones before. Latency counts from its submit."""
    waited, late = [0.0] * tasks, [0.0] * tasks

    def task(number: int, submitted: float, state: object = None) -> None:
        waited[number] = perf_counter() - submitted
        time.sleep(TASK)

    with adapter.entry_point() as entry_point:
        submit, start = entry_point.submit, perf_counter() + 0.01
        handles = []
        for number in range(tasks):
            due = start + number / rate
            while (early := due - perf_counter()) > 0:
                time.sleep(early)
            now = perf_counter()
            late[number] = now - due
            handles.append(submit(partial(task, number, now)))
        for handle in handles:
            adapter.result(handle)
    return {
        P50: percentile(waited, 50),
        P99: percentile(waited, 99),
        P999: percentile(waited, 99.9),
        LATE: percentile(late, 99),
    }


def percentile(figures: list[float], percent: float) -> float:
    return sorted(figures)[min(int(len(figures) * percent / 100), len(figures) - 1)]
