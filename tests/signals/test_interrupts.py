"""Ctrl-C at every point at which CPython looks at signals, one run for each point.

The point between the end of a `with` body and the first instruction of `__exit__` is Python's own: see `Scope`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from _thread import _count, allocate_lock, start_new_thread
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from functools import partial
from itertools import product
from queue import Empty
from typing import Any

import pytest
from inside import SLEEPS_IN, inside, registries
from interrupts import Interrupt

from stateful_executor import BacklogFull, Scope, StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
logger = logging.getLogger("stateful_executor")


class Run:
    """One run of a scenario: what it leaves for the check afterwards."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.scope: Scope | None = None
        self.inner: Scope | None = None
        self.futures: list[Future[object]] = []
        self.threads = _count()
        self.go_on = allocate_lock()  # not an Event, which is Python code that could be interrupted itself
        self.go_on.acquire()

    def hold(self) -> None:
        """A task that ends when `go_on` is released, or after a while where Ctrl-C came before that."""
        if self.go_on.acquire(timeout=0.05):
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


def blocked_in_loop(run: Run) -> None:
    """The same where an event loop seems to run, so that a warning is logged."""
    try:
        logger.disabled = True  # what `logging` leaves locked is not what is tested
        asyncio._set_running_loop(object())  # type: ignore[attr-defined]
        blocked(run)
    finally:
        logger.disabled = False
        asyncio._set_running_loop(None)  # type: ignore[attr-defined]  # last: Ctrl-C may come after it


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


def waiting(run: Run) -> None:
    """Wait for a task that has not ended, without and with a timeout."""
    run.futures.append(run.pool.submit(run.hold))
    start_new_thread(_release_soon, (run.go_on,))
    with suppress(TimeoutError):
        run.futures[0].exception(0.001)
    run.futures[0].result()


def scope_end_waits(run: Run) -> None:
    """The end of a scope, of one inside, and of its states, while a task runs."""
    start_new_thread(_release_soon, (run.go_on,))
    with run.pool.scope() as run.scope:
        view = run.scope.with_state(list)
        run.futures.append(view.submit(lambda _: run.hold()))
        with run.pool.scope() as inner:
            run.inner = inner
            run.futures.append(inner.submit(pow, 2, 3))


def shut_down(run: Run) -> None:
    """Shut down while tasks run and wait, in each mode."""
    run.futures.append(run.pool.submit(run.hold))
    start_new_thread(_release_soon, (run.go_on,))
    run.pool.shutdown(wait=False)
    with suppress(TimeoutError):
        run.pool.shutdown(timeout=0.001)
    run.pool.shutdown(cancel_futures=True)
    with suppress(RuntimeError):
        run.pool.submit(int)


def left(run: Run) -> None:
    """Leave a `with` block of the pool while a task runs."""
    with run.pool:
        run.futures.append(run.pool.submit(run.hold))
        start_new_thread(_release_soon, (run.go_on,))


def views(run: Run) -> None:
    """Views with a policy, bound functions, and replaced states."""
    policy = StatePolicy(max_tasks=1, reset=list.clear)
    view = run.pool.with_state(list, policy=policy)
    run.futures.append(view.submit(len))
    run.futures.append(run.pool.submit(view.bind(len)))
    view.discard_all()
    list(view.map(lambda state, n: n, range(2)))


def growing(run: Run) -> None:
    """More workers, for tasks that wait for one that is held."""
    run.futures.append(run.pool.submit(run.hold))
    start_new_thread(_release_soon, (run.go_on,))
    run.futures += [run.pool.submit(pow, 2, n) for n in range(2)]
    run.pool.resize(4)
    for future in run.futures:
        future.result()


def shrinking(run: Run) -> None:
    """Fewer workers than are idle, and then than are busy."""
    run.futures += [run.pool.submit(run.hold) for _ in range(4)]
    run.pool.resize(3)
    start_new_thread(_release_soon, (run.go_on,))
    for future in run.futures:
        future.result()
    run.pool._max_workers = 1


def full(run: Run) -> None:
    """A bounded pool's submit gives up."""
    inside(run.pool).submit_timeout = 0.001
    run.futures.append(run.pool.submit(run.hold))
    start_new_thread(_release_soon, (run.go_on,))
    for n in range(3):
        with suppress(BacklogFull):
            run.futures.append(run.pool.submit(pow, 2, n))


def closing(run: Run) -> None:
    """Close maps midway."""
    for entry_point in (run.pool.map, run.pool.map_unordered):
        results = entry_point(pow, range(4), range(4), buffersize=2)
        next(results)
        results.close()  # type: ignore[attr-defined]  # a generator


def emptying(run: Run) -> None:
    """Take out what has not begun while the worker is held, and once more when there is nothing."""
    run.futures.append(run.pool.submit(run.hold))
    run.futures.append(run.pool.submit(pow, 2, 3))
    for _ in range(2):
        with suppress(Empty):
            run.pool._work_queue.get_nowait()
    run.go_on.release()


def by_hand(run: Run) -> None:
    """Callbacks, and tasks finished by hand while the worker is held."""
    run.futures.append(run.pool.submit(run.hold))
    future = run.pool.submit(pow, 2, 3)
    future.add_done_callback(id)  # in C: what is raised inside a callback is logged as its own
    with suppress(InvalidStateError):
        future.set_result(8)
    run.go_on.release()


def making(run: Run) -> None:
    """Make pools, use one, and drop them."""
    for options in ({}, {"initializer": list, "max_backlog": 2, "copy_context": True, "task_decorator": partial}):
        pool: Pool = StatefulThreadPoolExecutor(1, **options)  # type: ignore[call-overload]
        run.futures.append(pool.submit(pow, 2, 3))
        repr(pool)
        del pool


def breaking(run: Run) -> None:
    """Submit while the initializer fails."""
    pool: Pool = StatefulThreadPoolExecutor(1, initializer=_fail)
    with pool, suppress(RuntimeError):
        for _ in range(3):
            run.futures.append(pool.submit(int))


def _fail() -> None:
    raise LookupError


def _in_window(where: str) -> bool:
    """Whether Ctrl-C came at the entry of a scope's `__exit__`."""
    return re.search(r"_scope.py:\d+ __exit__ \w*RESUME", where) is not None


def check(run: Run, where: str) -> None:
    """After an interruption: the scope is joined, nothing is lost, nobody sleeps who should not, shutdown ends."""
    if run.scope is not None and _in_window(where):
        # Else the thread for its timeout sleeps on; if it has not begun yet, the next run would count it as its own.
        inside(run.scope).end_alarm()
    elif run.scope is not None:
        assert not inside(run.scope).pending, "a task of the scope is left"
        assert not inside(run.scope).permit_waiters, "somebody seems to wait in the scope"
        assert all(future.done() for future in run.futures)
    for registry in registries():
        if registry.pool is not None and registry.pool() is None:
            # Its callback, at the entry of which Python ignores Ctrl-C, had no time to.
            registry.close(RuntimeError)
    inside(run.pool).submit_timeout = None
    if inside(run.pool).close_reason is None:
        for n in range(3):
            assert run.pool.submit(pow, 2, n).result(5) == 2**n
    for future in run.futures:
        with suppress(Exception):
            future.exception(5)
        assert future.done(), f"{future} is stranded"
    registry = inside(run.pool)
    none_too_many(registry)
    run.pool.shutdown(timeout=5)
    stats = run.pool.stats()
    assert (stats.running, stats.backlog, stats.blocked_submitters) == (0, 0, 0)
    assert stats.states_torn_down == stats.states_made
    assert all(index >= 0 for index in registry.free_indices), "a worker that was never numbered gave its number back"
    give_up = time.monotonic() + 20
    # Also those for a timeout, which `threading` does not list. A function in Python returns without a look at signals.
    while _count() > run.threads:
        assert time.monotonic() < give_up, "a thread is left"
        time.sleep(0)
    if registry.free_permits is not None:
        assert len(registry.free_permits) + registry.unissued == registry.max_backlog, "a place is lost"


def none_too_many(registry: Any) -> None:
    """The workers fit the number that there may be, be it that of before the interruption."""
    give_up = time.monotonic() + 20
    while registry.close_reason is None and len(registry.workers) > registry.max_workers:
        assert time.monotonic() < give_up, "a worker too many stays"
        time.sleep(0)


EVERYWHERE = (submit, blocked, scoped, with_states, cancelling, mapping)
TWICE = (
    *(blocked_in_loop, unordered, looking, retiring, failing, out_of_time, blocked_in_scope, broadcasting),
    *(waiting, scope_end_waits, shut_down, left, views, full, closing, emptying, by_hand, making, breaking),
)
MAIN = (scoped, blocked, waiting, scope_end_waits, shut_down, growing)
CASES = [*product(EVERYWHERE, (1, 2), (None, 1)), *product(TWICE, (1,), (1,)), *product(TWICE, (2,), (None,))]
CASES += [(growing, 1, None), (growing, 2, 2), (shrinking, 4, None)]


class TimeLimit(Exception):
    """What the handler of a time limit raises."""


class Stop(BaseException):
    """What `sys.exit` in a handler is like."""


def _once(scenario: Callable[[Run], None], workers: int, max_backlog: int | None, interrupt: Interrupt) -> None:
    """One run of the scenario with an interrupt, which comes out of it; and the check of what it leaves."""
    gc.collect()  # the last pool is not to be collected, with Ctrl-C in a weakref's callback, where Python drops it
    own: dict[str, Any] = {"initializer": list} if scenario is broadcasting else {}
    own |= {"idle_timeout": 0} if scenario is retiring else {}
    run = Run(StatefulThreadPoolExecutor(workers, max_backlog=max_backlog, **own))
    raised = None
    with interrupt:
        try:
            scenario(run)
        except interrupt.error as exc:
            raised = exc
    try:
        assert raised is not None or not interrupt.where or interrupt.ignored, "it was swallowed"
        del raised
        check(run, " ".join(interrupt.where))
    except BaseException as exc:
        exc.add_note(f"interrupted at {interrupt.where}, numbers {interrupt.next}")
        raise


def every_point(
    scenario: Callable[[Run], None],
    workers: int,
    max_backlog: int | None,
    error: type[BaseException] = KeyboardInterrupt,
) -> list[int]:
    """Run the scenario once for each point, with a signal there whose handler raises; the numbers of the points."""
    points: list[int] = []
    gc.collect()
    gc.freeze()  # so that the collections below are short
    at = 1
    while at:
        interrupt = Interrupt(at, error=error)
        _once(scenario, workers, max_backlog, interrupt)
        if interrupt.fresh:
            continue
        slept = any(f" {code.co_name} " in where for code in SLEEPS_IN for where in interrupt.where)
        if interrupt.prodded and slept:  # then sleep through it, too
            _once(scenario, workers, max_backlog, Interrupt(at, prod=False, error=error))
        if interrupt.where:
            points.append(at)
        at = interrupt.next[0]
    return points


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C while a pool is collected
@pytest.mark.parametrize(("scenario", "workers", "max_backlog"), CASES)
def test_every_point(scenario: Callable[[Run], None], workers: int, max_backlog: int | None) -> None:
    """Ctrl-C at each point in turn: the scope is joined, nothing is lost, nobody sleeps, shutdown ends."""
    assert len(every_point(scenario, workers, max_backlog)) > 12


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of a log call: see `tell`
@pytest.mark.parametrize(("scenario", "error"), [*product(EVERYWHERE + TWICE, [TimeLimit]), *product(MAIN, [Stop])])
def test_whatever_a_handler_raises(scenario: Callable[[Run], None], error: type[BaseException]) -> None:
    """A time limit, or `sys.exit`: it comes out of the call that it met, and the same holds."""
    assert len(every_point(scenario, 1, 1, error)) > 12


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the second one, in a generator's end
@pytest.mark.parametrize("scenario", MAIN)
def test_twice(scenario: Callable[[Run], None]) -> None:
    """A second Ctrl-C soon after the first, which meets what cleans up after that one."""
    for at in every_point(scenario, 1, 1):
        again = 1
        while 0 < again < 400:
            interrupt = Interrupt(at, again)
            _once(scenario, 1, 1, interrupt)
            again = interrupt.next[1] and again * 4 + at % 3


if __name__ == "__main__":  # how many points there are
    for case in CASES:
        print(case[0].__name__, *case[1:], len(every_point(*case)), flush=True)
