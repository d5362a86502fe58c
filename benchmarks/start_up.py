"""What does a pool cost that runs one task, and what does importing the package cost?"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from _paired import arguments, compare, finish, micros, noop, seconds

from stateful_executor import StatefulThreadPoolExecutor

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def short_lives(pool_class: type[ThreadPoolExecutor], pools: int) -> None:
    for _ in range(pools):
        with pool_class(4) as pool:
            pool.submit(noop).result()


def import_seconds(module: str) -> float:
    """In a fresh process, from the first look for the module to its last line."""
    child = subprocess.run([sys.executable, "-c", IMPORT.format(module)], capture_output=True, check=True)
    return float(child.stdout)


def main() -> None:
    options = arguments(__doc__, rounds=25, tasks=200)
    compare(
        "constructor, one task, shutdown",
        partial(seconds, partial(short_lives, StatefulThreadPoolExecutor, options.tasks)),
        partial(seconds, partial(short_lives, ThreadPoolExecutor, options.tasks)),
        rounds=options.rounds,
        bar=None,
        each=micros(options.tasks),
    )
    compare(
        "import",
        partial(import_seconds, "stateful_executor"),
        partial(import_seconds, "concurrent.futures.thread"),
        rounds=options.rounds,
        bar=None,
        each=lambda duration: f"{duration * 1e3:.1f} ms",
    )
    finish(options)


if __name__ == "__main__":
    main()
