"""Does an endless stream of tasks through one scope with a bounded backlog take more memory as it goes on?

Theirs is what people write: a ThreadPoolExecutor with a semaphore around it, and a tenth of the tasks.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from _paired import arguments, finish, micros, noop, report, verdict_below

from stateful_executor import StatefulThreadPoolExecutor

WORKERS = 4
MAX_BACKLOG = 1000
WARM_UP = 20_000
BAR = 5.0  # MB

Result = tuple[float, float]  # seconds per task, MB by which the peak has grown


def measured(submit_one: Callable[[], object], tasks: int) -> Result:
    for _ in range(WARM_UP):
        submit_one()
    before, start = _peak(), time.perf_counter()
    for _ in range(tasks):
        submit_one()
    return (time.perf_counter() - start) / tasks, _peak() - before


def ours(tasks: int) -> Result:
    with StatefulThreadPoolExecutor(WORKERS, max_backlog=MAX_BACKLOG) as pool, pool.scope() as scope:
        return measured(lambda: scope.submit(noop), tasks)


def theirs(tasks: int) -> Result:
    places = BoundedSemaphore(WORKERS + MAX_BACKLOG)

    def submit_one() -> None:
        places.acquire()
        pool.submit(noop).add_done_callback(lambda _: places.release())

    with ThreadPoolExecutor(WORKERS) as pool:
        return measured(submit_one, tasks)


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def in_child(who: str, tasks: int) -> Result:
    """In a fresh process, whose peak is only its own."""
    child = subprocess.run([sys.executable, __file__, "--child", who, str(tasks)], capture_output=True, check=True)
    seconds, growth = json.loads(child.stdout)
    return seconds, growth


def main() -> None:
    options = arguments(__doc__, rounds=3, tasks=1_000_000)
    rounds = [(in_child("ours", options.tasks), in_child("theirs", options.tasks // 10)) for _ in range(options.rounds)]
    mine, others = zip(*rounds, strict=True)
    report("time per task", [r[0] for r in mine], [r[0] for r in others], bar=None, each=micros(1))
    growth = max(r[1] for r in mine)
    print(f"growth of peak memory, the worst round: {growth:.1f} MB", end="  ")
    print(verdict_below("growth of peak memory", BAR, growth, "MB"))
    finish(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[2]](int(sys.argv[3]))))
    else:
        main()
