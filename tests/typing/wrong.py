"""Mistakes that mypy and pyright are to find. Checked by both, never executed; see test_typing.py.

Each mistake is one line with the comments that silence both tools. Since both also report a comment that silences
nothing, a mistake that goes unnoticed is an error.
"""

import sqlite3
from collections.abc import Generator
from concurrent.futures import Executor, Future
from contextlib import contextmanager

import stateful_executor
from stateful_executor import Scope, StatefulProcessPoolExecutor, StateView
from stateful_executor import StatefulThreadPoolExecutor as Pool
from stateful_executor.ray import StatefulRayExecutor


class Connection:
    def close(self) -> None: ...


class Replica(Connection): ...


def connect() -> Connection:
    return Connection()


def connect_to(host: str, port: int) -> Connection:
    return Connection()


def connected() -> Generator[Connection]:
    yield Connection()


def connected_to(host: str, port: int) -> Generator[Connection]:
    yield Connection()


def load_user(connection: Connection, key: int) -> str:
    return f"{connection}/{key}"


def parse(text: str) -> int:
    return len(text)


def constructor() -> None:
    Pool("4")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", None, (), None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    Pool(max_worker=4)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    Pool(4, task_decorator="trace")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, max_backlog=0.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, exit_timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, submit_timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initargs=("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Pool(4, "name", None, ("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def initargs_do_not_fit() -> None:
    Pool(4, initializer=connect_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connected_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=sqlite3.connect)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connect, initargs=("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connect_to, initargs=("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connect_to, initargs=("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connect_to, initargs=["db", 5432])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, initializer=connected_to, initargs=("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", connect_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", connect, ("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", connect_to, ("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Pool(4, "name", connected_to, ("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def finalizer_does_not_fit() -> None:
    Pool(4, initializer=connect, finalizer=sqlite3.Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Pool(4, "name", connect_to, ("db", 5432), finalizer=sqlite3.Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Pool(4, initializer=connect, finalizer=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    # The rest of a generator is the teardown.
    Pool(4, initializer=connected, finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Pool(4, initializer=connected_to, initargs=("db", 5432), finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Pool(4, "name", connected_to, ("db", 5432), finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


def other_state() -> None:
    a: Pool[str] = Pool(4, initializer=connect)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    b: Pool[str] = Pool(4, initializer=connected)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    c: Pool[str] = Pool(4)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def pool(pool: Pool[Connection]) -> None:
    pool.submit(parse)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.submit(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.submit(parse, "5", "6")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.submit(parse, text=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.submit(parse, "5", timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.submit(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.submit(load_user, key=42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    future: Future[str] = pool.submit(parse, "5")  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    pool.map(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.map(parse, ["5"], chunk_size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.map(5, ["5"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.resize(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.resize("8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool._max_workers = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    pool.shutdown(cancel=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.shutdown(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.statistics  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    pool.max_backlog = 5  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def views(pool: Pool[Connection]) -> None:
    pool.with_state(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(connect_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(connect_to, ("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(connect_to, "db", 5432)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.with_state(connected_to, initargs=("db",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(initargs=("db",))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.with_state(finalizer=Connection.close)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.with_state(connect, finalizer=sqlite3.Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    pool.with_state(connected, finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    pool.with_state(connected_to, ("db", 5432), finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    other: StateView[str] = pool.with_state()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def view_of_each_kind_of_initializer(pool: Pool[None]) -> None:
    pool.with_state(connect).submit(load_user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.with_state(connect).submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.with_state(connect).submit(parse, "42")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(connected).submit(load_user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.with_state(connected).submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.with_state(connected).submit(parse, "42")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.with_state(contextmanager(connected)).submit(load_user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.with_state(contextmanager(connected)).submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.with_state(contextmanager(connected)).submit(parse, "42")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]


def takes_executor(executor: Executor) -> None: ...


def takes_replica(db: StateView[Replica]) -> None: ...


def view(db: StateView[Connection]) -> None:
    db.submit(parse)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.submit(parse, "5")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    db.submit(load_user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    db.submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.submit(load_user, Connection(), 42)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    db.submit(load_user, 42, fresh=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    db.submit(connect)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.submit(lambda connection: connection.cloze())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    future: Future[int] = db.submit(load_user, 42)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    db.map(parse, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.map(connect, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.map(load_user, 42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.bind(parse)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.bind(load_user)("42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.bind(load_user)(Connection(), 42)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    db.broadcast(load_user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    db.map_unordered(parse, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    taken: int = db.get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    takes_executor(db)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    takes_replica(db)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StateView()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def scope(pool: Pool[Connection]) -> None:
    scope: Scope[Connection] = pool.scope()
    scope.submit(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scope.submit(load_user, key=42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scope.map(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scope.with_state(connect_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    scope.with_state(connect_to, ("db", "5432"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    scope.with_state(connected, finalizer=Connection.close)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    scope.with_state().submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scope.cancelled()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    scope.cancelled = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    takes_executor(scope)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    other: Scope[str] = pool.scope()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    Scope()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asubmit(pool: Pool[Connection], scope: Scope[Connection], db: StateView[Connection]) -> None:
    await pool.asubmit(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await scope.asubmit(parse, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await db.asubmit(parse, 5)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await db.asubmit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    number: int = await pool.asubmit(parse, "5")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    (await pool.asubmit(parse, "5")).result(timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def module() -> None:
    stateful_executor.StatefulProcessPool  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def processes(pool: StatefulProcessPoolExecutor[Connection]) -> None:
    StatefulProcessPoolExecutor(thread_name_prefix="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    StatefulProcessPoolExecutor(pickler=object())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.submit(load_user, key=42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.with_state().submit(load_user, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.kill_worker(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def actors(pool: StatefulRayExecutor[Connection]) -> None:
    StatefulRayExecutor()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    StatefulRayExecutor(4, mp_context="spawn")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.submit(load_user, key=42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
