"""Bugs of other pools, each as one program; `test_upstream` runs them, each in an interpreter of its own.

A scenario gets the class of a pool, and returns whether that one behaves well. Each is run with ours, which must, and
with the rivals that it names, which must not: so each is known to be able to fail. A rival that hangs there is not run:
the docstring says what hung, and `naive` has the mistake. What hangs is told by the state that it is stuck in; where
nothing tells, a rival has `BOUND` seconds to show that it does not hang, and ours has far more.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from inspect import signature
from types import FrameType
from typing import Any, NamedTuple

from inside import SLEEPS_IN

PATIENCE = 20  # seconds, after which a child says where it hangs, and dies
OURS = "stateful_executor.StatefulThreadPoolExecutor"
STDLIB = "concurrent.futures.ThreadPoolExecutor"
THREAD_POOL = "multiprocessing.pool.ThreadPool"
BOUNDED = "bounded_pool_executor.BoundedThreadPoolExecutor"
PEBBLE = "pebble.ThreadPool"
MPIRE = "mpire.WorkerPool"
NAIVE = "naive.Pool"

BOUND = 15.0  # what waits for something that is to happen
TOLD = "the verdict is given at exit"

Open = Callable[..., Any]


class Bug(NamedTuple):
    """A scenario, those who are known to fail it, and those who have been mended since."""

    scenario: Callable[[Open], object]
    rivals: tuple[str, ...]
    mended: tuple[str, ...]
    versions: tuple[tuple[int, int], tuple[int, int]]  # of the standard library that fail, the first and the last
    posix: bool  # sends signals, or forks


BUGS: dict[str, Bug] = {}


def bug(
    *rivals: str,
    mended: tuple[str, ...] = (),
    first: tuple[int, int] = (3, 11),
    last: tuple[int, int] = (3, 15),
    posix: bool = False,
) -> Callable[[Callable[[Open], object]], Callable[[Open], object]]:
    """Have the scenario run, with ours and with these."""

    def register(scenario: Callable[[Open], object]) -> Callable[[Open], object]:
        BUGS[scenario.__name__] = Bug(scenario, rivals, mended, (first, last), posix)
        return scenario

    return register


# Tools


def until(condition: Callable[[], object]) -> bool:
    """Wait for `condition`; whether it came true."""
    give_up = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.001)
    return True


def ends(fn: Callable[..., object], *args: object) -> bool:
    """Whether `fn` ends, with a result or an error, when called in a thread of its own."""

    def call() -> None:
        with suppress(Exception, CancelledError):
            fn(*args)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(BOUND)
    return not thread.is_alive()


def others() -> int:
    """How many threads there are besides this one and the main one."""
    return len(set(threading.enumerate()) - {threading.main_thread(), threading.current_thread()})


def asleep(thread: threading.Thread) -> FrameType | None:
    """The frame in which this thread sleeps, if it does."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return None
    code = frame.f_code
    in_stdlib = code.co_filename == threading.__file__ and code.co_name in {"wait", "join", "_wait_for_tstate_lock"}
    return frame if in_stdlib or code in SLEEPS_IN else None


def main_sleeps(function: str) -> bool:
    """Whether the main thread sleeps in a function of this name, or below."""
    frame = asleep(threading.main_thread())
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


def until_asleep(thread: threading.Thread) -> None:
    """Wait until this thread sleeps for good: it may pass by such places on its way."""
    streak = 0
    while streak < 20:
        streak = streak + 1 if asleep(thread) else 0
        time.sleep(0.001)


interrupts: list[None] = []


def on_sigint(*_: object) -> None:
    interrupts.append(None)
    raise KeyboardInterrupt


def interrupt() -> None:
    """In a worker: have KeyboardInterrupt raised in the main thread, also where that sleeps."""
    main = threading.main_thread().ident
    assert main is not None
    before = len(interrupts)
    signal.pthread_kill(main, signal.SIGINT)
    while len(interrupts) == before:
        # CPython does not see a signal that comes right between its last look and the system call that sleeps.
        signal.pthread_kill(main, signal.SIGUSR1)
        time.sleep(0.001)


def tell(good: object) -> None:
    """Say whether it is good, in one step, and end, whatever hangs."""
    os.write(1, b"good\n" if good else b"bad\n")
    os._exit(0)


# Initializers


def fails_after(gate: threading.Event) -> Callable[[], None]:
    """An initializer that fails once `gate` is open."""

    def initializer() -> None:
        gate.wait()
        raise ValueError

    return initializer


@bug(NAIVE)
def a_cancelled_task_keeps_the_news_of_a_failed_initializer_from_the_others(open_pool: Open) -> bool:
    """The initializer fails, one of the queued futures is cancelled: the others end (cpython#107219).

    In CPython's pool, 3.11 to 3.15, they never do.
    """
    gate = threading.Event()

    pool = open_pool(1, initializer=fails_after(gate))
    futures = [pool.submit(int) for _ in range(3)]
    futures[0].cancel()
    gate.set()
    until(lambda: not others() or all(future.done() for future in futures))  # nobody is left who could end them
    return all(future.done() for future in futures)


@bug(STDLIB)
def a_failed_initializer_has_no_cause(open_pool: Open) -> bool:
    """`BrokenThreadPool` says why: its `__cause__` is what the initializer raised."""
    error = LookupError()

    def initializer() -> None:
        raise error

    pool = open_pool(1, initializer=initializer)
    return pool.submit(int).exception(BOUND).__cause__ is error


@bug(NAIVE)
def a_failed_initializer_of_a_dropped_pool_says_nothing_to_its_tasks(open_pool: Open) -> object:
    """The last reference to a pool goes before its initializer fails: its futures end nevertheless.

    In CPython's pool, 3.11 to 3.15, they never do.
    """
    gate = threading.Event()

    future = open_pool(1, initializer=fails_after(gate)).submit(int)
    gc.collect()
    gate.set()
    until(lambda: not others() or future.done())
    return future.done()


@bug(NAIVE)
def a_failed_initializer_leaves_its_tasks_pending(open_pool: Open) -> bool:
    """The initializer fails: the task that waits for it ends with an error.

    In pebble 5.2.0 and multiprocessing.pool it never does.
    """
    gate = threading.Event()

    future = open_pool(1, initializer=fails_after(gate)).submit(int)
    gate.set()
    return ends(future.result)


@bug(STDLIB)
def one_failed_initializer_breaks_a_pool_that_has_worked(open_pool: Open) -> object:
    """A worker that can't start costs one task, not the pool, when others have started (temporalio/sdk-python#245)."""
    outcomes = iter([True, False, True])
    gate = threading.Event()

    def initializer() -> None:
        if not next(outcomes):
            raise ValueError

    pool = open_pool(2, initializer=initializer)
    first = pool.submit(gate.wait)
    with suppress(RuntimeError):
        pool.submit(int).result(BOUND)
    gate.set()
    try:
        return first.result() and pool.submit(int).result() == 0
    except RuntimeError:
        return False


@bug(MPIRE)
def a_failed_task_skips_the_teardown(open_pool: Open) -> bool:
    """What an initializer made is torn down, also when a task has failed."""
    return torn_down(open_pool, fail)


@bug(MPIRE)
def a_pool_kept_alive_skips_the_teardown(open_pool: Open) -> bool:
    """What an initializer made is torn down at the end of a pool that was to live longer than one map."""
    return torn_down(open_pool, str, keep_alive=True)


@bug(MPIRE)
def a_single_task_skips_the_teardown(open_pool: Open) -> bool:
    """What an initializer made is torn down, also when it was for one task that was no part of a map."""
    return torn_down(open_pool, str, single=True)


def fail(*_: object) -> None:
    raise LookupError


def torn_down(open_pool: Open, task: Callable[..., object], *, single: bool = False, keep_alive: bool = False) -> bool:
    """Whether the teardown has run at the end of the block."""
    torn: list[object] = []
    ours, theirs = {"initializer": object, "finalizer": torn.append}, {"keep_alive": keep_alive}
    with suppress(LookupError), open_pool(1, ours=ours, theirs=theirs) as pool:
        if hasattr(pool, "submit"):
            pool.submit(task, 1).result()
        else:
            run, args = (pool.apply, (1,)) if single else (pool.map, [1])
            run(task, args, worker_init=object, worker_exit=lambda: torn.append(None))
    return len(torn) == 1


# Backlog


@bug(BOUNDED)
def a_bound_needs_a_number_of_workers(open_pool: Open) -> object:
    """The default number of workers goes with a bound."""
    try:
        pool = open_pool(None, bound=10)
    except TypeError:
        return False
    return pool.submit(int).result() == 0


@bug(STDLIB, BOUNDED)
def a_task_whose_submit_raised_runs(open_pool: Open) -> bool:
    """`submit` raises, since no thread can be started: its task does not run later, with the next one."""
    ran: list[None] = []
    pool, start = open_pool(2), threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]
    try:
        pool.submit(ran.append, None)
    except RuntimeError:
        raised = True
    else:
        raised = False
    threading.Thread.start = start  # type: ignore[method-assign]
    pool.submit(int).result()
    pool.shutdown()
    return bool(ran) != raised


@bug(NAIVE)
def a_full_pool_stalls_other_pools(open_pool: Open) -> bool:
    """A thread blocked in `submit` holds nothing that others need, unlike with `_work_queue = Queue(n)`.

    In CPython's pool, 3.11 to 3.15, with that recipe, every other pool waits for ever.
    """
    gate = threading.Event()
    pool, other = open_pool(1, bound=1), open_pool(1)

    def submitter() -> None:
        while True:
            pool.submit(gate.wait)

    thread = threading.Thread(target=submitter, daemon=True)
    thread.start()
    until_asleep(thread)
    return ends(lambda: other.submit(int).result())


@bug(NAIVE)
def a_blocked_submit_holds_up_shutdown(open_pool: Open) -> bool:
    """`shutdown(wait=False)` returns at once while a thread is blocked in `submit`, and wakes that with an error.

    In more-executors 2.11.4 neither returns.
    """
    gate = threading.Event()
    pool = open_pool(1, bound=1)
    pool.submit(gate.wait)

    def submitter() -> None:
        with suppress(RuntimeError):
            while True:
                pool.submit(gate.wait)

    thread = threading.Thread(target=submitter, daemon=True)
    thread.start()
    until_asleep(thread)
    return ends(lambda: pool.shutdown(wait=False)) and until(lambda: not thread.is_alive())


@bug(NAIVE)
def a_submit_that_is_refused_takes_a_place(open_pool: Open) -> bool:
    """Submits after shutdown are refused, however many there are.

    In bounded-pool-executor 0.0.3 one of them waits for ever.
    """
    pool = open_pool(2)
    pool.submit(int).result()
    pool.shutdown()

    def refused() -> None:
        for _ in range(10):
            with suppress(RuntimeError):
                pool.submit(int)

    return ends(refused)


@bug(NAIVE)
def a_task_that_submits_while_the_pool_is_full_deadlocks(open_pool: Open) -> bool:
    """Tasks of a full pool submit to it: they go on.

    In more-executors 2.11.4 and bounded-pool-executor 0.0.3 they wait for ever.
    """
    pool = open_pool(1, bound=1)

    def task() -> list[Future[int]]:
        return [pool.submit(int) for _ in range(5)]

    return ends(pool.submit(task).result)


@bug(NAIVE)
def a_full_pool_stops_the_event_loop(open_pool: Open) -> bool:
    """`asubmit` waits for a place while the event loop goes on, which is to make one (trio#64, deadpool's README).

    In more-executors 2.11.4 and bounded-pool-executor 0.0.3 the loop waits for ever.
    """
    gate, pool = threading.Event(), open_pool(1, bound=1)

    async def one() -> None:
        if hasattr(pool, "asubmit"):
            await (await pool.asubmit(gate.wait))
        else:
            await asyncio.get_running_loop().run_in_executor(pool, gate.wait)

    async def several() -> None:
        tasks = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0)  # each has begun
        gate.set()
        await asyncio.gather(*tasks)

    return ends(lambda: asyncio.run(several()))


# Nesting


@bug(NAIVE)
def a_task_that_waits_for_a_task_of_its_pool_deadlocks(open_pool: Open) -> bool:
    """A task may wait for another of the same pool, on one worker too (cpython#141617).

    It waits for ever in CPython's pool, 3.11 to 3.15, multiprocessing.pool and pebble 5.2.0.
    """
    pool = open_pool(1)

    def task(depth: int) -> int:
        return pool.submit(task, depth - 1).result() if depth else 1

    return ends(pool.submit(task, 5).result)


# The block


@bug(THREAD_POOL)
def a_block_ends_before_its_tasks(open_pool: Open) -> bool:
    """The tasks of a `with` block that does not raise have run when it has ended."""
    ran: list[None] = []
    left = threading.Event()
    with open_pool(1) as pool:
        pool.submit(lambda: until(lambda: main_sleeps("__exit__") or left.is_set()))
        for _ in range(10):
            pool.submit(ran.append, None)
    good = len(ran) == 10
    left.set()
    return good


@bug(STDLIB)
def a_body_that_raises_runs_the_whole_queue(open_pool: Open) -> bool:
    """The `with` block raises: what has not begun is cancelled (cpython#130975); here in a scope."""
    ran: list[None] = []
    begun = threading.Event()
    pool = open_pool(1)

    def first() -> None:
        begun.set()
        until(lambda: main_sleeps("__exit__"))

    with suppress(LookupError), getattr(pool, "scope", lambda: pool)() as block:
        block.submit(first)
        for _ in range(10):
            block.submit(ran.append, None)
        begun.wait()
        raise LookupError
    return not ran


# Ctrl-C


def interrupted_block(open_pool: Open, *places: str) -> list[None]:
    """Have Ctrl-C in these places of a `with` block whose pool has one task running and ten queued; those that ran."""
    ran: list[None] = []
    filled, left = threading.Event(), threading.Event()

    def first() -> None:
        filled.wait()
        for place in places:
            until(lambda place=place: main_sleeps(place) or left.is_set())  # type: ignore[misc]
            interrupt()
        until(lambda: main_sleeps("__exit__") or left.is_set())  # its handler has run, but the block need not know yet

    with suppress(KeyboardInterrupt):
        try:
            with open_pool(1) as pool:
                pool.submit(first)
                for _ in range(10):
                    pool.submit(ran.append, None)
                filled.set()
                threading.Event().wait()
        finally:
            left.set()
    return ran


@bug(STDLIB, PEBBLE, posix=True)
def ctrl_c_in_a_block_runs_the_whole_queue(open_pool: Open) -> bool:
    """Ctrl-C in a `with` block cancels what has not begun (cpython#111358, #80961, pebble#161)."""
    return not interrupted_block(open_pool, "interrupted_block")


@bug(STDLIB, first=(3, 13), posix=True)
def exit_runs_what_ctrl_c_had_not_waited_for(open_pool: Open) -> object:
    """Nor does the exit of the interpreter run it, when another Ctrl-C has ended the waiting (the same)."""
    ran = interrupted_block(open_pool, "interrupted_block", "__exit__")
    atexit.register(lambda: tell(not ran))
    return TOLD


@bug(STDLIB, last=(3, 12), posix=True)
def exit_cuts_off_what_ctrl_c_had_not_waited_for(open_pool: Open) -> object:
    """Ctrl-C while a block waits for its workers: the exit waits for what runs (cpython#90882)."""
    left, ended = threading.Event(), threading.Event()
    pool = open_pool(1)

    def task() -> None:
        until(lambda: main_sleeps("shutdown"))
        interrupt()
        if until(lambda: left.is_set() and asleep(threading.main_thread())):
            ended.set()

    pool.submit(task)
    with suppress(KeyboardInterrupt):
        pool.shutdown()
    left.set()
    atexit.register(lambda: tell(ended.is_set()))
    return TOLD


@bug(NAIVE)
def ctrl_c_in_wait_leaves_a_future_locked(open_pool: Open) -> bool:
    """`wait()` takes the lock of each future; Ctrl-C leaves it taken, as here: its worker ends it nevertheless.

    In CPython's pool, 3.11 to 3.15, the worker waits for ever, and so does the shutdown.
    """
    gate = threading.Event()
    pool = open_pool(1)
    future = pool.submit(gate.wait)
    thread = threading.Thread(target=future._condition.acquire)
    thread.start()
    thread.join()
    gate.set()
    return ends(pool.shutdown) and bool(future.done())


# Fork


@bug(NAIVE, posix=True)
def submit_hangs_in_a_forked_child(open_pool: Open) -> bool:
    """A child submits to its parent's pool: an error at once, or a result (cpython#89184, more-executors#140).

    In CPython's pool, 3.11 to 3.15, bounded-pool-executor 0.0.3 and more-executors 2.11.4 the task never ends.
    """
    pool = open_pool(1)
    pool.submit(int).result()
    pid = os.fork()
    if not pid:
        try:
            pool.submit(int)
        except RuntimeError:
            os._exit(1)
        os._exit(0 if threading.active_count() > 1 else 2)  # there is nobody who could run it
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 2


@bug(NAIVE, posix=True)
def result_hangs_in_a_forked_child(open_pool: Open) -> bool:
    """A child asks for the result of a task that its parent's worker runs: an error at once (more-executors#140).

    It waits for ever in CPython's pool, 3.11 to 3.15, and pebble 5.2.0.
    """
    gate = threading.Event()
    future = open_pool(1).submit(gate.wait)
    until(future.running)
    pid = os.fork()
    if not pid:
        os._exit(0 if ends(future.result) else 2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Waiting


@bug(NAIVE)
def wait_hangs_for_a_cancelled_task_of_a_busy_pool(open_pool: Open) -> bool:
    """`wait()` returns for a task that was cancelled before, though no worker is free to see that (cpython#92001).

    It does not in CPython's pool, 3.11 to 3.15, nor in pebble 5.2.0.
    """
    gate, pool = threading.Event(), open_pool(1)
    until(pool.submit(gate.wait).running)
    future = pool.submit(int)
    return future.cancel() and ends(concurrent.futures.wait, [future])


@bug(NAIVE)
def wait_hangs_after_a_shutdown_that_cancels(open_pool: Open) -> bool:
    """`wait()` sees the end of what `shutdown(cancel_futures=True)` cancelled (cpython#109934, #136655, #87893).

    It never does in CPython's pool, 3.11 to 3.15.
    """
    return cancelled_is_seen(open_pool, concurrent.futures.wait)


@bug(NAIVE)
def as_completed_hangs_after_a_shutdown_that_cancels(open_pool: Open) -> bool:
    """`as_completed()` sees the end of what `shutdown(cancel_futures=True)` cancelled (cpython#136655).

    It never does in CPython's pool, 3.11 to 3.15.
    """
    return cancelled_is_seen(open_pool, lambda futures: list(concurrent.futures.as_completed(futures)))


def cancelled_is_seen(open_pool: Open, wait: Callable[[list[Future[Any]]], object]) -> bool:
    gate = threading.Event()
    pool = open_pool(1)
    futures = [pool.submit(gate.wait), pool.submit(int)]
    waiter = threading.Thread(target=wait, args=(futures,), daemon=True)
    waiter.start()
    until(lambda: futures[1]._waiters)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    until(lambda: others() <= 1)  # no worker is left
    waiter.join(BOUND)
    return not waiter.is_alive()


@bug(STDLIB)
def wait_returns_while_callbacks_run(open_pool: Open) -> bool:
    """Callbacks have run when what waits for their task ends: the end of a scope, in place of `wait()`."""
    begin, left, called = threading.Event(), threading.Event(), threading.Event()

    def callback(_: object) -> None:
        until(lambda: main_sleeps("__exit__") or left.is_set())
        called.set()

    pool = open_pool(1)
    if hasattr(pool, "scope"):
        with pool.scope() as scope:
            scope.submit(begin.wait).add_done_callback(callback)
            begin.set()
    else:
        future = pool.submit(begin.wait)
        future.add_done_callback(callback)
        begin.set()
        concurrent.futures.wait([future])
    good = called.is_set()
    left.set()
    return good


# Map


class Inputs:
    """Numbers, and how many of them have been taken."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.number):
            self.taken += 1
            yield self.taken


@bug(STDLIB, last=(3, 13))
def map_takes_all_input_before_its_first_result(open_pool: Open) -> bool:
    """`map` can be told to run ahead by two items only, on every version (cpython#74028)."""
    pool, inputs = open_pool(1), Inputs(1000)
    ahead = {"buffersize": 2} if "buffersize" in signature(pool.map).parameters else {}
    next(pool.map(str, inputs, **ahead))
    return inputs.taken <= 3


@bug(THREAD_POOL)
def imap_takes_all_input(open_pool: Open) -> bool:
    """Nor does a lazy map run ahead later (cpython#64192)."""
    pool, inputs = open_pool(1), Inputs(1000)
    results = pool.imap(str, inputs) if hasattr(pool, "imap") else pool.map(str, inputs, buffersize=2)
    next(results)
    if hasattr(pool, "imap"):
        return not until(lambda: inputs.taken == 1000)
    pool.submit(int).result()  # what may have been taken has been taken
    return inputs.taken <= 3


@bug(STDLIB, first=(3, 14))
def map_runs_ahead_by_one_too_many(open_pool: Open) -> bool:
    """No more than `buffersize` items are taken while the first result is waited for (cpython#131466)."""
    gate, inputs, pool = threading.Event(), Inputs(10), open_pool(1)
    results = pool.map(lambda _: gate.wait(), inputs, buffersize=2)
    thread = threading.Thread(target=next, args=(results,), daemon=True)
    thread.start()
    until_asleep(thread)
    return inputs.taken == 2


@bug(STDLIB, first=(3, 14))
def map_of_a_dropped_pool_ends_early(open_pool: Open) -> bool:
    """With `buffersize`, all results come although nobody else refers to the pool (cpython#146392)."""
    results = open_pool(1).map(str, range(8), buffersize=2)
    gc.collect()
    return len(list(results)) == 8


@bug(STDLIB, first=(3, 14))
def map_of_a_pool_shut_down_meanwhile_drops_results(open_pool: Open) -> bool:
    """With `buffersize`, the results of what was submitted come, then the error that no more is (cpython#146392)."""
    with open_pool(1) as pool:
        results = pool.map(str, range(8), buffersize=2)
    got: list[str] = []
    try:
        got.extend(results)
    except RuntimeError:
        return got == ["0", "1"]
    return False


@bug(STDLIB, PEBBLE)
def map_leaves_tasks_behind_when_its_input_fails(open_pool: Open) -> bool:
    """The input of a `map` raises: what has not begun, and nobody has a future of, is cancelled."""
    gate, pool = threading.Event(), open_pool(1)
    ran: list[int] = []

    def inputs() -> Iterator[int]:
        yield from range(10)
        raise LookupError

    until(pool.submit(gate.wait).running)
    with suppress(LookupError):
        pool.map(ran.append, inputs())
    gate.set()
    pool.submit(int).result()
    return not ran


# Errors and contexts


@bug(NAIVE)
def a_task_that_exits_never_ends(open_pool: Open) -> bool:
    """`SystemExit` is a task's error as any other: its result tells (cpython PR#101081).

    In multiprocessing.pool it is never told.
    """
    return ends(open_pool(1).submit(sys.exit).result)


@bug(STDLIB)
def errors_that_nobody_looks_at_are_lost(open_pool: Open) -> bool:
    """The error of a task whose future nobody asks is logged (cpython#85544, #120508)."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logging.getLogger().addHandler(handler)
    with open_pool(1) as pool:
        pool.submit(fail)
    return until(lambda: gc.collect() is None or records)


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="nobody's")
COPY = {"copy_context": True}


@bug(STDLIB, THREAD_POOL, PEBBLE)
def a_task_sees_the_context_of_the_one_before(open_pool: Open) -> object:
    """With `copy_context`, what a task sets in its context is its own."""
    pool = open_pool(1, ours=COPY)
    pool.submit(VARIABLE.set, "the first one's").result()
    return pool.submit(VARIABLE.get).result() == "nobody's"


@bug(STDLIB, THREAD_POOL, PEBBLE)
def a_task_does_not_see_the_context_of_its_submitter(open_pool: Open) -> object:
    """With `copy_context`, a task runs in a copy of its submitter's context (sentry#111451, skypilot#10561)."""
    pool = open_pool(1, ours=COPY)
    pool.submit(int).result()  # on free-threaded builds a thread starts with the context of who starts it
    VARIABLE.set("the submitter's")
    return pool.submit(VARIABLE.get).result() == "the submitter's"


# Threads and what they keep


@bug(THREAD_POOL, PEBBLE, mended=(STDLIB,))
def all_threads_are_started_for_one_task(open_pool: Open) -> bool:
    """Idle workers are used before new ones are started (bpo-24882)."""
    pool = open_pool(8)
    for _ in range(8):
        pool.submit(int).result()
        time.sleep(0.01)  # for the worker to be idle again
    return others() < 8


@bug(PEBBLE, mended=(STDLIB, THREAD_POOL))
def an_idle_worker_keeps_its_last_task(open_pool: Open) -> bool:
    """A worker keeps nothing of a task that has ended (cpython#60488, #98467, pythonfutures#16)."""

    class Argument:
        pass

    argument = Argument()
    known = weakref.ref(argument)
    pool = open_pool(1)
    pool.submit(id, argument).result()
    del argument
    return until(lambda: gc.collect() is None or known() is None)


@bug(STDLIB, PEBBLE)
def a_cancelled_task_stays_in_the_queue(open_pool: Open) -> bool:
    """A cancelled task leaves the queue, and what it refers to is freed, also while all workers are busy."""

    class Argument:
        pass

    argument = Argument()
    known = weakref.ref(argument)
    gate, begun = threading.Event(), threading.Event()

    def begin() -> None:
        begun.set()
        gate.wait()

    pool = open_pool(1)
    pool.submit(begin)
    begun.wait()
    pool.submit(id, argument).cancel()
    del argument
    return until(lambda: gc.collect() is None or known() is None)


def everywhere_in_submit(open_pool: Open, act: Callable[[Any], object]) -> bool:
    """Have `act` called at each event of a trace of `submit`, as by a signal handler; whether everything ends."""
    threading.Timer(BOUND, tell, [False]).start()
    event = 1
    while in_submit(open_pool(1), event, act):
        event += 1
    return event > 10


def in_submit(pool: Any, event: int, act: Callable[[Any], object]) -> bool:
    """Have `act` called at this event of a `submit`; whether there was one."""
    passed = 0

    def trace(*_: object) -> Any:
        nonlocal passed
        passed += 1
        if passed == event:
            act(pool)
        return trace

    sys.settrace(trace)
    try:
        future = pool.submit(int)
    except RuntimeError:
        future = None
    finally:
        sys.settrace(None)
    if future:
        concurrent.futures.wait([future])
    pool.shutdown()
    return passed >= event


@bug(NAIVE)
def a_submit_inside_submit_deadlocks(open_pool: Open) -> bool:
    """What runs inside `submit`, such as a signal handler or a `__del__`, may submit as well (gcsfs PR#1025).

    In CPython's pool, 3.11 to 3.15, it waits for ever.
    """
    return everywhere_in_submit(open_pool, lambda pool: pool.submit(int))


@bug(NAIVE)
def a_shutdown_inside_submit_deadlocks(open_pool: Open) -> bool:
    """What runs inside `submit`, such as a signal handler, may shut the pool down (cpython#121649).

    In CPython's pool, 3.11 to 3.15, it waits for ever.
    """
    return everywhere_in_submit(open_pool, lambda pool: pool.shutdown(cancel_futures=True))


@bug(PEBBLE, THREAD_POOL)
def exit_cuts_off_what_runs(open_pool: Open) -> object:
    """The interpreter does not exit before what runs has ended."""
    begun, left, ended = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        if until(lambda: left.is_set() and asleep(threading.main_thread())):
            ended.set()

    pool = open_pool(1)
    atexit.register(lambda: tell(pool and ended.is_set()))
    pool.submit(task)
    begun.wait()
    left.set()
    return TOLD


# How they are opened


class Job:
    """The result of `multiprocessing.pool`, as a future."""

    def __init__(self, result: Any) -> None:
        self.result = result.get
        self.done = result.ready


def submit(pool: Any, fn: Callable[..., object], *args: object) -> Job:
    return Job(pool.apply_async(fn, args))


def opener(name: str) -> Open:
    """What makes a pool of this name: its first argument is the number of workers; `bound` is that of the backlog."""
    module, _, attribute = name.rpartition(".")
    cls = getattr(import_module(module), attribute)

    if name == THREAD_POOL:
        cls.submit = submit

    def open_pool(
        workers: int | None,
        bound: int | None = None,
        ours: dict[str, Any] | None = None,
        theirs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        if name == OURS:
            return cls(workers, max_backlog=bound, **options, **(ours or {}))
        if name == MPIRE:
            return cls(workers, start_method="threading", **(theirs or {}))
        if name == NAIVE and bound:
            options["bound"] = bound
        return cls(workers, **options)

    return open_pool


def main(bug: str, name: str) -> None:
    global BOUND
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    signal.signal(signal.SIGINT, on_sigint)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: None)
    if name != OURS:
        BOUND = 0.5
    verdict = BUGS[bug].scenario(opener(name))
    if verdict is not TOLD:
        tell(verdict)


if __name__ == "__main__":
    main(*sys.argv[1:])
