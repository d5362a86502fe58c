"""User code that raises anything, re-enters the pool, ends it, blocks or forks, wherever user code runs.

A matrix: each of `PLACES` (where a pool calls what users wrote) with each of `ERRORS` (what that may raise) and each of
`DEEDS` (what else it may do). After each of them the pool works, or has ended cleanly, see `Trial.finish`.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import inspect
import logging
import operator
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from decimal import Decimal
from fractions import Fraction
from typing import Any, Self

import pytest
from child import run_well
from inside import hook, inside
from starts import Shortage
from threads import PATIENCE, until

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
Future = concurrent.futures.Future[Any]
MAX_BACKLOG = 3

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def collects() -> None:
    """Free-threaded builds free an object in the thread that made it, when that next runs, or at a collection."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        gc.collect()


# What is raised


class Failure(Exception):
    """An error of a user's own."""


class Exit(BaseException):
    """No Exception."""


class Hostile(Exception):
    """One whose every method raises, something that is no Exception where it can."""

    def _raise(self, *args: Any) -> Any:
        raise Exit("hostile")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __setattr__ = _raise  # type: ignore[assignment]
    with_traceback = add_note = __reduce__ = __format__ = _raise  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__traceback__"}:  # which the standard library's context managers look at
            return super().__getattribute__(name)
        raise Exit(name)


class WithoutTraceback(Exception):
    """One whose methods return nonsense, and one that looks equal to every other."""

    def with_traceback(self, tb: Any) -> Any:
        return None

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """One that takes no attribute, and so no note."""

    number: int = 1


class NoInit(Exception):
    """One whose repr relies on what its __init__ never set."""

    def __init__(self, *args: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"{self.missing}"  # type: ignore[attr-defined]


def recurse() -> None:
    """Raise a real RecursionError."""
    recurse()


def raise_cycle() -> None:
    """Raise errors that are the causes of each other."""
    one, two = Failure(1), Failure(2)
    one.__cause__, two.__cause__ = two, one
    raise one


def raising(error: BaseException) -> Callable[[], None]:
    """A function that raises a new one of this kind."""
    kind, args = type(error), BaseException.__getattribute__(error, "args")

    def fails() -> None:
        raise kind(*args)

    return fails


ERRORS: dict[str, Callable[[], None]] = {
    **{
        type(error).__name__: raising(error)
        for error in (
            Failure("text"), Exit(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1),
            StopAsyncIteration(), MemoryError(), asyncio.CancelledError(), TimeoutError(),
            concurrent.futures.InvalidStateError(), ExceptionGroup("some", [Failure(), Failure()]),
            BaseExceptionGroup("some", [Exit()]), Hostile(), WithoutTraceback(), NoInit(),
        )
    },
    "CancelledError of a future": raising(concurrent.futures.CancelledError()),
    "Frozen": raising(Frozen()),
    "RecursionError": recurse,
    "cycle": raise_cycle,
}  # fmt: skip


# What else is done. Refusals of the pool are as they should be.


def wait_for_task(pool: Pool) -> None:
    assert pool.submit(len, "abc").result(PATIENCE) == 3


def wait_for_state(pool: Pool) -> None:
    pool.with_state().submit(str).result(PATIENCE)


def fill_backlog(pool: Pool) -> None:
    for future in [pool.submit(int) for _ in range(2 * MAX_BACKLOG)]:
        future.result(PATIENCE)


def open_scope(pool: Pool) -> None:
    with pool.scope() as scope:
        scope.submit(int)
        scope.with_state(list).submit(len)


def map_some(pool: Pool) -> None:
    assert sorted(pool.map_unordered(abs, range(3))) == [0, 1, 2] == list(pool.map(abs, range(3), buffersize=1))


def look(pool: Pool) -> None:
    assert repr(pool).startswith("<Stateful")
    assert pool.stats().workers <= 3


def cancel(pool: Pool) -> None:
    pool.submit(int).cancel()


def call_back(pool: Pool) -> None:
    """A callback that adds callbacks, and waits for its own future."""
    future = pool.submit(int)
    future.add_done_callback(lambda ended: ended.add_done_callback(Future.result))
    future.result(PATIENCE)


def fork(pool: Pool) -> None:
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def block(pool: Pool) -> None:
    """Until another worker has run a task of another thread's."""
    served = threading.Event()

    def ask() -> None:
        try:
            with contextlib.suppress(RuntimeError):
                pool.submit(int).result(PATIENCE)
        finally:
            served.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert served.wait(PATIENCE)
    thread.join(PATIENCE)


DEEDS: dict[str, Callable[[Pool], object]] = {
    "submit": lambda pool: pool.submit(int),
    "wait for a task": wait_for_task,
    "wait for a state": wait_for_state,
    "fill the backlog": fill_backlog,
    "open a scope": open_scope,
    "map": map_some,
    "look": look,
    "cancel": cancel,
    "call back": call_back,
    "broadcast": lambda pool: pool.broadcast(int),
    "discard all": lambda pool: pool.with_state().discard_all(),
    "shut down": lambda pool: pool.shutdown(wait=False),
    "shut down and cancel": lambda pool: pool.shutdown(wait=False, cancel_futures=True),
    "shut down and wait": lambda pool: pool.shutdown(timeout=PATIENCE),
    "block": block,
    "fork": fork,
}


# Where, and what comes of it


class Watch(logging.Handler):
    """Keeps what is logged, and may misbehave then."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.then: Callable[[], object] = int

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            self.texts.append(record.getMessage())
        except BaseException:  # a repr
            self.texts.append(record.msg)
        self.then()
        return True


HERE = contextlib.nullcontext()
ENDING = {DEEDS[name] for name in DEEDS if name.startswith("shut down")}


class Trial:
    """A pool, and user code that does the deed the first time that it is called."""

    def __init__(self, watch: Watch, raises: Callable[[], None] | None, deed: Callable[[Pool], object] | None) -> None:
        self.watch = watch
        self.raises = raises
        self.deed = deed
        self.armed = True
        self.first = threading.Lock()  # held by the call that raises
        self.done = threading.Event()
        self.before: Callable[[], object] = int  # in the user code, first of all
        self.breaks = False  # the pool, when something is raised
        self.broken = False  # it is anyway
        self.error: BaseException | None = None  # that was raised
        self.troubles: list[BaseException] = []  # that were not expected
        self.made: list[int] = []
        self.torn_down: list[tuple[int, int]] = []
        self.pool: Pool

    def open(self, **options: Any) -> None:
        if "initializer" not in options:
            options |= {"initializer": self.make, "finalizer": options.get("finalizer", self.finalize)}
        self.pool = StatefulThreadPoolExecutor(options.pop("max_workers", 2), max_backlog=MAX_BACKLOG, **options)

    def make(self, *args: object) -> int:
        self.made.append(threading.get_ident())
        return threading.get_ident()

    def finalize(self, state: int) -> None:
        self.torn_down.append((state, threading.get_ident()))

    def raise_again(self) -> None:
        self.error = None
        self.first = threading.Lock()

    def misbehave(self, *_: object) -> None:
        try:
            self.before()
            self._misbehave()
        finally:
            self.done.set()

    def _misbehave(self) -> None:
        if self.raises is not None and self.first.acquire(blocking=False):
            try:
                self.raises()
            except BaseException as exc:
                self.error = exc
                raise
        if self.deed is not None and self.armed:
            self.armed = False
            try:
                self.deed(self.pool)
            except RuntimeError:
                pass  # refused
            except BaseException as exc:
                breaks = isinstance(exc, BaseExceptionGroup) and exc.split(BrokenThreadPool)[1] is None
                if not (self.broken and breaks):  # another worker may break the pool just then
                    self.troubles.append(exc)

    # What is expected

    def ended(self, future: Future) -> BaseException | None:
        """The error of a task that must end."""
        assert not concurrent.futures.wait([future], PATIENCE).not_done
        return concurrent.futures.CancelledError() if future.cancelled() else future.exception()

    def holds(self, future: Future, wrapped: type[BaseException] | None = None) -> None:
        """The future has the error that was raised, or one of this type with it as its cause."""
        error = self.ended(future)
        if self.raises is None:
            return
        if wrapped is None:
            assert error is self.error
        else:
            assert type(error) is wrapped
            self.is_cause(error)

    def is_cause(self, error: BaseException) -> None:
        cause = error.__cause__
        if isinstance(self.error, StopIteration) and isinstance(cause, RuntimeError):
            cause = cause.__cause__  # raised in a generator
        assert cause is self.error

    def gets_breakage(self, submit: Callable[[], Future]) -> None:
        """The task does, or its submit, when the initializer has failed before that is over."""
        try:
            error = self.ended(submit())
        except BrokenThreadPool as exc:
            error = exc
        assert isinstance(error, BrokenThreadPool) or self.deed in ENDING

    def holds_breakage(self, submit: Callable[[], Future]) -> None:
        """The task holds it, unless its submit gets it already."""
        try:
            future = submit()
        except BrokenThreadPool:
            return
        self.holds(future, BrokenThreadPool)

    def fine(self, future: Future) -> None:
        """The task has not failed."""
        error = self.ended(future)
        assert error is None or self.raises is None

    @contextlib.contextmanager
    def raised(self, *but: type[BaseException]) -> Iterator[None]:
        """The block raises what was raised, unless that is one of `but`."""
        expected = True
        try:
            yield
            expected = self.raises is None or isinstance(self.error, but)
        except BaseException as exc:
            if type(self.error) is Hostile and type(exc) is Exit:
                return  # a handler's of the log
            if exc is not self.error and self.deed is None and not isinstance(exc.__cause__, StopIteration):
                raise
            if self.deed is not None and not isinstance(exc, RuntimeError):
                raise
        assert expected, f"{type(self.error)} was raised by nobody"

    def finish(self) -> None:
        """The pool works, if it has not ended; then it ends, and leaves nothing."""
        pool, registry = self.pool, inside(self.pool)
        breaks = self.broken or (self.breaks and self.raises is not None)
        until(lambda: pool._broken == breaks)  # a deed may cancel the task before its worker has come to that
        ends = self.deed in ENDING or registry.close_reason is not None  # it may yet, or has
        for _ in range(3):
            with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError) if ends or pool._broken else HERE:
                assert pool.submit(len, "abc").result(PATIENCE) == 3
                assert pool.with_state().submit(str).result(PATIENCE)
        pool.shutdown(timeout=PATIENCE)
        assert not any(thread.is_alive() for thread in pool._threads)
        assert inside(pool).permits_left() == MAX_BACKLOG
        assert not registry.waiters
        assert not registry.pending()
        assert sorted(self.torn_down) == sorted((thread, thread) for thread in self.made)
        stats = pool.stats()
        assert (stats.workers, stats.running, stats.backlog) == (0, 0, 0)
        assert stats.submitted == stats.completed + stats.failed + stats.cancelled
        assert stats.states_made == stats.states_torn_down
        assert not [text for text in self.watch.texts if "bug" in text]
        assert self.troubles == []


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """What is logged; what threads and destructors raise goes nowhere."""
    watch = Watch()
    for name in "concurrent.futures", "stateful_executor":
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "handlers", [watch])
        monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    return watch


Place = Callable[[Trial], None]
PLACES: dict[str, Place] = {}


def place(fn: Place) -> Place:
    PLACES[fn.__name__.replace("_", " ")] = fn
    return fn


@contextlib.contextmanager
def held(pool: Pool, entry_point: Any = None) -> Iterator[Future]:
    """A task that runs until the end of the block."""
    begun, end = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        begun.set()
        assert end.wait(PATIENCE)

    future = (entry_point or pool).submit(hold)
    assert begun.wait(PATIENCE)
    try:
        yield future
    finally:
        end.set()


def fail(*_: object) -> None:
    raise Failure


class Callee:
    """A callable that is no function."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def __call__(self, *args: object) -> None:
        self.trial.misbehave()


@place
def task(trial: Trial) -> None:
    trial.open()
    trial.holds(trial.pool.submit(trial.misbehave))


@place
def task_in_a_context_of_its_own(trial: Trial) -> None:
    trial.open(copy_context=True)
    trial.holds(trial.pool.submit(functools.partial(Callee(trial), 1)))


@place
def task_with_a_state(trial: Trial) -> None:
    trial.open(policy=StatePolicy(check=bool, reset=bool, discard_on=Exception))
    trial.holds(trial.pool.with_state().submit(trial.misbehave))


@place
def task_in_place(trial: Trial) -> None:
    """Of another task, which waits for it."""
    trial.open(max_workers=3)
    inner: list[Future] = []

    def outer() -> None:
        inner.append(trial.pool.submit(trial.misbehave))
        with contextlib.suppress(BaseException):
            inner[0].result(PATIENCE)

    trial.fine(trial.pool.submit(outer))
    trial.holds(inner[0])


@place
def task_of_a_scope(trial: Trial) -> None:
    trial.open()
    try:
        with trial.pool.scope() as scope:
            scope.submit(trial.misbehave)
    except BaseExceptionGroup as group:
        assert group.exceptions[0] is trial.error
    else:
        assert trial.raises is None


@place
def task_of_a_scope_that_fails_fast(trial: Trial) -> None:
    trial.open()
    with trial.raised(), trial.pool.scope(fail_fast=True) as scope:
        futures = [scope.submit(int) for _ in range(3)]
        futures.append(scope.submit(trial.misbehave))
        for future in futures:
            trial.ended(future)
        if trial.error is not None:
            raise trial.error


@place
def body_of_a_scope(trial: Trial) -> None:
    trial.open()
    with trial.raised(), trial.pool.scope() as scope:
        scope.submit(fail).add_done_callback(int)
        scope.with_state(list, finalizer=fail).submit(len)
        trial.misbehave()
        if trial.deed is not None:
            raise RuntimeError


@place
def body_of_a_pool(trial: Trial) -> None:
    trial.open()
    with trial.raised(), trial.pool as pool:
        pool.submit(int)
        trial.misbehave()


@place
def chunk_of_a_map(trial: Trial) -> None:
    trial.open()
    results = trial.pool.map(trial.misbehave, range(3), chunksize=2)
    with trial.raised():
        assert list(results) == [None] * 3


@place
def broadcast(trial: Trial) -> None:
    trial.open()
    trial.pool.submit(int).result(PATIENCE)
    (future,) = trial.pool.broadcast(trial.misbehave)
    trial.holds(future)


@place
def bound_function(trial: Trial) -> None:
    trial.open()
    trial.holds(trial.pool.submit(trial.pool.with_state().bind(trial.misbehave)))


@place
def initializer(trial: Trial) -> None:
    def make() -> int:
        trial.misbehave()
        return trial.make()

    trial.breaks = True
    trial.open(initializer=make, finalizer=trial.finalize)
    trial.holds_breakage(lambda: trial.pool.submit(int))


def generator(trial: Trial, before: bool) -> Callable[[], Iterator[int]]:
    def make() -> Iterator[int]:
        if before:
            trial.misbehave()
        state = trial.make()
        yield state
        trial.finalize(state)
        if not before:
            trial.misbehave()

    return make


@place
def generator_before_its_yield(trial: Trial) -> None:
    trial.breaks = True
    trial.open(initializer=generator(trial, True))
    trial.holds_breakage(lambda: trial.pool.submit(int))


@place
def generator_after_its_yield(trial: Trial) -> None:
    trial.open(initializer=generator(trial, False))
    trial.fine(trial.pool.with_state().submit(abs))
    trial.pool.with_state().discard_all()
    until(lambda: trial.done.is_set() or collects())


@place
def initializer_of_a_view(trial: Trial) -> None:
    def make() -> int:
        trial.misbehave()
        return trial.make()

    trial.open()
    trial.holds(trial.pool.with_state(make, finalizer=trial.finalize).submit(abs), InitializerError)


@place
def generator_of_a_scope(trial: Trial) -> None:
    trial.open()
    with contextlib.suppress(RuntimeError), trial.pool.scope() as scope:
        trial.holds(scope.with_state(generator(trial, True)).submit(abs), InitializerError)


@place
def finalizer(trial: Trial) -> None:
    def finalize(state: int) -> None:
        trial.finalize(state)
        trial.misbehave()

    trial.open(finalizer=finalize)
    trial.fine(trial.pool.with_state().submit(abs))


@place
def finalizer_of_a_scope(trial: Trial) -> None:
    def finalize(state: int) -> None:
        trial.finalize(state)
        trial.misbehave()

    trial.open()
    try:
        with trial.pool.scope() as scope:
            trial.fine(scope.with_state(trial.make, finalizer=finalize).submit(abs))
    except BaseExceptionGroup as group:
        assert group.exceptions[0] is trial.error
    else:
        assert trial.raises is None


@place
def finalizer_of_a_retiring_worker(trial: Trial) -> None:
    def finalize(state: int) -> None:
        trial.finalize(state)
        trial.misbehave()

    trial.open(finalizer=finalize, idle_timeout=0)
    trial.fine(trial.pool.with_state().submit(abs))
    until(lambda: trial.done.is_set() or collects())


@place
def check(trial: Trial) -> None:
    trial.open(policy=StatePolicy(check=trial.misbehave))
    trial.fine(trial.pool.with_state().submit(abs))


@place
def check_of_a_new_state(trial: Trial) -> None:
    """One that fails for the second state, too."""

    def look(state: int) -> None:
        trial.misbehave()
        if trial.error is not None and trial.raises is not None and len(trial.made) < 3:
            raise trial.error

    trial.open(policy=StatePolicy(check=look))
    trial.holds(trial.pool.with_state().submit(abs))


@place
def reset(trial: Trial) -> None:
    trial.open(policy=StatePolicy(reset=trial.misbehave))
    trial.fine(trial.pool.with_state().submit(abs))


@place
def discard_on(trial: Trial) -> None:
    trial.open(policy=StatePolicy(discard_on=trial.misbehave))
    assert isinstance(trial.ended(trial.pool.with_state().submit(fail)), Failure)


@place
def type_to_discard_on(trial: Trial) -> None:
    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            trial.misbehave()
            return True

    class Odd(Exception, metaclass=Kind):
        pass

    trial.open(policy=StatePolicy(discard_on=Odd))
    assert isinstance(trial.ended(trial.pool.with_state().submit(fail)), Failure)


@place
def callback_before_the_end(trial: Trial) -> None:
    trial.open()
    called: list[object] = []
    with held(trial.pool) as future:
        future.add_done_callback(trial.misbehave)
        future.add_done_callback(called.append)
    trial.fine(future)
    until(lambda: called == [future])


@place
def callback_after_the_end(trial: Trial) -> None:
    trial.open()
    future = trial.pool.submit(int)
    trial.fine(future)
    with trial.raised(Exception):  # which is logged
        future.add_done_callback(trial.misbehave)


@place
def callback_of_a_cancelled_task(trial: Trial) -> None:
    trial.open()
    called: list[object] = []
    with contextlib.ExitStack() as ends:
        for _ in range(2):
            ends.enter_context(held(trial.pool))
        future = trial.pool.submit(int)
        future.add_done_callback(trial.misbehave)
        future.add_done_callback(called.append)
        trial.before = ends.close  # else nobody runs what the callback waits for
        with trial.raised(Exception):
            future.cancel()
    until(lambda: called == [future])


@place
def callback_of_a_scopes_cancelled_task(trial: Trial) -> None:
    trial.open()
    with contextlib.ExitStack() as ends:
        for _ in range(2):
            ends.enter_context(held(trial.pool))
        trial.before = ends.close
        with trial.raised(Exception), trial.pool.scope() as scope:
            futures = [scope.submit(int) for _ in range(3)]
            futures[0].add_done_callback(trial.misbehave)
            scope.cancel()
    for future in futures:
        trial.ended(future)


@place
def callback_of_a_future_finished_by_hand(trial: Trial) -> None:
    trial.open()
    with trial.raised(Exception), trial.pool.scope() as scope, contextlib.ExitStack() as ends:
        ends.enter_context(held(trial.pool, scope))
        ends.enter_context(held(trial.pool, scope))
        future = scope.submit(int)
        future.add_done_callback(trial.misbehave)
        assert future.set_running_or_notify_cancel()
        ends.close()
        future.set_result(7)
    assert future.result() == 7


@place
def callback_when_the_pool_breaks(trial: Trial) -> None:
    made = threading.Event()

    def make() -> None:
        assert made.wait(PATIENCE)
        raise Failure

    trial.broken = True
    trial.open(initializer=make)
    future = trial.pool.submit(int)
    future.add_done_callback(trial.misbehave)
    made.set()
    trial.gets_breakage(lambda: future)
    until(lambda: trial.done.is_set() or collects())


class Odd:
    """Misbehaves in whatever special method is its name."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial


@place
def name_of_a_function(trial: Trial) -> None:
    class Nameless(Odd):
        def __call__(self, *_: object) -> None:
            raise Failure

        def __getattr__(self, name: str) -> Any:
            trial.misbehave()
            raise AttributeError(name)

    trial.open()
    assert isinstance(trial.ended(trial.pool.submit(Nameless(trial))), Failure)
    assert isinstance(trial.ended(trial.pool.submit(functools.partial(Nameless(trial), 1))), Failure)


class Unspeakable(Exception):
    """Misbehaves when somebody wants to say what it is."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def __repr__(self) -> str:
        self.trial.misbehave()
        return "nothing"


@place
def repr_of_an_error(trial: Trial) -> None:
    trial.open()
    error = trial.ended(trial.pool.with_state(raising(Unspeakable(trial))).submit(abs))
    assert isinstance(error, InitializerError)
    assert isinstance(error.__cause__, Unspeakable)


@place
def repr_of_an_error_that_breaks_the_pool(trial: Trial) -> None:
    trial.broken = True
    trial.open(initializer=raising(Unspeakable(trial)))
    trial.gets_breakage(lambda: trial.pool.submit(int))


@place
def log_handler(trial: Trial) -> None:
    def misbehave() -> None:
        trial.raise_again()  # and again
        trial.misbehave()

    trial.open()
    trial.watch.then = misbehave
    policy = StatePolicy(check=fail, reset=fail, discard_on=fail)
    for hooks in policy, dataclasses.replace(policy, check=None):
        view = trial.pool.with_state(trial.make, policy=hooks, finalizer=lambda state: (trial.finalize(state), fail()))
        for fn in fail, abs:
            trial.ended(view.submit(fn))
    with held(trial.pool) as future:
        future.add_done_callback(fail)
        future.add_done_callback(raising(Exit()))
    with contextlib.suppress(KeyError, RuntimeError, KeyboardInterrupt), trial.pool.scope() as scope:
        scope.with_state(list, finalizer=fail).submit(len)
        assert isinstance(trial.ended(scope.submit(fail)), Failure)
        scope.submit(fail)
        raise KeyError


@place
def log_handler_when_the_pool_breaks(trial: Trial) -> None:
    trial.broken = True
    trial.open(initializer=fail)
    trial.watch.then = trial.misbehave
    trial.gets_breakage(lambda: trial.pool.submit(int))


@place
def log_of_a_lost_error(trial: Trial) -> None:
    trial.open()
    trial.watch.then = trial.misbehave
    concurrent.futures.wait([trial.pool.submit(fail)], PATIENCE)
    gc.collect()


@place
def destructor_of_an_argument(trial: Trial) -> None:
    class Mortal(Odd):
        def __del__(self) -> None:
            self.trial.misbehave()

    trial.open()
    trial.fine(trial.pool.submit(isinstance, Mortal(trial), int))


@place
def destructor_of_a_result(trial: Trial) -> None:
    class Mortal(Odd):
        def __del__(self) -> None:
            self.trial.misbehave()

    dropped = threading.Event()

    def make() -> Mortal:
        assert dropped.wait(PATIENCE)
        return Mortal(trial)

    trial.open()
    trial.pool.submit(make)  # nobody keeps it
    dropped.set()
    until(lambda: trial.done.is_set() or collects())


@place
def destructor_of_an_error(trial: Trial) -> None:
    class Mortal(Exception):
        def __del__(self) -> None:
            trial.misbehave()

    def fails() -> None:
        raise Mortal

    trial.open()
    trial.pool.submit(fails)
    with contextlib.suppress(BaseExceptionGroup, RuntimeError), trial.pool.scope() as scope:
        scope.submit(fails)
    gc.collect()


@place
def destructor_of_a_state(trial: Trial) -> None:
    class Mortal:
        def __del__(self) -> None:
            trial.misbehave()

    trial.open()
    with contextlib.suppress(RuntimeError), trial.pool.scope() as scope:
        scope.with_state(Mortal).submit(isinstance, int)


@place
def destructor_of_a_function_cancelled(trial: Trial) -> None:
    class Mortal(Odd):
        def __call__(self) -> None: ...

        def __del__(self) -> None:
            self.trial.misbehave()

    trial.open()
    with contextlib.ExitStack() as ends:
        for _ in range(2):
            ends.enter_context(held(trial.pool))
        trial.before = ends.close
        trial.pool.submit(Mortal(trial)).cancel()


@place
def weakref_callback(trial: Trial) -> None:
    trial.open()
    argument = Odd(trial)
    ref = weakref.ref(argument, trial.misbehave)
    future = trial.pool.submit(isinstance, argument, int)
    del argument
    trial.fine(future)
    until(lambda: ref() is None)


@place
def input_of_a_map(trial: Trial) -> None:
    trial.open()
    for method in trial.pool.map, trial.pool.map_unordered:
        for buffersize in None, 1:
            trial.raise_again()

            def numbers() -> Iterator[int]:
                yield from range(3)
                trial.misbehave()
                yield 3

            with trial.raised():
                list(method(abs, numbers(), buffersize=buffersize))


@place
def input_that_is_no_generator(trial: Trial) -> None:
    class Input(Odd):
        def __iter__(self) -> Self:
            return self

        def __next__(self) -> int:
            self.trial.misbehave()
            raise StopIteration

    trial.open()
    with trial.raised(StopIteration):
        list(trial.pool.map(abs, Input(trial), range(3), buffersize=2))


@place
def index(trial: Trial) -> None:
    class Number(Odd):
        def __index__(self) -> int:
            self.trial.misbehave()
            return 2

    trial.open()
    for options in {"max_workers": Number(trial)}, {"max_backlog": Number(trial)}:
        trial.raise_again()
        with trial.raised(), StatefulThreadPoolExecutor(**options) as pool:  # type: ignore[call-overload]
            assert pool.submit(len, "abc").result(PATIENCE) == 3


@place
def hash_of_initargs(trial: Trial) -> None:
    class Key(Odd):
        def __hash__(self) -> int:
            self.trial.misbehave()
            return 1

    trial.open()
    with trial.raised(Exception):
        trial.fine(trial.pool.with_state(trial.make, (Key(trial),), finalizer=trial.finalize).submit(abs))


@place
def comparison_of_initargs(trial: Trial) -> None:
    class Key(Odd):
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            self.trial.misbehave()
            return False

    trial.open()
    keys = [Key(trial), Key(trial)]
    for key in keys:
        with trial.raised(Exception) if key is keys[1] else contextlib.nullcontext():
            trial.fine(trial.pool.with_state(trial.make, (key,), finalizer=trial.finalize).submit(abs))


# A destructor that blocks in a worker which seems idle already: what wakes that worker waits for it.
BLOCKING = {("destructor of a result", "block")}


def run(where: str, what: str, trial: Trial) -> None:
    """An error that leaves a test by mistake does not end pytest, which would look at it; and the pool ends."""
    failure = ""
    try:
        refused = (RuntimeError,) if trial.deed is not None else ()
        cancelled = (concurrent.futures.CancelledError,) if trial.deed in ENDING else ()
        with contextlib.suppress(*refused, *cancelled):
            PLACES[where](trial)
        trial.finish()
    except BaseException as exc:
        text = str(exc) if isinstance(exc, AssertionError) else ""
        failure = "".join(traceback.format_tb(sys.exc_info()[2])) + f"{type(exc)} {text}"
    finally:
        trial.watch.then = int
        trial.pool.shutdown(wait=False)
    if failure:
        pytest.fail(f"{where}, {what}: {failure}")


@pytest.mark.parametrize("where", PLACES)
def test_raises(where: str, watch: Watch) -> None:
    """What user code raises goes where the contract says, and no further."""
    for what, raises in ERRORS.items():
        run(where, what, Trial(watch, raises, None))


@pytest.mark.parametrize("where", PLACES)
def test_does(where: str, watch: Watch) -> None:
    """User code may use the pool, end it, fork, and keep its worker busy, wherever it runs."""
    for what, deed in DEEDS.items():
        if (where, what) not in BLOCKING:
            run(where, what, Trial(watch, None, deed))


@pytest.mark.parametrize("where", ["task", "check", "reset", "callback", "finalizer", "initializer", "destructor"])
def test_drops_the_pool(where: str, watch: Watch) -> None:
    """The last reference to the pool may go in any user code: what was accepted is run, and states are torn down."""
    trial = Trial(watch, None, None)
    holder: list[Pool] = []
    ready = threading.Event()

    def drop(*_: object) -> None:
        assert ready.wait(PATIENCE)
        holder.clear()

    class Mortal:
        def __del__(self) -> None:
            drop()

    def make() -> int:
        if where == "initializer":
            drop()
        return trial.make()

    def finalize(state: int) -> None:
        trial.finalize(state)
        if where == "finalizer":
            drop()

    hooks: dict[str, Any] = {where: drop} if where in {"check", "reset"} else {}
    holder.append(StatefulThreadPoolExecutor(1, initializer=make, finalizer=finalize, policy=StatePolicy(**hooks)))
    registry = inside(holder[0])
    first = holder[0].submit(drop if where == "task" else ready.wait, *[PATIENCE][: where != "task"])
    if where == "callback":
        first.add_done_callback(drop)
    futures = [holder[0].with_state().submit(str), holder[0].submit(isinstance, Mortal(), int)]
    if where == "finalizer":
        holder[0].with_state().discard_all()
    ready.set()
    for future in first, *futures:
        trial.fine(future)
    holder.clear()
    assert registry.join(PATIENCE)
    assert trial.torn_down == [(thread, thread) for thread in trial.made]
    assert len(trial.made) in {1, 2}
    assert not [text for text in watch.texts if "bug" in text]


def test_cancels_itself(watch: Watch) -> None:
    """A task, and its callback, may try to cancel it: it has begun, and ends as ever."""
    trial = Trial(watch, None, None)
    trial.open()
    got: list[bool] = []
    with held(trial.pool), held(trial.pool):
        future = trial.pool.submit(lambda: got.append(future.cancel()))
        future.add_done_callback(lambda ended: got.append(ended.cancel()))
    assert trial.ended(future) is None
    trial.finish()
    assert got == [False, False]


@pytest.mark.parametrize("hook", [sys.settrace, sys.setprofile, threading.settrace, threading.setprofile])
def test_traces(hook: Callable[..., None], watch: Watch) -> None:
    """A task that sets a tracer, or a profiler, has the library's own steps seen by it, and no more."""
    trial = Trial(watch, None, None)
    trial.open(max_workers=1)
    seen: list[object] = []

    def tracer(*event: object) -> Any:
        seen.append(event[1])
        return tracer

    was = sys.gettrace(), sys.getprofile()
    try:
        trial.fine(trial.pool.submit(hook, tracer))
        for fn in int, fail:
            trial.ended(trial.pool.submit(fn))
        assert seen or hook in {threading.settrace, threading.setprofile}
        trial.fine(trial.pool.submit(hook, None))
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
        threading.setprofile(None)
        sys.settrace(was[0])
        sys.setprofile(was[1])
    trial.finish()


def test_lowers_the_recursion_limit(watch: Watch) -> None:
    """A task may leave itself little stack; what it submits and waits for meanwhile is refused, or runs."""
    trial = Trial(watch, None, None)
    trial.open(max_workers=1)
    limit = sys.getrecursionlimit()

    def lower(left: int) -> object:
        sys.setrecursionlimit(len(inspect.stack(0)) + left)
        try:
            return trial.pool.submit(len, "abc").result(PATIENCE)
        finally:
            sys.setrecursionlimit(limit)

    refused = 0
    for left in range(5, 120):
        try:
            error = trial.ended(trial.pool.submit(lower, left))
        except RecursionError as exc:  # the limit is for all threads, and without a GIL this one goes on
            error = exc
            while sys.getrecursionlimit() < limit:
                pass
        assert error is None or isinstance(error, RecursionError)
        refused += error is not None
    assert 0 < refused < 115
    trial.finish()


@pytest.mark.parametrize("kind", [Fraction, Decimal, lambda number: 2 if number >= 1 else 0.001])
def test_numbers(kind: Any, watch: Watch) -> None:
    """Seconds may be any number, and counts any index, where they are given and where they are used."""

    class Index:
        def __index__(self) -> int:
            return 2

    policy = StatePolicy(max_tasks=Index(), max_age=kind(1000))  # type: ignore[var-annotated, arg-type]
    with StatefulThreadPoolExecutor(  # type: ignore[call-overload]
        Index(),
        initializer=int,
        policy=policy,
        max_backlog=Index(),
        submit_timeout=kind(0.001),
        idle_timeout=kind(0.001),
        exit_timeout=kind(0.001),
    ) as pool:
        assert [pool.with_state().submit(abs).result(PATIENCE) for _ in range(3)] == [0] * 3
        until(lambda: not pool._threads)
        with pytest.raises(TimeoutError), pool.scope(timeout=kind(0.001)) as scope:
            until(lambda: scope.cancelled)
        assert pool.submit(len, "abc").result(PATIENCE) == 3
    assert watch.texts == []


# No stack left


def at_depth(depth: int, fn: Callable[[], object]) -> object:
    return at_depth(depth - 1, fn) if depth else fn()


STACK_ENTRY_POINTS: dict[str, Callable[[Pool, Any, Future], object]] = {
    "submit": lambda pool, scope, queued: pool.submit(int),
    "scope": lambda pool, scope, queued: scope.submit(int),
    "view": lambda pool, scope, queued: pool.with_state().submit(str),
    "cancel": lambda pool, scope, queued: queued.cancel(),
    "cancel the scope": lambda pool, scope, queued: scope.cancel(),
    "shut down": lambda pool, scope, queued: pool.shutdown(wait=False, cancel_futures=True),
    "result": lambda pool, scope, queued: queued.result(0),
    "callback": lambda pool, scope, queued: queued.add_done_callback(int),
    "open a scope": lambda pool, scope, queued: open_scope(pool),
}


def with_stack_left(left: int, entry_point: str, workers: str, watch: Watch) -> bool:
    """Whether going through the entry point with this many levels of stack left raises RecursionError."""
    trial = Trial(watch, None, None)
    trial.open(max_workers=1)
    pool, registry = trial.pool, inside(trial.pool)
    if workers == "idle":
        pool.submit(int).result(PATIENCE)
    caught: list[BaseException] = []
    with contextlib.ExitStack() as ends, contextlib.suppress(BaseExceptionGroup), pool.scope() as scope:
        if workers == "busy":
            ends.enter_context(held(pool))
        queued = scope.submit(int) if workers == "busy" else Future()

        def descend() -> None:
            depth = sys.getrecursionlimit() - len(inspect.stack(0)) - left
            try:
                at_depth(depth, lambda: STACK_ENTRY_POINTS[entry_point](pool, scope, queued))
            except (RecursionError, TimeoutError) as exc:
                caught.append(exc)

        thread = threading.Thread(target=descend)
        thread.start()
        if entry_point == "open a scope":
            ends.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        ends.close()
    until(lambda: inside(pool).permits_left() == MAX_BACKLOG)
    if registry.close_reason is not None:
        pool.shutdown(wait=False)  # in that thread there may have been no stack to wake a worker
    trial.finish()
    return any(isinstance(exc, RecursionError) for exc in caught)


@pytest.mark.parametrize("workers", ["none", "idle", "busy"])
@pytest.mark.parametrize("entry_point", STACK_ENTRY_POINTS)
def test_no_stack_left(entry_point: str, workers: str, watch: Watch) -> None:
    """A RecursionError at any depth of the library's functions loses no place, no worker and no end of a scope."""
    raised = [with_stack_left(left, entry_point, workers, watch) for left in range(1, 40)]
    assert True in raised


# Threads that can't be started


class Attempts:
    """Tasks submitted through one of the entry points."""

    def __init__(self, pool: Pool, errors: tuple[type[BaseException], ...]) -> None:
        self.pool = pool
        self.errors = errors
        self.accepted: list[Future] = []
        self.refused = 0

    def attempt(self, submit: Callable[..., Any]) -> None:
        try:
            self.accepted.append(submit(len, "abc"))
        except self.errors:
            self.refused += 1

    def pool_(self) -> None:
        for _ in range(12):
            self.attempt(self.pool.submit)

    def threads(self) -> None:
        threads = [threading.Thread(target=self.pool_) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def scope(self) -> None:
        with self.pool.scope() as scope:
            for _ in range(12):
                self.attempt(scope.submit)

    def view(self) -> None:
        for _ in range(12):
            self.attempt(lambda fn, text: self.pool.with_state().submit(lambda state: fn(text)))

    def map_(self) -> None:
        for options in {}, {"buffersize": 1}, {"chunksize": 2}:
            try:
                assert list(self.pool.map(len, ["abc"] * 9, **options)) == [3] * 9  # type: ignore[arg-type]
            except self.errors:
                self.refused += 1

    def asubmit(self) -> None:
        async def main() -> None:
            async def one() -> None:
                try:
                    assert await (await self.pool.asubmit(len, "abc")) == 3
                except self.errors:
                    self.refused += 1

            await asyncio.gather(*(one() for _ in range(12)))

        asyncio.run(main())

    def task(self) -> None:
        self.attempt(lambda fn, text: self.pool.submit(lambda: self.pool.submit(fn, text).result(PATIENCE)))

    def broadcast(self) -> None:
        self.attempt(self.pool.submit)
        for future in self.pool.broadcast(len, "abc"):
            assert future.result(PATIENCE) == 3


ATTEMPTS = ["pool_", "threads", "scope", "view", "map_", "asubmit", "task", "broadcast"]
PLANS: dict[str, Callable[[int], bool]] = {
    "1st": lambda number: number == 1,
    "1st and 2nd": lambda number: number < 3,
    "2nd": lambda number: number == 2,
    "every other": lambda number: number % 2 == 0,
    "from the 2nd on": lambda number: number > 1,
    "all": lambda number: True,
}
SHORTAGES = [RuntimeError("can't start new thread"), MemoryError(), OSError("no more")]


# By a `Thread.start` that a tool has put there, a thread in between starts the worker, and nobody is told at once.
SHORT_AT = [
    *((where, entry_point) for where in ("start", "new_worker") for entry_point in ATTEMPTS),
    *(("Thread.start", entry_point) for entry_point in ("pool_", "threads", "view")),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("where", "entry_point"), SHORT_AT)
def test_unstartable_threads(
    where: str, plan: str, entry_point: str, watch: Watch, monkeypatch: pytest.MonkeyPatch, nervous: None
) -> None:
    """Each task is refused or run, at every entry point; later, when threads can be started, all there may be are."""
    for error in SHORTAGES:
        trial = Trial(watch, None, None)
        trial.open(max_workers=3)
        pool = trial.pool
        with monkeypatch.context() as patch:
            shortage = Shortage(patch, where, error)
            shortage.fails = PLANS[plan]
            attempts = Attempts(pool, (type(error),))
            getattr(attempts, entry_point)()
            for future in attempts.accepted:
                # One that relied on a worker whose start failed, as another thread found out.
                lost = trial.ended(future)
                relied = where == "Thread.start" or entry_point == "threads"
                in_task = (where, entry_point) == ("new_worker", "task")
                assert (
                    lost is None
                    or (relied and isinstance(lost.__cause__, type(error)))
                    or (in_task and isinstance(lost, type(error)))
                )
            # With several threads another one's worker may be there before the first start fails, and then serves all.
            others = where == "Thread.start" or (entry_point == "threads" and plan != "all")
            assert attempts.refused or not PLANS[plan](1) or others
            if plan in {"2nd", "every other", "from the 2nd on"} and entry_point != "threads" and where == "start":
                assert attempts.refused == 0
            if plan == "all":
                assert not any(trial.ended(future) is None for future in attempts.accepted)
                assert trial.made == []
        while trial.ended(pool.submit(int)) is not None:  # the last failure had not been told of
            pass
        # A start that fails still may be one too many for who relies on it.
        until(functools.partial(operator.not_, inside(pool).coming))
        everyone = threading.Barrier(3)
        for future in [pool.submit(everyone.wait, PATIENCE) for _ in range(3)]:
            assert trial.ended(future) is None
        trial.finish()


@pytest.mark.parametrize("again", [True, False], ids=["starts then", "never starts"])
@pytest.mark.parametrize("entry_point", ["pool", "scope", "blocked"])
def test_a_task_that_relies_on_a_worker_that_does_not_start(
    entry_point: str, again: bool, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the only worker there may be is about to start, another thread submits; then it does not start."""
    trial = Trial(watch, None, None)
    trial.open(max_workers=1)
    others: list[Future] = []
    ended: list[BaseException] = []

    def submit() -> None:
        try:
            with trial.pool.scope() if entry_point == "scope" else contextlib.nullcontext(trial.pool) as target:
                others.extend(
                    target.submit(len, "abc") for _ in range(MAX_BACKLOG - 1 + 2 * (entry_point == "blocked"))
                )
        except (BaseExceptionGroup, RuntimeError) as exc:
            ended.append(exc)

    thread = threading.Thread(target=submit)

    def meanwhile() -> None:
        thread.start()
        until(lambda: len(others) == MAX_BACKLOG - 1)
        until(lambda: entry_point != "blocked" or inside(trial.pool).waiters)

    shortage = Shortage(monkeypatch, "start")
    shortage.first = meanwhile
    shortage.fails = (lambda number: number == 1) if again else (lambda number: True)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        trial.pool.submit(int)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for future in others:
        error = trial.ended(future)
        assert error is None if again else isinstance(error, RuntimeError)
    assert bool(ended) == (not again and entry_point != "pool")
    shortage.fails = lambda number: False
    trial.finish()


def test_no_thread_after_retirement(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the workers have retired, and none can be started: the submit raises; the next one works."""
    trial = Trial(watch, None, None)
    trial.open(idle_timeout=0)
    for error in SHORTAGES:
        trial.fine(trial.pool.submit(int))
        until(lambda: not trial.pool._threads)
        with monkeypatch.context() as patch:
            Shortage(patch, "start", error)
            with pytest.raises(type(error)):
                trial.pool.submit(int)
    trial.finish()


@pytest.mark.parametrize("error", SHORTAGES, ids=repr)
def test_no_thread_for_a_deadline(error: Exception, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scope that can't keep its deadline is not entered; one whose deadline has come is cancelled in any case."""

    def fails(*_: object) -> None:
        raise error

    trial = Trial(watch, None, None)
    trial.open()
    trial.fine(trial.pool.submit(int))
    with monkeypatch.context() as patch:
        patch.setattr(*hook("start_thread.start_new_thread"), fails)
        with pytest.raises(type(error)), trial.pool.scope(timeout=PATIENCE):
            pytest.fail("entered")
    with monkeypatch.context() as patch, pytest.raises(TimeoutError), trial.pool.scope(timeout=0.001) as scope:
        patch.setattr(threading.Thread, "start", fails)
        until(lambda: scope.cancelled)
    trial.finish()


FEW_THREADS = """
import resource, threading
from inside import inside
from stateful_executor import StatefulThreadPoolExecutor

threading.stack_size(1 << 26)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
with StatefulThreadPoolExecutor(100, initializer=list, finalizer=list.clear, max_backlog=200) as pool:
    go_on = threading.Event()
    futures = [pool.submit(go_on.wait) for _ in range(100)]
    threads = len(pool._threads)
    go_on.set()
    assert all(future.result() for future in futures)
    assert len(inside(pool).free_permits) == 200
    stats = pool.stats()
assert 1 < threads < 20, threads
print(stats.completed, pool.stats().states_torn_down == pool.stats().states_made)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts address space")
def test_no_room_for_threads() -> None:
    """With room for the stacks of a few threads only, those run all tasks."""
    assert run_well(FEW_THREADS, "") == ["100 True"]


def test_a_thousand_workers(watch: Watch) -> None:
    """They all run at once, each with its state, and all end."""
    trial = Trial(watch, None, None)
    trial.open(max_workers=1000)
    everyone = threading.Barrier(1000)
    with trial.pool.scope() as scope:
        for _ in range(1000):
            scope.submit(everyone.wait, PATIENCE)
    assert len(trial.made) == 1000
    trial.finish()
