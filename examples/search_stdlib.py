"""Index the source of Python's standard library for full-text search, and search it.

Each worker owns a connection to an SQLite file of its own, a shard: made in the worker's thread, where sqlite3 wants
it to stay, lent to one task at a time, closed by the worker when the pool ends. A bounded backlog keeps the feeder from
running far ahead of the workers, and a scope joins the tasks before the shards are searched.

    python search_stdlib.py [--limit FILES] [PHRASE]

Hits are ranked by bm25, which each shard computes from its own files.
"""

import argparse
import os
import sqlite3
import sys
import sysconfig
import tokenize
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from heapq import merge
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread
from time import perf_counter

from stateful_executor import StatefulThreadPoolExecutor, StateView

STDLIB = Path(sysconfig.get_paths()["stdlib"])
WORKERS = min(8, os.cpu_count() or 1)
MAX_BACKLOG = 64
BEST = 6

TABLE = "CREATE VIRTUAL TABLE source USING fts5(name, text)"
SEARCH = """
    SELECT bm25(source), name, snippet(source, 1, '[', ']', '...', 14)
    FROM source WHERE text MATCH ? ORDER BY bm25(source)
"""


@dataclass
class Shard:
    """The state of a worker. Its totals need no lock, since it is lent to one task at a time."""

    path: Path
    db: sqlite3.Connection
    files: int = 0
    lines: int = 0
    size: int = 0
    closed: bool = False


def own_shard(directory: Path, shards: list[Shard]) -> Generator[Shard, None, None]:
    """Make a worker's state; what follows the `yield` is its teardown."""
    path = directory / f"{current_thread().name}.sqlite"
    shard = Shard(path, sqlite3.connect(path, isolation_level=None))
    shards.append(shard)
    try:
        shard.db.execute("PRAGMA synchronous = OFF")  # a commit for each file is fast: the shard is temporary
        shard.db.execute(TABLE)
        yield shard
    finally:
        shard.db.close()
        shard.closed = True


def add_file(shard: Shard, path: Path) -> None:
    """Put one file into the shard of the worker that runs this task."""
    text = read_source(path)
    shard.db.execute("INSERT INTO source VALUES (?, ?)", (path.relative_to(STDLIB).as_posix(), text))
    shard.files += 1
    shard.lines += text.count("\n")
    shard.size += path.stat().st_size


def read_source(path: Path) -> str:
    try:
        with tokenize.open(path) as file:  # minds the encoding that the file declares
            return file.read()
    except (SyntaxError, UnicodeDecodeError):  # a few of Python's own test files are wrong on purpose
        return path.read_text(encoding="utf-8", errors="replace")


def feed(index: StateView[Shard], files: Iterable[Path]) -> int:
    """Submit a task for each file, and return the largest backlog seen."""
    largest = 0
    waiting: list[Future[None]] = []
    for path in files:
        waiting.append(index.submit(add_file, path))  # blocks while the backlog is full
        waiting = [task for task in waiting if not (task.running() or task.done())]
        largest = max(largest, len(waiting))
    return largest


def search(shard: Shard, phrase: str) -> list[tuple[float, str, str]]:
    """Find `phrase` in one shard's file, best hits first; a task that needs no state."""
    with closing(sqlite3.connect(shard.path)) as db:
        return db.execute(SEARCH, ['"' + phrase.replace('"', '""') + '"']).fetchall()


def source_files() -> list[Path]:
    return sorted(path for path in STDLIB.rglob("*.py") if "site-packages" not in path.parts)


def require_fts5() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(TABLE)
        except sqlite3.OperationalError as error:
            sys.exit(f"SQLite {sqlite3.sqlite_version} of this Python has no full-text search (FTS5): {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Index the source of Python's standard library, and search it.")
    parser.add_argument("phrase", nargs="?", default="race condition", help="words that stand side by side")
    parser.add_argument("--limit", type=int, metavar="FILES", help="index at most so many files")
    options = parser.parse_args()
    require_fts5()

    shards: list[Shard] = []
    with TemporaryDirectory() as directory:
        pool = StatefulThreadPoolExecutor(
            WORKERS, "shard", own_shard, (Path(directory), shards), max_backlog=MAX_BACKLOG
        )
        with pool:
            start = perf_counter()
            with pool.scope() as scope:
                largest = feed(scope.with_state(), source_files()[: options.limit])
            indexed = perf_counter()  # every task of the scope has ended: the shards are complete
            hits = list(merge(*pool.map(search, shards, repeat(options.phrase))))
            searched = perf_counter()

    files, lines, size = (sum(getattr(shard, name) for shard in shards) for name in ("files", "lines", "size"))
    print(f"indexed      {files:,} files, {lines:,} lines, {size / 1e6:.1f} MB in {indexed - start:.2f} s")
    print(f"workers      {len(shards)}, each with a shard of its own")
    print(f"backlog      {largest} tasks at most, of {MAX_BACKLOG} allowed")
    print(f"connections  {len(shards)} opened, {sum(shard.closed for shard in shards)} closed by their workers")
    print(f'searched     "{options.phrase}": {len(hits)} files in {(searched - indexed) * 1000:.0f} ms', end="\n\n")
    for score, name, snippet in hits[:BEST]:
        print(f"{-score:6.2f}  {name}\n        {' '.join(snippet.split())}")


if __name__ == "__main__":
    main()
