"""Search the source of Python's standard library on a Ray cluster, while one node joins and another one is lost.

As `search_stdlib.py`, with an actor for each worker: each owns a shard, an SQLite database in its memory. Two actors
begin; two more, for which there was no room, begin by themselves when a node joins. When a node is lost, the tasks
that ran there fail with `WorkerLost`, and its shards are gone. No task is ever run twice, and a shard goes with its
worker: so what is in no shard that is left is exactly what has to be indexed again.

    pip install 'stateful-executor[ray]'
    python cluster.py [--limit FILES] [PHRASE]

The nodes are processes on this machine here, made by `ray.cluster_utils`. Elsewhere `ray.init()` connects to yours, and
the rest is the same.
"""

import argparse
import os
import sqlite3
import sys
import sysconfig
import time
import tokenize
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from heapq import merge
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what will change

import ray
from ray.cluster_utils import Cluster

from stateful_executor import StateView, WorkerLost
from stateful_executor.ray import StatefulRayExecutor

STDLIB = Path(sysconfig.get_paths()["stdlib"])
WORKERS = 4
MAX_BACKLOG = 16
BEST = 6
NODE = {"num_cpus": 2, "resources": {"shards": 2}, "node_ip_address": "127.0.0.1", "include_dashboard": False}

TABLE = "CREATE VIRTUAL TABLE source USING fts5(name, text)"
SEARCH = """
    SELECT bm25(source), name, snippet(source, 1, '[', ']', '...', 14)
    FROM source WHERE text MATCH ? ORDER BY bm25(source)
"""

Hit = tuple[float, str, str]


# In the actors


def own_shard() -> Iterator[sqlite3.Connection]:
    """Make a worker's state, in its actor; what follows the `yield` is its teardown."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as shard:
        shard.execute(TABLE)
        yield shard


def add_file(shard: sqlite3.Connection, path: Path) -> None:
    shard.execute("INSERT INTO source VALUES (?, ?)", (path.relative_to(STDLIB).as_posix(), read_source(path)))


def read_source(path: Path) -> str:
    try:
        with tokenize.open(path) as file:  # minds the encoding that the file declares
            return file.read()
    except (SyntaxError, UnicodeDecodeError):  # a few of Python's own test files are wrong on purpose
        return path.read_text(encoding="utf-8", errors="replace")


def names(shard: sqlite3.Connection) -> set[str]:
    return {name for (name,) in shard.execute("SELECT name FROM source")}


def search(shard: sqlite3.Connection, phrase: str) -> list[Hit]:
    return shard.execute(SEARCH, ['"' + phrase.replace('"', '""') + '"']).fetchall()


# Here


def index(shards: StateView[Any], paths: list[Path], events: "Events") -> int:
    """Have `paths` put into shards, and return how many tasks were lost with their workers."""
    tasks: list[Future[None]] = []
    for path in paths:
        tasks.append(shards.submit(add_file, path))  # waits while the backlog is full
        events.look()
    return sum(isinstance(task.exception(), WorkerLost) for task in tasks)


def ask_all(shards: StateView[Any], fn: Callable[..., Any], *args: object) -> list[Any]:
    """What each worker that there is says to `fn`. One may be gone that nobody has missed yet: then ask again."""
    while True:
        answers = shards.broadcast(fn, *args)  # each worker that there is, once
        if not any(isinstance(answer.exception(), WorkerLost) for answer in answers):
            return [answer.result() for answer in answers]


class Events:
    """What happens to the cluster: a node joins after a third of the files, the first one is lost after two thirds."""

    def __init__(self, cluster: Any, files: int) -> None:
        self.cluster = cluster
        self.node = cluster.add_node(**NODE)
        self.at = {files // 3: self.join, files * 2 // 3: self.lose}
        self.numbers = count(1)

    def look(self) -> None:
        self.at.pop(next(self.numbers), lambda: None)()

    def join(self) -> None:
        self.cluster.add_node(**NODE)
        print("a node joins")

    def lose(self) -> None:
        there = nodes_alive()
        self.cluster.remove_node(self.node, allow_graceful=False)
        while nodes_alive() == there:  # till then its actors may go on
            time.sleep(0.1)
        print("a node is lost")


def nodes_alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def source_files() -> list[Path]:
    return sorted(path for path in STDLIB.rglob("*.py") if "site-packages" not in path.parts)


def require_fts5() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(TABLE)
        except sqlite3.OperationalError as error:
            sys.exit(f"SQLite {sqlite3.sqlite_version} of this Python has no full-text search (FTS5): {error}")


def run(cluster: Any, files: list[Path], phrase: str) -> None:
    events = Events(cluster, len(files))
    where = {path.relative_to(STDLIB).as_posix(): path for path in files}
    options = {"num_cpus": 1, "resources": {"shards": 1}}
    with StatefulRayExecutor(WORKERS, own_shard, max_backlog=MAX_BACKLOG, actor_options=options) as pool:
        shards = pool.with_state()
        missing = files
        while missing:
            lost = index(shards, missing, events)
            held = ask_all(shards, names)
            indexed = set().union(*held)
            assert sum(map(len, held)) == len(indexed)  # nothing is in two of them
            print(f"{len(missing):,} files sent, {lost} tasks lost; {len(indexed):,} are in {len(held)} shards")
            missing = [path for name, path in where.items() if name not in indexed]
        hits = list(merge(*ask_all(shards, search, phrase)))
    print(f'"{phrase}": {len(hits)} files', end="\n\n")
    for score, name, snippet in hits[:BEST]:
        print(f"{-score:6.2f}  {name}\n        {' '.join(snippet.split())}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Index the source of Python's standard library on a Ray cluster.")
    parser.add_argument("phrase", nargs="?", default="race condition", help="words that stand side by side")
    parser.add_argument("--limit", type=int, metavar="FILES", help="index at most so many files")
    options = parser.parse_args()
    require_fts5()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "resources": {}})
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="error")
        run(cluster, source_files()[: options.limit], options.phrase)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
