"""How a pool is watched: the only module here that knows the parts of a pool. What is not recorded is not touched.

Tasks go through the pool's decorator, which is there for that. What is rarer (a state's life, a wait for a place in the
backlog, a scope) goes through methods put on this one pool's parts; or, where a part has slots only, through subclasses
without fields to which it is switched over, by the thread that owns it. All is put back when the recording stops.
"""

from __future__ import annotations

import _thread
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import partial
from time import monotonic, perf_counter_ns
from types import FunctionType
from typing import Any, Protocol, cast

from .._binding import Binding
from .._current import current
from .._naming import name_of
from .._options import TaskDecorator
from .._permits import Permits
from .._policy import StatePolicy
from .._registry import Registry
from .._scope import Scope
from .._slot import Slot
from .._state import State
from .._states import Owner, Request, States
from .._stats import Counts
from .._workers import PoolWorker
from ._log import Log, Logs

# Of pools that are recorded. Weak, so that a recording that nobody stops ends with its pool.
_recorded: weakref.WeakKeyDictionary[object, Logs] = weakref.WeakKeyDictionary()


class Pool(Protocol):
    """A pool, as far as it is watched here."""

    @property
    def _registry(self) -> Registry: ...

    def scope(self, *, fail_fast: bool = False, timeout: float | None = None) -> Scope[Any]: ...


class TimedTask:
    """Stands for a task's function, and writes down when that was submitted, and when it ran."""

    __slots__ = ("__qualname__", "_fn", "_logs", "outer", "started", "submitted")

    started: int

    def __init__(self, fn: Callable[..., Any], name: str, logs: Logs) -> None:
        self._fn = fn
        self._logs = logs
        self.__qualname__ = name  # logs and errors go on naming the function
        self.submitted: int = perf_counter_ns()

    def __call__(self, *args: Any) -> Any:
        logs = self._logs
        if logs.stopped:
            return self._fn(*args)
        log = logs.find(_thread.get_ident()) or logs.here()
        outer = self.outer = log.running
        started = self.started = perf_counter_ns()
        log.running = self  # from here on others look at it
        try:
            result = self._fn(*args)
        except BaseException:
            log.extend(("task", self.__qualname__, self.submitted, started, perf_counter_ns(), True))
            log.running = outer
            raise
        log.extend(("task", self.__qualname__, self.submitted, started, perf_counter_ns(), False))
        log.running = outer
        return result


def _decorator(logs: Logs, inner: TaskDecorator | None) -> TaskDecorator:
    """What `Registry.decorate` is meanwhile, around the one that was there before."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        named: Any = fn
        if type(fn) is not FunctionType and isinstance(fn, partial):  # most often what `submit` made, to bind keywords
            named = fn.func
        name = named.__qualname__ if type(named) is FunctionType else name_of(named)  # a call less for most
        return TimedTask(fn if inner is None else inner(fn), name, logs)

    return decorate


# States


def _here() -> Log | None:
    """The log of the worker that calls this; None when its pool is recorded no more."""
    worker = current.worker
    logs = None if worker is None else _recorded.get(worker.registry)
    return None if logs is None else logs.here()


def _note(kind: str, name: str, began: int, failed: bool = False) -> None:
    log = _here()
    if log is not None:
        log.add(kind, name, began, failed)


class TracedState(State):
    """Writes down its teardown."""

    __slots__ = ()

    def tear_down(self, counts: Counts) -> None:
        """As `State` has it."""
        if self._teardown_begun:
            return
        began, errors = perf_counter_ns(), counts.teardown_errors
        super().tear_down(counts)
        _note("teardown", self._binding.name, began, counts.teardown_errors > errors)


class TracedSlot(Slot):
    """Writes down when its states are made and discarded."""

    __slots__ = ()

    def _make(self) -> None:
        began, made = perf_counter_ns(), self._counts.made
        try:
            super()._make()
        finally:
            _note("make", self.binding.name, began, self._counts.made == made)
            for state in self.states:
                state.__class__ = TracedState

    def _discard(self, state: State) -> None:
        replaced = state.replaced
        super()._discard(state)
        if state.replaced > replaced:
            _note("discard", self.binding.name, perf_counter_ns())


class TracedStates(States):
    """Has its slots write down what they do, and tells when the worker leaves."""

    __slots__ = ()

    def slot(self, binding: Binding) -> Slot:
        """As `States` has it."""
        slot = super().slot(binding)
        _watch_slot(slot)
        return slot

    def tear_down_all(self) -> None:
        """As `States` has it; the last that a worker does before it leaves."""
        super().tear_down_all()
        worker = current.worker
        logs = None if worker is None else _recorded.get(worker.registry)
        if logs is not None:
            logs.leave()


def _timed(kind: str, name: str, call: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """`check` or `reset` of a policy, which writes down when it runs."""
    if call is None:
        return None

    def timed(value: Any) -> Any:
        began, failed = perf_counter_ns(), True
        try:
            result = call(value)
            failed = kind == "check" and result is False
            return result
        finally:
            _note(kind, name, began, failed)

    timed.__qualname__ = name_of(call)  # errors go on naming it
    return timed


def _timed_policy(binding: Binding) -> StatePolicy[Any] | None:
    policy, name = binding.policy, binding.name
    if policy is None:
        return None
    timed = copy(policy)  # which calls no constructor of a subclass
    object.__setattr__(timed, "check", _timed("check", name, policy.check))
    object.__setattr__(timed, "reset", _timed("reset", name, policy.reset))
    return timed


def _watch(states: States) -> None:
    """By the thread of the worker, or before that has started."""
    states.__class__ = TracedStates
    for slot in states.slots.values():
        _watch_slot(slot)
        for state in slot.states:
            state.__class__ = TracedState


def _watch_slot(slot: Slot) -> None:
    if not isinstance(slot, TracedSlot):
        slot.__class__ = TracedSlot
        slot._policy = _timed_policy(slot.binding)


def _unwatch(states: States) -> None:
    states.__class__ = States
    for slot in states.slots.values():
        slot.__class__ = Slot
        slot._policy = slot.binding.policy
        for state in slot.states:
            state.__class__ = State


class Switch(Request):
    """Has a worker's states watched, or not any more; by its own thread."""

    def __init__(self, logs: Logs | None) -> None:
        self._logs = logs

    def answer(self, owner: Owner) -> None:
        """As `Request` has it."""
        if self._logs is None:
            _unwatch(owner.states)
        else:
            self._logs.here()  # a worker that is there, be it idle
            _watch(owner.states)


# Submitters


def _left_line(permits: Permits, logs: Logs, since: float) -> None:
    """`Permits.left_line`, called by whoever waited for a place in the backlog."""
    Permits.left_line(permits, since)
    began = perf_counter_ns() - int((monotonic() - since) * 1e9)
    logs.submitters.add("blocked", threading.current_thread().name, began)


class TracedScope(Scope[Any]):
    """Writes down its block."""

    _began: int = 0

    def _enter(self, runs_in_worker: bool) -> None:
        super()._enter(runs_in_worker)
        self._began = perf_counter_ns()

    def _outcome(self, error: BaseException | None, interrupted: bool) -> bool:
        logs = _recorded.get(self._registry)
        if logs is not None:
            failed = error is not None or bool(self._failures)
            logs.submitters.add("scope", threading.current_thread().name, self._began, failed)
        try:
            return super()._outcome(error, interrupted)
        finally:
            error = None  # no cycle from it by its traceback to this frame


def _scope_of(ref: Callable[[], Any], **options: Any) -> Scope[Any]:
    """`pool.scope` while it is recorded; keeps no pool alive."""
    pool: Any = ref()
    scope: Scope[Any] = type(pool).scope(pool, **options)
    if type(scope) is Scope:
        scope.__class__ = TracedScope
    return scope


# On and off


class Attachment:
    """What was put in place to record a pool, to be taken out again."""

    def __init__(self, pool: Pool, logs: Logs) -> None:
        registry = pool._registry
        self.registry = registry
        self._pool = weakref.ref(pool)
        self._logs = logs
        self._scope_before: object = vars(pool).get("scope")
        self._made_before = registry.workers.new_worker
        self._decorated_before = registry.decorate
        if registry in _recorded:
            raise ValueError(f"{pool!r} is recorded already: stop that recording first")
        _recorded[registry] = logs
        try:
            self._attach(pool, logs)
        except BaseException:
            self.detach()
            raise

    def _attach(self, pool: Pool, logs: Logs) -> None:
        registry = self.registry
        registry.workers.new_worker = partial(_new_worker, self._made_before)
        for worker in list(registry.workers.live):
            _states_of(worker).ask(Switch(logs))
        if registry.permits is not None:
            registry.permits.left_line = partial(_left_line, registry.permits, logs)  # type: ignore[method-assign]
        pool.scope = partial(_scope_of, self._pool)  # type: ignore[method-assign]
        registry.decorate = _decorator(logs, self._decorated_before)

    def detach(self) -> None:
        """Leave the pool as it was. May be done again."""
        registry = self.registry
        if _recorded.get(registry, self._logs) is not self._logs:
            return  # it was done, and another recording is going on
        self._logs.stopped = True
        registry.decorate = self._decorated_before
        registry.workers.new_worker = self._made_before
        for part, name in (registry.permits, "left_line"), (self._pool(), "scope"):
            with suppress(AttributeError):
                delattr(part, name)  # of the instance
        if self._scope_before is not None and (pool := self._pool()) is not None:
            pool.scope = self._scope_before  # type: ignore[method-assign, assignment]
        _recorded.pop(registry, None)
        for worker in list(registry.workers.live):
            _states_of(worker).ask(Switch(None))

    def waiting(self) -> list[TimedTask]:
        """The tasks in the backlog."""
        tasks: list[object] = [task._fn for task in self.registry.run_queue.pending()]
        return [task for task in tasks if isinstance(task, TimedTask)]


def _new_worker(make: Callable[[], PoolWorker]) -> PoolWorker:
    worker = make()
    _watch(_states_of(worker).states)
    return worker


def _states_of(worker: PoolWorker) -> Owner:
    """Every worker is both."""
    return cast("Owner", worker)
