"""Ctrl-C at every point at which CPython looks at signals, one run for each point.

The point between the end of a `with` body and the first instruction of `__exit__` is Python's own: see `Scope`.
"""

from __future__ import annotations

import gc
import time
from _thread import _count, allocate_lock, start_new_thread
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from interrupts import Interrupt

from stateful_executor import Scope, StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]


class Run:
    """One run of a scenario: what it leaves for the check afterwards."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.scope: Scope | None = None
        self.futures: list[Future[object]] = []
        self.threads = _count()
        self.go_on = allocate_lock()  # not an Event, which is Python code that could be interrupted itself
        self.go_on.acquire()

    def hold(self) -> None:
        """A task that ends when `go_on` is released, or after a while where Ctrl-C came before that."""
        if self.go_on.acquire(timeout=0.2):
            self.go_on.release()

    def hold_in_scope(self) -> None:
        """A task that ends when its scope is cancelled."""
        while self.scope is None or not self.scope.cancelled:
            time.sleep(0)


def submit(run: Run) -> None:
    """Submit, and take the results."""
    for n in range(3):
        run.futures.append(run.pool.submit(pow, 2, n))
    for future in run.futures:
        future.result()


def blocked(run: Run) -> None:
    """Submit while the worker is held: on a bounded pool this blocks."""
    run.futures.append(run.pool.submit(run.hold))
    start_new_thread(_release_soon, (run.go_on,))
    for n in range(3):
        run.futures.append(run.pool.submit(pow, 2, n))
    for future in run.futures:
        future.result()


def _release_soon(lock: object) -> None:
    time.sleep(0.005)  # the stretch of time that the others are blocked
    lock.release()  # type: ignore[attr-defined]


def scoped(run: Run) -> None:
    """A scope with a few tasks."""
    with run.pool.scope() as run.scope:
        for n in range(3):
            run.futures.append(run.scope.submit(pow, 2, n))


def with_states(run: Run) -> None:
    """A scope with states of its own."""
    with run.pool.scope() as run.scope:
        view = run.scope.with_state(list)
        for n in range(3):
            run.futures.append(view.submit(list.append, n))


def cancelling(run: Run) -> None:
    """Cancel a task that others wait for."""
    try:
        run.futures.append(run.pool.submit(run.hold))
        future = run.pool.submit(pow, 2, 3)
        run.futures.append(future)
        future.cancel()
    finally:
        run.go_on.release()


def mapping(run: Run) -> None:
    """Maps with and without a buffer, and with chunks."""
    list(run.pool.map(pow, range(4), range(4), buffersize=2))
    list(run.pool.map(pow, range(4), range(4), chunksize=2))


def failing(run: Run) -> None:
    """A scope with a deadline, one of whose tasks fails, so that the rest is cancelled."""
    with (
        suppress(ExceptionGroup, RuntimeError),  # a submit after the failure is refused
        run.pool.scope(timeout=60, fail_fast=True) as run.scope,
    ):
        for n in (1, 0, 1):
            run.futures.append(run.scope.submit(divmod, 1, n))


def out_of_time(run: Run) -> None:
    """A scope whose deadline comes while its body submits, and blocks where there is a bound."""
    with suppress(TimeoutError), run.pool.scope(timeout=0.002) as run.scope:
        for _ in range(3):
            run.futures.append(run.scope.submit(run.hold_in_scope))


def blocked_in_scope(run: Run) -> None:
    """Submit to a scope while the worker is held: on a bounded pool this blocks."""
    with run.pool.scope() as run.scope:
        run.futures.append(run.scope.submit(run.hold))
        start_new_thread(_release_soon, (run.go_on,))
        for n in range(3):
            run.futures.append(run.scope.submit(pow, 2, n))


def broadcasting(run: Run) -> None:
    """Broadcast, also to those who hold a state, which is replaced."""
    view = run.pool.with_state(list)
    run.futures.append(view.submit(len))
    run.futures += run.pool.broadcast(int)
    run.futures[-1].result()
    view.discard_all()
    run.futures += view.broadcast(len)
    for future in run.futures:
        future.result()
    with run.pool.scope() as run.scope:
        run.futures += run.scope.with_state().broadcast(len)


def unordered(run: Run) -> None:
    """Results as they come, of the pool and of a scope."""
    list(run.pool.map_unordered(pow, range(4), range(4), buffersize=2))
    with run.pool.scope() as run.scope:
        list(run.scope.map_unordered(pow, range(4), range(4), chunksize=2))


def looking(run: Run) -> None:
    """Look at the figures meanwhile."""
    run.futures.append(run.pool.submit(pow, 2, 3))
    run.pool.stats()
    run.futures[0].cancel()
    repr(run.pool)


def retiring(run: Run) -> None:
    """Each task may find that the worker is just leaving; each state is torn down."""
    view = run.pool.with_state(list, finalizer=list.clear)
    for _ in range(3):
        run.futures.append(view.submit(len))
        with suppress(CancelledError):
            run.futures[-1].result()


def check(run: Run, where: str) -> None:
    """After an interruption: the scope is joined, nothing is lost, nobody sleeps who should not, shutdown ends."""
    if run.scope is not None and "__exit__ RESUME" not in where:
        assert not run.scope._pending, "a task of the scope is left"
        assert not run.scope._submitters, "somebody seems to wait in the scope"
        assert all(future.done() for future in run.futures)
    for n in range(3):
        assert run.pool.submit(pow, 2, n).result(5) == 2**n
    for future in run.futures:
        with suppress(Exception):
            future.exception(5)
        assert future.done(), f"{future} is stranded"
    run.pool.shutdown(timeout=5)
    queue = run.pool._queue
    stats = run.pool.stats()
    assert (stats.running, stats.backlog, stats.blocked_submitters) == (0, 0, 0)
    assert stats.states_torn_down == stats.states_made
    assert all(index >= 0 for index in queue.vacant), "a worker that was never numbered gave its number back"
    give_up = time.monotonic() + 20
    # Also those for a timeout, which `threading` does not list. A function in Python returns without a look at signals.
    while _count() > run.threads and "__enter__ POP_TOP" not in where:
        assert time.monotonic() < give_up, "a thread is left"
        time.sleep(0)
    if queue.places is not None:
        assert len(queue.places) + queue.unminted == queue.max_backlog, "a place is lost"


EVERYWHERE = (submit, blocked, scoped, with_states, cancelling, mapping)
TWICE = (unordered, looking, retiring, failing, out_of_time, blocked_in_scope, broadcasting)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("scenario", "workers", "max_backlog"),
    [*product(EVERYWHERE, (1, 2), (None, 1)), *product(TWICE, (1,), (1,)), *product(TWICE, (2,), (None,))],
)
def test_every_point(scenario: Callable[[Run], None], workers: int, max_backlog: int | None) -> None:
    """Run the scenario once for each point, with Ctrl-C there."""
    at, where = 0, "warming up"
    gc.collect()
    gc.freeze()  # so that the collections below are short
    while where:
        run = None
        gc.collect()  # the last pool is not to be collected, with Ctrl-C in a weakref's callback, where Python drops it
        own: dict[str, Any] = {"initializer": list} if scenario is broadcasting else {}
        own |= {"idle_timeout": 0} if scenario is retiring else {}
        run = Run(StatefulThreadPoolExecutor(workers, max_backlog=max_backlog, **own))
        interrupt = Interrupt(at)
        with suppress(KeyboardInterrupt), interrupt:
            scenario(run)
        where = interrupt.where or ("warmed up" if at == 0 else "")
        at += 1
        if "PUSH_EXC_INFO" in where:  # CPython looks at signals after calls that return, not after those that raise
            run.pool.shutdown(timeout=5)
            continue
        try:
            check(run, where)
        except BaseException as exc:
            exc.add_note(f"interrupted at point {at - 1}: {where}")
            raise
    assert at > 12  # points at the least
