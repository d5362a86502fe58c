"""Does a change cost anything? The burst of an earlier commit and that of the working tree, in turn, in one process."""

from __future__ import annotations

import argparse
import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from _paired import MAX_BACKLOG, WORKERS, burst, compare, micros, noop, noop_with, seconds, workers_of

import stateful_executor

ROOT = Path(__file__).parents[1]


def earlier(commit: str, folder: str) -> Any:
    """The package as it was at `commit`, under another name: its modules import each other relatively."""
    command = ["git", "-C", str(ROOT), "archive", commit, "stateful_executor"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (Path(folder) / "stateful_executor").rename(Path(folder) / "stateful_executor_before")
    sys.path.insert(0, folder)
    return importlib.import_module("stateful_executor_before")


def scoped(pool: Any, stateful: bool, tasks: int) -> None:
    """A burst through a scope, with no arguments that earlier commits may not know."""
    with pool.scope() as scope:
        burst(scope.with_state().submit if stateful else scope.submit, noop_with if stateful else noop, tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="what to compare the working tree with")
    parser.add_argument("--rounds", type=int, default=31, help="pairs of before and after (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks in a round (default %(default)s)")
    options = parser.parse_args()
    tasks = options.tasks
    print("ratio = before / after, median (and quartiles) of the rounds: above 1, the working tree is faster")
    with tempfile.TemporaryDirectory() as folder:
        modules = (stateful_executor, earlier(options.commit, folder))
        for workers in WORKERS:
            with ExitStack() as stack:
                pools, bounded = [], []
                for module in modules:
                    new = partial(module.StatefulThreadPoolExecutor, workers, initializer=object)
                    pools.append(stack.enter_context(new()))
                    bounded.append(stack.enter_context(new(max_backlog=MAX_BACKLOG)))
                for name, rounds in [
                    ("plain", [partial(burst, pool.submit, noop, tasks) for pool in pools]),
                    ("with state", [partial(burst, pool.with_state().submit, noop_with, tasks) for pool in pools]),
                    (f"max_backlog={MAX_BACKLOG}", [partial(burst, pool.submit, noop, tasks) for pool in bounded]),
                    ("scope", [partial(scoped, pool, False, tasks) for pool in pools]),
                    ("state, backlog and scope", [partial(scoped, pool, True, tasks) for pool in bounded]),
                ]:
                    after, before = (partial(seconds, work) for work in rounds)
                    label = f"{workers_of(workers)}, {name}"
                    compare(label, after, before, rounds=options.rounds, each=micros(tasks))


if __name__ == "__main__":
    main()
