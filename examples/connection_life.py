"""What becomes of connections in a long run: two break, one is left in a mess, the file is replaced under all of them.

Each worker owns a connection to an SQLite file. A `StatePolicy` says when one is to be replaced by a new one, and
`discard_all` replaces all of them. Each line with a yes was checked; the exit code is 1 if there is a NO.
"""

import os
import sqlite3
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import Connection, ProgrammingError
from tempfile import TemporaryDirectory
from threading import Barrier

from stateful_executor import PoolStats, StatefulThreadPoolExecutor, StatePolicy

WORKERS = 4
OLD, NEW = 320, 350  # the price of tea
claims: list[bool] = []


def claim(holds: bool, text: str) -> None:
    claims.append(holds)
    print(f"  {'yes' if holds else 'NO '}  {text}")


def write_prices(path: Path, tea: int) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE prices AS SELECT 'tea' AS item, ? AS price", [tea])


# Three tasks: each is lent the connection of the worker that runs it.
def price(db: Connection) -> int:
    (found,) = db.execute("SELECT price FROM prices WHERE item = 'tea'").fetchone()
    return int(found)


def close_and_go_on(db: Connection) -> int:
    db.close()
    return price(db)


def raise_price(db: Connection) -> None:
    db.execute("UPDATE prices SET price = price + 1")  # begins a transaction, which nobody commits


# Two hooks of the policy: a worker calls them with its connection.
def ping(db: Connection) -> None:
    db.execute("SELECT 1")  # raises if the connection is closed


def roll_back(db: Connection) -> None:
    with suppress(ProgrammingError):  # closed: `ping` will find out
        db.rollback()


POLICY = StatePolicy(
    check=ping,  # before each task; one that fails has the connection replaced
    reset=roll_back,  # after each task
    discard_on=ProgrammingError,  # a task that fails so has its connection replaced
    max_age=600,  # seconds; not that long here
)


def answers(tasks: Iterable[Future[int]]) -> list[int | BaseException]:
    return [task.exception() or task.result() for task in tasks]


def without_policy(path: Path) -> None:
    with StatefulThreadPoolExecutor(1, "", sqlite3.connect, (path,), finalizer=Connection.close) as pool:
        view = pool.with_state()
        view.submit(Connection.close).result()
        errors = answers([view.submit(price) for _ in range(3)])
    claim(all(isinstance(error, ProgrammingError) for error in errors), f"each one after it fails: {errors[0]}")


def break_some(pool: StatefulThreadPoolExecutor[Connection]) -> None:
    view = pool.with_state()
    lookups = [view.submit(price) for _ in range(100)]
    error = view.submit(close_and_go_on).exception()
    claim(isinstance(error, ProgrammingError), f"one task closes its connection, and fails: {error}")
    claim(pool.stats().states_discarded == 1, "before that error is seen, the connection is discarded")
    lookups += [view.submit(price) for _ in range(100)]
    claim(view.submit(Connection.close).exception() is None, "one closes its connection, and says nothing")
    lookups += [view.submit(price) for _ in range(100)]
    claim(view.submit(raise_price).exception() is None, "one raises the price, and forgets to commit")
    lookups += [view.submit(price) for _ in range(100)]
    claim(set(answers(lookups)) == {OLD}, "all 400 lookups find the old price: none fails")
    claim(answers(view.broadcast(price)) == [OLD] * WORKERS, "each worker's connection works")


def replace_file(pool: StatefulThreadPoolExecutor[Connection], path: Path) -> None:
    view = pool.with_state()
    new = path.with_suffix(".new")
    write_prices(new, NEW)
    with closing(sqlite3.connect(path)) as forgotten:
        before = [view.submit(price) for _ in range(100)]
        new.replace(path)
        view.discard_all()  # a task that begins after this gets a connection made after this
        after = [view.submit(price) for _ in range(100)]
        claim(price(forgotten) == OLD, "a connection that nobody replaces goes on reading the old file, without error")
    claim(set(answers(before)) <= {OLD, NEW}, "100 lookups under way find the old price or the new one")
    claim(set(answers(after)) == {NEW}, "100 lookups after `discard_all` find the new one")
    claim(answers(view.broadcast(price)) == [NEW] * WORKERS, "each worker reads the new file")


def account(stats: PoolStats) -> None:
    made, discarded, torn_down = stats.states_made, stats.states_discarded, stats.states_torn_down
    claim(made == 2 * WORKERS + 2, f"{made} made: {WORKERS} at first, 2 for those closed, {WORKERS} on the new file")
    claim(discarded == WORKERS + 2, f"{discarded} discarded: the 2 closed, and {WORKERS} on the old file")
    claim(torn_down == made, f"{torn_down} torn down: the {discarded} discarded at once, the others with the pool")
    claim(stats.teardown_errors == 0, "each in the thread that made it: sqlite3 would have complained")
    claim(stats.failed == 1, f"{stats.failed} of {stats.submitted} tasks failed: the one that went on")
    print(f"\n{stats}")


def main() -> None:
    if os.name == "nt":
        sys.exit("this example replaces a file that is open, which Windows does not allow")
    with TemporaryDirectory() as directory:
        path = Path(directory, "prices.sqlite")
        write_prices(path, OLD)
        print("Without a policy, a task closes the connection of its worker:")
        without_policy(path)

        pool = StatefulThreadPoolExecutor(
            WORKERS, "", sqlite3.connect, (path,), finalizer=Connection.close, policy=POLICY
        )
        with pool:
            barrier = Barrier(WORKERS)  # of tasks that wait for each other, so that each worker has one
            answers([pool.submit(barrier.wait, 30) for _ in range(WORKERS)])
            print(f"\nWith a policy, {WORKERS} workers look a price up 400 times, and in the midst of it:")
            break_some(pool)
            print("\nThe file is replaced by one with a new price, while the pool runs:")
            replace_file(pool, path)
    print("\nThe pool has ended, and every connection is accounted for:")
    account(pool.stats())
    sys.exit(not all(claims))


if __name__ == "__main__":
    main()
