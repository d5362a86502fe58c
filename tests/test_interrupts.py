"""Ctrl-C at every point at which CPython looks at signals, one run for each point.

The point between the end of a `with` body and the first instruction of `__exit__` is Python's own: see `Scope`.
"""

from __future__ import annotations

import gc
import time
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import pytest
from interrupts import Interrupt

from stateful_executor import Scope, StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[None]


class Run:
    """One run of a scenario: what it leaves for the check afterwards."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.scope: Scope | None = None
        self.futures: list[Future[object]] = []
        self.go_on = allocate_lock()  # not an Event, which is Python code that could be interrupted itself
        self.go_on.acquire()

    def hold(self) -> None:
        """A task that ends when `go_on` is released, or after a while where Ctrl-C came before that."""
        if self.go_on.acquire(timeout=0.2):
            self.go_on.release()


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


def check(run: Run, where: str) -> None:
    """After an interruption: the scope is joined, nothing is lost, nobody sleeps who should not, shutdown ends."""
    if run.scope is not None and "__exit__ RESUME" not in where:
        assert not run.scope._pending, "a task of the scope is left"
        assert all(future.done() for future in run.futures)
    for n in range(3):
        assert run.pool.submit(pow, 2, n).result(5) == 2**n
    for future in run.futures:
        with suppress(Exception):
            future.exception(5)
        assert future.done(), f"{future} is stranded"
    run.pool.shutdown(timeout=5)
    queue = run.pool._queue
    if queue.places is not None:
        assert len(queue.places) + queue.unminted == queue.max_backlog, "a place is lost"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("max_backlog", [None, 1])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scenario", [submit, blocked, scoped, with_states, cancelling, mapping])
def test_every_point(
    scenario: Callable[[Run], None], workers: int, max_backlog: int | None, request: pytest.FixtureRequest
) -> None:
    """Run the scenario once for each point, with Ctrl-C there."""
    at, where = 0, "warming up"
    gc.collect()
    gc.freeze()  # so that the collections below are short
    request.addfinalizer(gc.unfreeze)
    while where:
        run = None
        gc.collect()  # the last pool is not to be collected, with Ctrl-C in a weakref's callback, where Python drops it
        run = Run(StatefulThreadPoolExecutor(workers, max_backlog=max_backlog))
        interrupt = Interrupt(at)
        with suppress(KeyboardInterrupt), interrupt:
            scenario(run)
        where = interrupt.where or ("warmed up" if at == 0 else "")
        try:
            check(run, where)
        except BaseException as exc:
            exc.add_note(f"interrupted at point {at}: {where}")
            raise
        at += 1
    assert at > 12  # points at the least
