"""Work for the processor, on threads, on processes, and on a Python without the GIL: one program.

Each worker compiles a scanner, its state, and counts with it what the standard library's source is made of. A compiled
pattern is best kept where it was made: to send one means to compile it again, for each task.

    python many_cores.py [--limit FILES] [--workers NUMBER]

With the GIL, threads take as long as one worker does, and processes use the cores. Without it (3.13t and later, looked
for on this machine) threads use them as well, and nothing need be pickled.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from concurrent.futures import Executor
from pathlib import Path
from time import perf_counter
from typing import Any

import stateful_executor
from stateful_executor import StatefulProcessPoolExecutor, StatefulThreadPoolExecutor

STDLIB = Path(sysconfig.get_paths()["stdlib"])
FREE_THREADED = ("python3.15t", "python3.14t", "python3.13t")

TOKENS = {
    "comment": r"#[^\n]*",
    "docstring": r'"""(?:[^\\]|\\.)*?"""',
    "string": r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'",
    "number": r"\b\d[\w.]*",
    "name": r"\b[A-Za-z_]\w*",
}

Scanner = re.Pattern[str]


def compile_scanner() -> Scanner:
    """Make a worker's state."""
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in TOKENS.items()), re.DOTALL)


def count_tokens(scanner: Scanner, path: Path) -> Counter[str]:
    """A task: pure computing, but for the reading of one file."""
    with tokenize.open(path) as file:
        return Counter(found.lastgroup or "" for found in scanner.finditer(file.read()))


def source_files() -> list[Path]:
    """The library's own, but for its tests, some of which are wrong on purpose."""
    left_out = {"site-packages", "test", "tests", "lib2to3", "idlelib"}
    return sorted(path for path in STDLIB.rglob("*.py") if not left_out.intersection(path.parts))


def measure(name: str, kind: type[Any], workers: int, files: list[Path]) -> Counter[str]:
    with kind(workers, initializer=compile_scanner) as pool:
        assert isinstance(pool, Executor)
        scan = pool.with_state()
        list(scan.map(count_tokens, files[:workers]))  # its workers are there
        start = perf_counter()
        total: Counter[str] = sum(scan.map(count_tokens, files, chunksize=8), Counter())
        print(f"{name:<36}{perf_counter() - start:6.2f} s", flush=True)
    return total


def on_free_threads(python: str) -> None:
    """The same program there, whose output is one line more."""
    environment = os.environ | {"PYTHONPATH": str(Path(stateful_executor.__file__).parents[1])}
    subprocess.run([python, __file__, "--only-threads", *sys.argv[1:]], env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the tokens of the standard library on every core.")
    parser.add_argument("--limit", type=int, metavar="FILES", help="at most so many files")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="as many as there are CPUs by default")
    parser.add_argument("--only-threads", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    files, workers = source_files()[: options.limit], options.workers

    if options.only_threads:
        measure(f"{workers} threads, without the GIL", StatefulThreadPoolExecutor, workers, files)
        return
    total = measure("1 thread", StatefulThreadPoolExecutor, 1, files)
    assert total == measure(f"{workers} threads", StatefulThreadPoolExecutor, workers, files)
    assert total == measure(f"{workers} processes", StatefulProcessPoolExecutor, workers, files)
    python = next(filter(None, map(shutil.which, FREE_THREADED)), None)
    if python is None:
        print(f"{'without the GIL':<36}no Python for it here")
    else:
        on_free_threads(python)
    print(f"\n{len(files)} files:", ", ".join(f"{total[name]:,} {name}s" for name in TOKENS))


if __name__ == "__main__":  # worker processes import this module
    main()
