"""A recorded pool, for the tests of what is made of recordings: all that there can be in one, and many tasks."""

from __future__ import annotations

import threading
from typing import Any

from threads import beside, until

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy, trace
from stateful_executor.trace import Recording


def load(_: object) -> None:
    pass


def crash(_: object) -> None:
    raise LookupError


def waits(pool: StatefulThreadPoolExecutor[Any], ended: threading.Event) -> None:
    with pool.scope() as scope:
        scope.submit(load, None)
    ended.set()


def everything() -> Recording:
    """Tasks, in place and not, failed ones, each part of a state's life, a blocked submit, scopes."""
    policy = StatePolicy(check=load, reset=load, discard_on=LookupError)
    pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(
        2, "w", initializer=list, policy=policy, max_backlog=2
    )
    with trace.record(pool) as recording, pool:
        view = pool.with_state()
        view.submit(crash).exception()
        go_on, waited = threading.Event(), threading.Event()
        pool.submit(go_on.wait, 20)
        pool.submit(waited.wait, 20)  # so that nobody else takes what `waits` waits for
        until(lambda: pool.stats().running == 2)
        pool.submit(waits, pool, waited)
        pool.submit(load, "</script><b>")
        with beside(lambda: (until(lambda: pool.stats().blocked_submitters), go_on.set())):
            pool.submit(load, None)
        with pool.scope() as scope:
            for _ in range(10):
                scope.with_state().submit(load)
    return recording


def many(tasks: int) -> Recording:
    """Tasks that do nothing."""
    pool: StatefulThreadPoolExecutor[Any] = StatefulThreadPoolExecutor(4, "w", max_backlog=1000)
    with trace.record(pool) as recording, pool, pool.scope() as scope:
        for _ in range(tasks):
            scope.submit(load, None)
    return recording
