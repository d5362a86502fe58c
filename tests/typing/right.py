"""The public API, used as it is meant to be. Checked by mypy and pyright, never executed; see test_typing.py."""

import asyncio
import concurrent.futures
import functools
import multiprocessing
import pickle
import sqlite3
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager
from typing import Any, assert_type

import stateful_executor
from stateful_executor import (
    BacklogFull,
    InitializerError,
    PoolStats,
    Scope,
    StatefulProcessPoolExecutor,
    StatefulThreadPoolExecutor,
    StatePolicy,
    StateView,
    WorkerLost,
)
from stateful_executor.ray import StatefulRayExecutor


class Connection:
    def __init__(self, host: str = "localhost", port: int = 5432) -> None: ...

    def close(self) -> None: ...


class Replica(Connection): ...


def connect() -> Connection:
    return Connection()


def connect_to(host: str, port: int) -> Connection:
    return Connection(host, port)


def connected() -> Generator[Connection]:
    yield Connection()


def connected_to(host: str, port: int) -> Generator[Connection, None, None]:
    yield Connection(host, port)


def load_user(connection: Connection, key: int, *, fresh: bool = False) -> str:
    return f"{connection}/{key}/{fresh}"


def square(x: int) -> int:
    return x * x


# The pool's state, from its initializer


def no_state(maybe: Callable[[], None] | None) -> None:
    assert_type(StatefulThreadPoolExecutor(), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(4), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(4, "name"), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(4, "name", None, ()), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(max_workers=None, initializer=None), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(max_backlog=9, submit_timeout=0.5), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(4, initializer=print, initargs=(1, "a")), StatefulThreadPoolExecutor[None])
    assert_type(StatefulThreadPoolExecutor(4, "name", maybe), StatefulThreadPoolExecutor[None])


def state_without_initargs() -> None:
    assert_type(StatefulThreadPoolExecutor(4, initializer=connect), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, initializer=connected), StatefulThreadPoolExecutor[Connection])
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=contextmanager(connected)), StatefulThreadPoolExecutor[Connection]
    )
    assert_type(StatefulThreadPoolExecutor(4, initializer=Connection), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, initializer=dict[str, int]), StatefulThreadPoolExecutor[dict[str, int]])
    assert_type(StatefulThreadPoolExecutor(4, initializer=lambda: 1.5), StatefulThreadPoolExecutor[float])
    assert_type(StatefulThreadPoolExecutor(4, "name", connect), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, "name", connect, ()), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, "name", connected), StatefulThreadPoolExecutor[Connection])
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=functools.partial(connect_to, "db", 1)),
        StatefulThreadPoolExecutor[Connection],
    )


def state_with_initargs() -> None:
    db = ("db", 5432)
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=connect_to, initargs=db), StatefulThreadPoolExecutor[Connection]
    )
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=connected_to, initargs=db), StatefulThreadPoolExecutor[Connection]
    )
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=Connection, initargs=db), StatefulThreadPoolExecutor[Connection]
    )
    # Parameters that have defaults may be left to them.
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=Connection, initargs=("db",)), StatefulThreadPoolExecutor[Connection]
    )
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=sqlite3.connect, initargs=(":memory:",)),
        StatefulThreadPoolExecutor[sqlite3.Connection],
    )
    assert_type(StatefulThreadPoolExecutor(4, "name", connect_to, db), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, "name", connected_to, db), StatefulThreadPoolExecutor[Connection])
    assert_type(StatefulThreadPoolExecutor(4, "name", connect_to, initargs=db), StatefulThreadPoolExecutor[Connection])


def state_with_finalizer() -> None:
    close = Connection.close
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=connect, finalizer=close), StatefulThreadPoolExecutor[Connection]
    )
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=connect, finalizer=lambda connection: connection.close()),
        StatefulThreadPoolExecutor[Connection],
    )
    assert_type(
        StatefulThreadPoolExecutor(
            4, "name", connect_to, ("db", 1), finalizer=close, max_backlog=1_000, submit_timeout=None
        ),
        StatefulThreadPoolExecutor[Connection],
    )


def passed_on(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """As wrappers do whose callers choose the initializer."""
    StatefulThreadPoolExecutor(4, "name", initializer, initargs)
    StatefulThreadPoolExecutor(4, initializer=initializer, initargs=initargs)


class ConnectionPool(StatefulThreadPoolExecutor[Connection]):
    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers, "db", connect_to, ("db", 5432), finalizer=Connection.close)


def subclass() -> None:
    with ConnectionPool(4) as pool:
        assert_type(pool, ConnectionPool)
        assert_type(pool.with_state(), StateView[Connection])


# A ThreadPoolExecutor


def takes_executors(a: Executor, b: ThreadPoolExecutor) -> None:
    a.submit(square, 2)
    b.submit(square, 2)


def executor(pool: StatefulThreadPoolExecutor[None]) -> None:
    takes_executors(pool, pool)
    with pool as entered:
        assert_type(entered, StatefulThreadPoolExecutor[None])
    future: Future[int] = pool.submit(square, 2)
    assert_type(pool.submit(square, 2).result(timeout=1), int)
    assert_type(pool.submit(square, 2).exception(), BaseException | None)
    assert_type(pool.submit(load_user, connect(), 42, fresh=True).result(), str)
    future.add_done_callback(lambda done: print(done.result()))
    concurrent.futures.wait([future])
    assert_type(pool.map(square, [1, 2]), Iterator[int])
    assert_type(pool.map(load_user, [connect()], [2], timeout=1.0, chunksize=10, buffersize=100), Iterator[str])
    pool.shutdown()
    pool.shutdown(False, cancel_futures=True)
    pool.shutdown(wait=True, timeout=2.5)


async def asyncio_default(pool: StatefulThreadPoolExecutor[Connection]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(pool)
    assert_type(await loop.run_in_executor(pool, square, 2), int)
    assert_type(await asyncio.wrap_future(pool.submit(square, 2)), int)


async def asubmit(
    pool: StatefulThreadPoolExecutor[Connection], scope: Scope[Connection], db: StateView[Connection]
) -> None:
    assert_type(await pool.asubmit(square, 2), asyncio.Future[int])
    assert_type(await (await pool.asubmit(square, 2)), int)
    assert_type(await (await scope.asubmit(load_user, connect(), 42, fresh=True)), str)
    assert_type(await (await db.asubmit(load_user, 42, fresh=True)), str)


# Views


def any_state(pool: StatefulThreadPoolExecutor, scope: Scope) -> None:
    assert_type(pool.with_state(), StateView[Any])
    assert_type(pool.scope(), Scope[Any])
    assert_type(scope.with_state(), StateView[Any])


def views(pool: StatefulThreadPoolExecutor[Connection]) -> None:
    assert_type(pool.with_state(), StateView[Connection])
    assert_type(pool.with_state(set[str]), StateView[set[str]])
    assert_type(pool.with_state(connected), StateView[Connection])
    assert_type(pool.with_state(contextmanager(connected)), StateView[Connection])
    assert_type(pool.with_state(contextmanager(connected_to), ("db", 1)), StateView[Connection])
    assert_type(pool.with_state(connect, finalizer=Connection.close), StateView[Connection])
    assert_type(pool.with_state(connected_to, ("db", 1)), StateView[Connection])
    assert_type(pool.with_state(connect_to, initargs=("db", 1)), StateView[Connection])
    assert_type(pool.with_state(connect_to, ("db", 1), finalizer=Connection.close), StateView[Connection])


def view(db: StateView[Connection], numbers: StateView[list[int]]) -> None:
    future: Future[str] = db.submit(load_user, 42)
    assert_type(future.result(), str)
    assert_type(db.submit(load_user, 42, fresh=True).result(), str)
    assert_type(db.submit(load_user, key=42).result(), str)
    assert_type(db.submit(Connection.close).result(), None)
    assert_type(db.submit(lambda connection: connection).result(), Connection)
    assert_type(numbers.submit(len).result(), int)
    assert_type(db.map(load_user, [1, 2], timeout=1.0, chunksize=2, buffersize=8), Iterator[str])
    db.map(lambda _connection, key, other: f"{key}/{other}", [1, 2], "ab")
    assert_type(numbers.map(list.append, [1, 2]), Iterator[None])


def view_of_each_kind_of_initializer(pool: StatefulThreadPoolExecutor[None], scope: Scope[None]) -> None:
    """A plain function, a generator function, a context manager."""
    plain: Future[str] = pool.with_state(connect).submit(load_user, 42)
    generator: Future[str] = pool.with_state(connected).submit(load_user, 42, fresh=True)
    manager: Future[str] = pool.with_state(contextmanager(connected)).submit(load_user, key=42)
    assert_type((plain.result(), generator.result(), manager.result()), tuple[str, str, str])
    assert_type(scope.with_state(connect_to, ("db", 1)).submit(load_user, 42).result(), str)
    assert_type(scope.with_state(connected_to, ("db", 1)).submit(load_user, 42).result(), str)
    assert_type(scope.with_state(contextmanager(connected_to), ("db", 1)).submit(load_user, 42).result(), str)


def takes_any_connection(pool: StatefulThreadPoolExecutor[Connection], db: StateView[Connection]) -> None:
    """A task that asks for a connection is content with a replica."""


def covariant(pool: StatefulThreadPoolExecutor[Replica], db: StateView[Replica], scope: Scope[Replica]) -> None:
    takes_any_connection(pool, db)
    takes_any_connection(pool, scope.with_state())


# Scopes


def scopes(pool: StatefulThreadPoolExecutor[Connection]) -> None:
    with pool.scope() as scope:
        assert_type(scope, Scope[Connection])
        future: Future[int] = scope.submit(square, 2)
        assert_type(future.result(), int)
        assert_type(scope.submit(load_user, connect(), 42, fresh=True).result(), str)
        assert_type(scope.map(square, [1, 2], timeout=1.0, chunksize=2, buffersize=8), Iterator[int])
        assert_type(scope.with_state(), StateView[Connection])
        assert_type(scope.with_state().submit(load_user, 42).result(), str)
        assert_type(scope.with_state(set[str]), StateView[set[str]])
        assert_type(scope.with_state(connected), StateView[Connection])
        assert_type(scope.with_state(connect_to, ("db", 1), finalizer=Connection.close), StateView[Connection])
        assert_type(scope.with_state(connected_to, initargs=("db", 1)), StateView[Connection])
        assert_type(scope.cancelled, bool)
        assert_type(scope.cancel(), None)


def policies() -> None:
    policy = StatePolicy(check=Connection.close, reset=Connection.close, discard_on=(OSError, KeyError), max_tasks=5)
    assert_type(policy, StatePolicy[Connection])
    assert_type(StatePolicy(max_age=60.0, discard_on=OSError), StatePolicy[Any])
    assert_type(StatePolicy(discard_on=lambda error: "closed" in str(error)), StatePolicy[Any])
    assert_type(
        StatefulThreadPoolExecutor(4, initializer=connect, finalizer=Connection.close, policy=policy, idle_timeout=5.0),
        StatefulThreadPoolExecutor[Connection],
    )
    assert_type(
        StatefulThreadPoolExecutor(
            4, initializer=connected, policy=policy, exit_timeout=5.0, copy_context=True, task_decorator=functools.cache
        ),
        StatefulThreadPoolExecutor[Connection],
    )
    pool = StatefulThreadPoolExecutor(initializer=connect_to, initargs=("db", 1), policy=policy)
    assert_type(pool, StatefulThreadPoolExecutor[Connection])
    assert_type(pool.with_state(connect, policy=policy), StateView[Connection])
    assert_type(pool.scope().with_state(connected, policy=policy), StateView[Connection])


def life(
    pool: StatefulThreadPoolExecutor[Connection], db: StateView[Connection], numbers: StateView[list[int]]
) -> None:
    assert_type(db.get(), Connection)
    assert_type(db.discard(), None)
    assert_type(db.discard_all(), None)
    bound = db.bind(load_user)
    assert_type(bound(42, fresh=True), str)
    pool.submit(bound, 42, fresh=True)
    assert_type(db.bind(Connection.close)(), None)
    assert_type([future.result() for future in db.broadcast(load_user, 42, fresh=True)], list[str])
    assert_type([future.result() for future in pool.broadcast(square, 5)], list[int])
    assert_type(pool.map_unordered(square, [1, 2], timeout=1.0, chunksize=2, buffersize=8), Iterator[int])
    assert_type(db.map_unordered(load_user, [1, 2]), Iterator[str])
    assert_type(pool.resize(8), None)
    assert_type(pool._max_workers, int)
    pool._max_workers = 8  # as code in the wild does
    assert_type(pool.stats(), PoolStats)
    assert_type(pool.stats().states_made, int)
    assert_type(pool.stats().seconds_blocked, float)


async def ends(pool: StatefulThreadPoolExecutor[Connection]) -> None:
    async with pool.scope(fail_fast=True, timeout=2.5) as scope:
        assert_type(scope, Scope[Connection])
        assert_type(await (await scope.asubmit(square, 5)), int)
        assert_type(scope.map_unordered(square, [1, 2]), Iterator[int])


def no_code_is_skipped_after_a_scope(pool: StatefulThreadPoolExecutor[None]) -> int:
    # The block may swallow its own refusal, so that what follows is reachable.
    with pool.scope() as scope:
        scope.cancel()
        raise BacklogFull
    return 1


# Errors and the version


def errors(error: BaseException) -> None:
    if isinstance(error, BacklogFull | InitializerError | BrokenThreadPool):
        taken: RuntimeError = error
        assert_type(taken.args, tuple[Any, ...])
    assert_type(stateful_executor.__version__, str)


def takes_an_executor(executor: Executor) -> Future[str]:
    return executor.submit(load_user, Connection(), 42)


def processes() -> None:
    assert_type(StatefulProcessPoolExecutor(), StatefulProcessPoolExecutor[None])
    assert_type(StatefulProcessPoolExecutor(4, mp_context="spawn"), StatefulProcessPoolExecutor[None])
    assert_type(StatefulProcessPoolExecutor(4, connected), StatefulProcessPoolExecutor[Connection])
    assert_type(StatefulProcessPoolExecutor(initializer=connected), StatefulProcessPoolExecutor[Connection])
    assert_type(
        StatefulProcessPoolExecutor(4, connect_to, ("db", 5432), finalizer=Connection.close),
        StatefulProcessPoolExecutor[Connection],
    )
    context = multiprocessing.get_context("forkserver")
    options = StatefulProcessPoolExecutor(4, max_backlog=10, exit_timeout=1, mp_context=context, pickler=pickle)
    assert_type(takes_an_executor(options), Future[str])
    with StatefulProcessPoolExecutor(initializer=connect) as pool:
        assert_type(pool, StatefulProcessPoolExecutor[Connection])
        assert_type(pool.with_state(), StateView[Connection])
        assert_type(pool.with_state().bind(load_user)(42), str)
        with pool.scope() as scope:
            assert_type(scope, Scope[Connection])
        assert_type(pool.stats(), PoolStats)
        future = pool.submit(int, "5")
        assert_type(future.result(), int)
        assert_type(pool.kill_worker(future), bool)
    error: concurrent.futures.BrokenExecutor = WorkerLost()
    raise error


def actors() -> None:
    assert_type(StatefulRayExecutor(4), StatefulRayExecutor[None])
    assert_type(StatefulRayExecutor(4, actor_options={"num_cpus": 0.5}), StatefulRayExecutor[None])
    assert_type(StatefulRayExecutor(4, connected), StatefulRayExecutor[Connection])
    with StatefulRayExecutor(4, connect_to, ("db", 5432), finalizer=Connection.close, max_backlog=10) as pool:
        assert_type(pool, StatefulRayExecutor[Connection])
        assert_type(pool.with_state().submit(load_user, 42).result(), str)
        assert_type(takes_an_executor(pool), Future[str])
        assert_type(pool.kill_worker(pool.submit(int)), bool)
