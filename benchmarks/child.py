"""What has to be measured in a process of its own, since it has one peak of memory and imports a module once."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from threading import Event, Semaphore
from time import perf_counter

from executors import ADAPTERS, VARIANTS, Adapter, Make
from race import BYTES, GROWTH, OURS, SIZE, TIME, Figure, Figures

WARM_UP = 5_000  # several times what is queued at most
START, SHUTDOWN, EACH = Figure("start"), Figure("shutdown"), Figure("memory each", SIZE)
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def stream(make: Make, tasks: int) -> Figures:
    return _streamed(make(4), lambda adapter, tasks: adapter.stream(tasks), tasks)


def stream_in_order(make: Make, tasks: int) -> Figures:
    return _streamed(make(4), lambda adapter, tasks: deque(adapter.stream_in_order(range(tasks)), maxlen=0), tasks)


def _streamed(adapter: Adapter, work: Callable[[Adapter, int], object], tasks: int) -> Figures:
    work(adapter, WARM_UP)
    before, start = _peak(), perf_counter()
    work(adapter, tasks)
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
    with adapter.entry_point() as entry_point:
        handles = [entry_point.submit(sleep) for _ in range(workers)]
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


def queued(args: tuple[object, ...], make: Make, tasks: int) -> Figures:
    """Bytes of a task that a pool's only worker is too busy for. The caller's own list of handles doesn't count."""
    with closing(make(1)) as adapter, adapter.entry_point() as entry_point:
        blocked, go = Event(), Event()

        def block(state: object = None) -> None:
            blocked.set()
            go.wait()

        handles = [entry_point.submit(block), *[None] * tasks]
        blocked.wait()
        call = (anything, args) if adapter.args_in_tuple else (anything, *args)
        gc.collect()
        tracemalloc.start()
        for number in range(1, tasks + 1):
            handles[number] = entry_point.submit(*call)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        go.set()
        for handle in handles:
            adapter.result(handle)
    return {BYTES: size / tasks}


def anything(*args: object) -> None:
    pass


WORK: dict[str, Callable[[Make, int], Figures]] = {
    "stream": stream,
    "stream in order": stream_in_order,
    "crowd": crowd,
    "no arguments": partial(queued, ()),
    "two arguments": partial(queued, ("one", "two")),
}
FIGURES = {str(figure): figure for figure in (TIME, BYTES, GROWTH, START, SHUTDOWN, EACH)}


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
    """In bytes. Linux counts that of the parent in `ru_maxrss`, so what it says elsewhere is used. Not on Windows."""
    if platform.system() == "Linux":
        with open("/proc/self/status") as status:
            (line,) = (line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    work, who, variant, number = sys.argv[1:]
    make = VARIANTS[variant] if who == OURS else ADAPTERS[who]
    print(json.dumps({str(figure): amount for figure, amount in WORK[work](make, int(number)).items()}))
