"""Exceptions thrown into workers by other threads, as time limits, debuggers and notebook kernels do."""

from __future__ import annotations

import ctypes
import dis
import gc
import logging
import random
import sys
import threading
from _thread import LockType, allocate_lock, get_ident
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from itertools import islice, repeat
from types import CodeType, FrameType
from typing import Any

import pytest
from inside import hook, inside, is_parked
from interrupts import _ours, place
from threads import PATIENCE, until

from stateful_executor import InitializerError, StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[Any]


class Thrown(BaseException):
    """No user code raises it."""


def nothing_thrown_is_left() -> bool:
    """Whether the threads that log what came out of a worker have ended: `threading` does not know all of them.

    On 3.11 what is thrown at a thread comes out of one that it has just started, when that one has not run yet.
    """
    gc.collect()
    return not any(type(each) is Thrown for each in gc.get_objects())


@pytest.fixture(autouse=True)
def unheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is thrown into a thread may come out of a finalizer in there, or at the very end of the thread.

    And in the middle of a log call, it leaves the lock of a handler of `logging` held for ever.
    """

    def without(hook: Callable[[Any], object]) -> Callable[[Any], None]:
        return lambda args: None if args.exc_type is Thrown else hook(args)  # type: ignore[return-value]

    monkeypatch.setattr(threading, "excepthook", without(threading.excepthook))
    monkeypatch.setattr(sys, "unraisablehook", without(sys.unraisablehook))
    logging.disable()
    yield
    until(nothing_thrown_is_left)
    logging.disable(logging.NOTSET)


_set_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


def pass_through(lock: LockType) -> None:
    """A task that waits in C: what is thrown into an `Event` would leave that one's own lock held."""
    lock.acquire()
    lock.release()


class ThrowAt:
    """A trace function for one worker: has `Thrown` raised in it at point number `at` of the library's own code.

    A point is where the interpreter looks at what was thrown: an instruction of those in `LOOKS`. From the event before
    it on no Python code runs in between, so that it is raised there.
    """

    LOOKS = frozenset({"PRECALL", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"})

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.where: str = ""
        self._code: dict[CodeType, bytes] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "call":
            if not _ours(frame):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode" and self._looks(frame):
            self.passed += 1
            if self.passed == self.at:
                self._throw(frame)
                for _ in iter(partial(_set_async_exc, threading.get_ident(), Thrown), "never"):
                    return None  # by a loop: after a call it would be raised here
        return self

    def _looks(self, frame: FrameType) -> bool:
        code = self._code.get(frame.f_code)
        if code is None:
            code = self._code[frame.f_code] = frame.f_code.co_code
        return dis.opname[code[frame.f_lasti]] in self.LOOKS

    def _throw(self, frame: FrameType) -> None:
        self.where = place(frame)
        sys.settrace(None)
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_trace is not None:
                outer.f_trace = None
            outer = outer.f_back


traces = pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 is not up to such a trace; it has the storm")


class Case:
    """A pool with states, a bound and a scope in use; and what must hold when it is over, whatever was thrown."""

    def __init__(self, workers: int, **options: Any) -> None:
        self.made: list[object] = []
        self.torn_down: list[object] = []
        self.pool: Pool = StatefulThreadPoolExecutor(
            workers, "thrown", self.make, finalizer=self.torn_down.append, max_backlog=3, **options
        )

    def make(self) -> object:
        state = object()
        self.made.append(state)
        return state

    def use(self) -> None:
        """Tasks of all kinds, one after the other and together; those that were cut off fail, all others work."""
        pool = self.pool
        outcomes: list[object] = []

        def outcome(call: Callable[[], object]) -> None:
            try:
                outcomes.append(call())
            except (Thrown, InitializerError) as exc:
                outcomes.append(type(exc))
            except BaseExceptionGroup as group:
                assert all(isinstance(exc, Thrown | InitializerError) for exc in group.exceptions)

        outcome(lambda: pool.submit(int).result(PATIENCE))
        view = pool.with_state()
        futures = [view.submit(lambda _: 1) for _ in range(4)]
        for future in futures:
            outcome(partial(future.result, PATIENCE))

        def in_scope() -> None:
            with pool.scope() as scope:
                own = scope.with_state(self.make, finalizer=self.torn_down.append)
                for _ in range(3):
                    scope.submit(int)
                    own.submit(lambda _: 2)

        outcome(in_scope)

        def nested() -> object:
            return view.submit(lambda _: view.submit(lambda _: 3).result(PATIENCE)).result(PATIENCE)

        outcome(nested)
        for future in pool.broadcast(int):
            with suppress(CancelledError):  # its worker has left
                outcome(partial(future.result, PATIENCE))
        errors = [each for each in outcomes if isinstance(each, type)]
        assert len(errors) <= 2, errors  # of two, one task waited for the other one in the same worker

    def check(self) -> None:
        """The pool works as ever, and at its end nothing is left."""
        pool = self.pool
        assert pool.submit(int).result(PATIENCE) == 0
        both = threading.Barrier(pool._max_workers)
        futures = [pool.submit(both.wait, PATIENCE) for _ in range(pool._max_workers)]  # each worker is there
        assert sorted(future.result(PATIENCE) for future in futures) == list(range(pool._max_workers))
        until(lambda: all(is_parked(worker) for worker in list(inside(pool).workers)))
        assert len(inside(pool).free_permits) == 3
        assert not pool.stats().backlog
        self.end()

    def end(self) -> None:
        """Shut it down: all is accounted for."""
        pool = self.pool
        pool.shutdown(timeout=PATIENCE)
        until(lambda: not pool.stats().workers)  # one that is not to start any more may be counted for a moment
        stats = pool.stats()
        assert stats.submitted == stats.completed + stats.failed + stats.cancelled
        assert stats.states_made == stats.states_torn_down
        assert stats.running == 0


def trace_from_here(tracer: ThrowAt) -> None:
    """A task: traces what its worker does from now on."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame):
        frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines = tracer, True, False
        frame = frame.f_back
    sys.settrace(tracer)


def at_every_point(once: Callable[[ThrowAt], object]) -> int:
    """Call `once` for each point in turn, up to the first that is not reached; how many points there are."""
    at = 0
    while True:
        at += 1
        tracer = ThrowAt(at)
        try:
            once(tracer)
        except BaseException as exc:
            exc.add_note(f"thrown at point {at}: {tracer.where}")
            raise
        if not tracer.where:
            return at - 1


@pytest.mark.timeout(300)
@traces
@pytest.mark.parametrize("workers", [1, 2])
def test_at_every_point(workers: int) -> None:
    """Wherever it lands in a worker, at most its task fails, its states are torn down, and the pool goes on."""

    def once(tracer: ThrowAt) -> None:
        case = Case(workers)
        case.pool.submit(int).result(PATIENCE)  # else the initializer may never have succeeded, and the pool be broken
        with suppress(Thrown):
            case.pool.submit(trace_from_here, tracer).result(PATIENCE)
        case.use()
        tracer.at = 0
        case.check()

    assert at_every_point(once) >= 15


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.12 crashes in such a trace of a thread from its start")
def test_again_at_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one comes after one that cut off the end of a task: no scope waits for that, or for its states."""
    run_worker, take_back = getattr(*hook("Worker.run_worker")), getattr(*hook("Slot.take_back"))
    at = 0
    while True:
        at += 1
        tracer = ThrowAt(0)

        def cut_off_at_first(worker: Any, tracer: ThrowAt = tracer) -> None:
            monkeypatch.setattr(*hook("Worker.run_worker"), run_worker)
            sys._getframe().f_trace_opcodes = True  # before `settrace`, or CPython 3.12 traces none
            sys.settrace(tracer)
            raise Thrown

        def cut_off(slot: Any, error: object, tracer: ThrowAt = tracer, at: int = at) -> None:
            monkeypatch.setattr(*hook("Slot.take_back"), take_back)
            tracer.passed, tracer.at = 0, at
            raise Thrown

        monkeypatch.setattr(*hook("Worker.run_worker"), cut_off_at_first)
        case = Case(1)
        try:
            case.pool.submit(int).result(PATIENCE)
            monkeypatch.setattr(*hook("Slot.take_back"), cut_off)
            with suppress(BaseExceptionGroup), case.pool.scope() as scope:
                own = scope.with_state(case.make, finalizer=case.torn_down.append)
                own.submit(lambda _, view=own: view.discard())
                scope.submit(int)
            tracer.at = 0
            case.use()
            case.check()
        except BaseException as exc:
            exc.add_note(f"thrown at point {at}: {tracer.where}")
            raise
        if not tracer.where:
            break
    assert at > 60


@pytest.mark.timeout(300)
@traces
@pytest.mark.parametrize("idle_timeout", [None, 0])
def test_at_every_point_of_the_end(idle_timeout: float | None) -> None:
    """Wherever it lands while the pool is shut down: what was accepted is run, all is torn down, and the pool ends."""

    def once(tracer: ThrowAt) -> None:
        case = Case(1, idle_timeout=idle_timeout)
        pool = case.pool
        view = pool.with_state(case.make, finalizer=case.torn_down.append)
        view.submit(id).result(PATIENCE)
        with suppress(Thrown):
            pool.submit(trace_from_here, tracer).result(PATIENCE)
        held = allocate_lock()
        held.acquire()
        futures = [pool.submit(pass_through, held), view.submit(id), pool.submit(int)]
        pool.shutdown(wait=False)
        held.release()
        case.end()
        assert all(future.done() for future in futures)
        assert len([future for future in futures if future.exception() is not None]) <= 1

    assert at_every_point(once) >= 30


@pytest.fixture
def calm() -> Iterator[None]:
    """The usual switch interval: with one of 1 µs the thread that throws hardly gets a turn."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("workers", [1, 4])
def test_worker_that_submits_rely_on(workers: int) -> None:
    """It is thrown at while it sleeps, and is cut off when it is woken for a task: the others see to the tasks."""
    with StatefulThreadPoolExecutor(workers, initializer=object, finalizer=id) as pool:
        for round_ in range(10):
            for future in [pool.submit(int) for _ in range(50)]:  # some wake nobody, after wakes in vain
                future.result(PATIENCE)
            until(lambda: all(is_parked(worker) for worker in list(inside(pool).workers)))
            for thread in list(pool._threads)[: 1 + round_ % workers]:
                _set_async_exc(thread.ident or 0, Thrown)
            for future in [pool.submit(int) for _ in range(40)]:
                with suppress(Thrown):
                    assert future.result(PATIENCE) == 0
        future = pool.submit(int)
        pool.shutdown()
        assert future.done()
        stats = pool.stats()
    assert stats.states_made == stats.states_torn_down
    assert stats.failed <= 10 * workers


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backlog", [None, 2])
def test_storm(backlog: int | None, calm: None) -> None:
    """At random, under load, by the thousand: no task is lost, no place, no state; and the pool is as good as new."""
    dice = random.Random(backlog or 0)  # noqa: S311
    over = threading.Event()
    # The threads that have a state of the pool's own. Before and after, what is thrown hits `threading`, or another
    # thread that has got the same number. So all that is done with them is done in C.
    there: set[int] = set()
    throws = 0

    def storm() -> None:
        nonlocal throws
        while not over.is_set():
            with suppress(RuntimeError):  # a free-threaded build: the set has changed
                throws += next(map(_set_async_exc, islice(there, dice.randrange(3), None), repeat(Thrown)), 0)
            for _ in range(dice.randrange(5000)):
                pass

    def work(state: object, depth: int) -> None:
        if depth:
            view.submit(work, depth - 1).result(PATIENCE)

    pool: Pool = StatefulThreadPoolExecutor(3, initializer=get_ident, finalizer=there.discard, max_backlog=backlog)
    pool.submit(int).result(PATIENCE)
    view = pool.with_state(object, finalizer=id)
    thrower = threading.Thread(target=storm)
    thrower.start()
    futures = []
    try:
        while throws < 1000 or len(futures) < 1200:
            with suppress(BaseExceptionGroup), pool.scope() as scope:
                own = scope.with_state(object, finalizer=id)
                pool.with_state().submit(there.add)
                futures += [scope.submit(int), own.submit(id), view.submit(work, 2), pool.submit(int)]
            for future in futures[-4:]:
                future.exception(PATIENCE)
    finally:
        over.set()
        thrower.join()
    assert pool.submit(int).result(PATIENCE) == 0
    pool.shutdown(timeout=PATIENCE)
    assert all(future.done() for future in futures)
    stats = pool.stats()
    assert stats.submitted == stats.completed + stats.failed + stats.cancelled
    assert stats.states_made == stats.states_torn_down
    assert backlog is None or len(inside(pool).free_permits) == backlog


def test_while_the_pool_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The initializer has failed, and the worker is cut off before it has said so: the task fails, or is refused."""
    true_close = getattr(*hook("Registry.close"))

    def close(registry: Any, reason: Any) -> None:
        monkeypatch.setattr(*hook("Registry.close"), true_close)
        raise Thrown

    monkeypatch.setattr(*hook("Registry.close"), close)
    with StatefulThreadPoolExecutor(1, initializer=int, initargs=("none",)) as pool:
        with pytest.raises(BrokenThreadPool):  # by the submit, when the worker is faster
            pool.submit(int).result(PATIENCE)
