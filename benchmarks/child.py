"""What has to be measured in a process of its own, since it has one peak of memory and imports a module once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from itertools import islice
from threading import Event, Semaphore
from time import perf_counter

from executors import ADAPTERS, VARIANTS, Make
from race import GROWTH, OURS, SIZE, TIME, Figure, Figures

WARM_UP = 20_000
START, SHUTDOWN, EACH = Figure("start"), Figure("shutdown"), Figure("memory for each", SIZE)
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def stream(make: Make, tasks: int) -> Figures:
    adapter = make(4)
    adapter.stream(min(tasks, WARM_UP))
    before, start = _peak(), perf_counter()
    adapter.stream(tasks)
    figures = {TIME: (perf_counter() - start) / tasks, GROWTH: _peak() - before}
    adapter.close()
    return figures


def stream_in_order(make: Make, tasks: int) -> Figures:
    adapter = make(4)
    warm_up = min(tasks, WARM_UP)
    results = iter(adapter.stream_in_order(range(warm_up + tasks)))
    deque(islice(results, warm_up), maxlen=0)
    before, start = _peak(), perf_counter()
    deque(results, maxlen=0)
    figures = {TIME: (perf_counter() - start) / tasks, GROWTH: _peak() - before}
    adapter.close()
    return figures


def crowd(make: Make, workers: int) -> Figures:
    """As many tasks as workers, all asleep at once."""
    make(2).close()  # what it imports is not what is measured
    begun, go = Semaphore(0), Event()

    def sleep(state: object = None) -> None:
        begun.release()
        go.wait()

    before, start = _peak(), perf_counter()
    adapter = make(workers)
    with adapter.door() as door:
        handles = [door.submit(sleep) for _ in range(workers)]
        for _ in range(workers):
            begun.acquire()
        started, peak = perf_counter(), _peak()
        go.set()
        for handle in handles:
            adapter.result(handle)
    time.sleep(0.1)  # for each to be idle again
    end = perf_counter()
    adapter.close()
    return {START: started - start, SHUTDOWN: perf_counter() - end, EACH: (peak - before) / workers}


WORK = {"stream": stream, "stream_in_order": stream_in_order, "crowd": crowd}
FIGURES = {figure.name: figure for figure in (TIME, GROWTH, START, SHUTDOWN, EACH)}


def in_child(work: str, who: str, variant: str, number: int) -> Figures:
    """Run one of these in a fresh process."""
    command = [sys.executable, __file__, work, who, variant, str(number)]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {FIGURES[name]: amount for name, amount in json.loads(child.stdout).items()}


def import_seconds(module: str) -> Figures:
    """In a fresh process, from the first look for the module to its last line."""
    child = subprocess.run([sys.executable, "-c", IMPORT.format(module)], stdout=subprocess.PIPE, check=True)
    return {TIME: float(child.stdout)}


def _peak() -> float:
    """In bytes. Not on Windows."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    work, who, variant, number = sys.argv[1:]
    make = VARIANTS[variant] if who == OURS else ADAPTERS[who]
    print(json.dumps({figure.name: amount for figure, amount in WORK[work](make, int(number)).items()}))
