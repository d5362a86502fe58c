"""The private names that tests look at or hook, each written here only: when one is renamed, this file follows.

`inside(thing)` is a pool, worker, task, scope or view under the names used in tests: `inside(pool).waiters`. Reading,
writing and deleting goes to the private object that has the attribute. `inside(pool)` does not keep the pool alive.
`hook(name)` says where a function or class of the library is to be replaced:
`monkeypatch.setattr(*hook("Idle.wake_one"), staged)`. What tests use of the library's private classes and functions is
imported from here.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

from stateful_executor import (
    Scope,
    StatefulThreadPoolExecutor,
    StateView,
    _coming,
    _idle,
    _interpreter,
    _mailbox,
    _parker,
    _permits,
    _registry,
    _runqueue,
    _slot,
    _state,
    _states,
    _task,
    _thread,
    _waits,
    _worker,
    _workers,
)
from stateful_executor._binding import Binding, find_binding
from stateful_executor._coming import MOST_TRIES
from stateful_executor._current import current
from stateful_executor._failure import Failure
from stateful_executor._future import Future, new_task
from stateful_executor._interrupts import HAS_GIL
from stateful_executor._map import AsTheyFinish
from stateful_executor._parker import Deadline, Parker
from stateful_executor._registry import Registry
from stateful_executor._remote_state import dump_binding
from stateful_executor._server import setup_of
from stateful_executor._slot import Slot
from stateful_executor._snapshot import snapshot
from stateful_executor._stack import descend, headroom
from stateful_executor._startup import is_needed
from stateful_executor._states import Request, TearDown
from stateful_executor._stats import CARRIED, Tally
from stateful_executor._stdlib_waiters import StdlibWaiterAdapter
from stateful_executor._task import Task
from stateful_executor._wire import Wire
from stateful_executor._worker import Worker
from stateful_executor._workers import PACED

__all__ = [
    "CARRIED",
    "CLOCKS",
    "HAS_GIL",
    "JOINS_IN",
    "MOST_TRIES",
    "PACED",
    "SET_LATER",
    "SLEEPERS_LOCKS",
    "SLEEPS_IN",
    "AsTheyFinish",
    "Deadline",
    "Failure",
    "Future",
    "Parker",
    "Registry",
    "Request",
    "Tally",
    "Task",
    "TearDown",
    "Worker",
    "containers",
    "current",
    "descend",
    "find_binding",
    "finish_all",
    "forget_exit",
    "handles",
    "headroom",
    "hook",
    "innermost",
    "inside",
    "is_exiting",
    "is_needed",
    "is_parked",
    "new_task",
    "parts",
    "place",
    "registries",
    "setup_of_a_server",
]

# The name in tests, and the path to it.
REGISTRY = {
    name: prefix + name
    for prefix, names in {
        "": ["name", "counts", "close_reason", "idle_timeout", "backlog", "join", "cancel_waiting", "pool", "decorate"],
        "run_queue.": ["tail", "head", "tombstones", "compactor", "high_water", "high_water_stale", "compact"],
        "workers.": [
            "retired",
            "free_indices",
            "can_grow",
            "new_worker",
            "max_workers",
            "too_many",
            "retire",
            "coming",
            "unended",
            "settle",
        ],
        "idle.": ["searching", "wasted_wakes"],
        "waits.": ["waiting", "look"],
        "permits.": ["unissued", "waiters", "needs_notify", "notify_first", "wake_first", "left_line"],
    }.items()
    for name in names
} | {
    "notify_if_work_pending": "notify_if_work_pending",
    "wake": "wake",
    "put": "put",
    "next_segment": "run_queue.next_segment",
    "has_entries": "run_queue.has_entries",
    "entries": "run_queue.entries",
    "pending": "run_queue.pending",
    "workers": "workers.live",
    "workers_lock": "workers.lock",
    "idle": "idle.workers",
    "watchers": "workers._watchers",
    "wake_worker": "idle.wake",
    "free_permits": "permits.free",
    "max_backlog": "permits.size",
    "permits_lock": "permits.lock",
    "submit_timeout": "permits.timeout",
}
# Of a pool without a bound, and of a worker that never had a state.
ABSENT = {"free_permits": None, "unissued": 0, "waiters": {}, "needs_notify": {}, "max_backlog": None}
ABSENT |= {"tearing": {}, "late": [], "torn": []}
WORKER = {
    "thread": "thread",
    "index": "index",
    "ended": "ended",
    "asleep": "asleep",
    "searching": "searching",
    "lock": "lock",
    "block": "_block",
    "sleep_idle": "_sleep_idle",
    "retract": "_retract",
    "listed_idle": "listed_idle",
    "parker": "parker",
    "inbox": "inbox",
    "ask": "ask",
    "broadcasts": "broadcasts",
    "take_broadcast": "take_broadcast",
    "stop_broadcasts": "_stop_broadcasts",
    "leaving": "leaving",
    "fn": "fn",
    "states": "states",
    "slots": "states.slots",
    "slot": "states.slot",
    "overflow": "states.overflow",
    "base_depth": "states.base_depth",
    "tearing": "states.teardowns.under_way",
    "late": "states.teardowns.late",
    "torn": "states.teardowns.states",
    "end": "_end",
    "start_claim": "start_claim",
}
SLOT = {"states": "states", "needs_attention": "needs_attention", "when_free": "calls_when_free"}
TASK = {
    "claim": "_claim",
    "phase": "_phase",
    "watchers": "_watchers",
    "args": "_args",
    "home": "_home",
    "failure": "_failure",
    "taken_over": "_taken_over",
    "after_cancel": "_after_cancel",
    "adapter": "_adapter",
    "has_permit": "_has_permit",
    "stdlib_waiters": "_stdlib_waiters",
}
SET_LATER = {"_adapter", "_cancelled_by", "_failure", "_result", "_silenced", "_taken_over"}  # what few tasks have
ADAPTER = {"claims": "_claims"}
ARRIVALS = {"arrived": "_arrived", "parker": "_parker", "sleeper": "_sleeper", "unbegun": "_unbegun"}
SCOPE = {
    "pending": "_pending",
    "ending": "_ending",
    "failures": "_failures",
    "closing": "_closing",
    "closed": "_closed",
    "entered": "_entered",
    "permit_waiters": "_permit_waiters",
    "joiner": "_joiner",
    "ended": "_ended",
    "time_out": "_time_out",
    "end_alarm": "_end_alarm",
    "bindings": "_bindings",
}
TABLES: list[tuple[type, dict[str, str]]] = [
    (Registry, REGISTRY),
    (Scope, {"registry": "_registry", "backlog": "_registry.backlog"} | SCOPE),
    (StateView, {"binding": "_binding", "holders": "_binding.holders"}),
    (Worker, WORKER),
    (Task, TASK),
    (Slot, SLOT),
    (StdlibWaiterAdapter, ADAPTER),
    (AsTheyFinish, ARRIVALS),
]


class Inside:
    """See the module."""

    def __init__(self, thing: object) -> None:
        if isinstance(thing, StatefulThreadPoolExecutor):
            thing = thing._registry  # the pool itself may go meanwhile
        self.__dict__["_thing"] = thing
        self.__dict__["_table"] = next(table for kind, table in TABLES if isinstance(thing, kind))

    def _find(self, name: str) -> tuple[Any, str]:
        try:
            *parents, last = self._table[name].split(".")
        except KeyError:
            raise AttributeError(
                f"tests have no name {name!r} for something in {self._thing!r}: see inside.py"
            ) from None
        found = self._thing
        for parent in parents:
            found = getattr(found, parent)
        return found, last

    def __getattr__(self, name: str) -> Any:
        owner, last = self._find(name)
        return ABSENT[name] if owner is None else getattr(owner, last)

    def __setattr__(self, name: str, value: object) -> None:
        owner, last = self._find(name)
        if last == "head":
            owner.serve(value)
        elif owner is not None:  # else there is no bound
            setattr(owner, last, value)

    def __delattr__(self, name: str) -> None:
        delattr(*self._find(name))

    @property
    def home(self) -> Any:
        """What the tasks of a pool know of it."""
        return self._thing

    def stats(self) -> Any:
        """Of a registry whose pool may have gone."""
        return snapshot(self._thing)

    def outlive_pool(self) -> Any:
        """Have the workers be known, and their figures with them, when the pool of this registry has gone."""
        self._thing.workers.dissolve = lambda: None
        return self

    def permits_left(self) -> int:
        """How many tasks the backlog would still take."""
        return len(self.free_permits or ()) + int(self.unissued)


def inside(thing: object) -> Any:
    """`thing` under the names of the tests."""
    return Inside(thing)


def innermost(thread: threading.Thread) -> object:
    """The code in which `thread` is; None when it has not started, or has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame and frame.f_code


def is_parked(worker: Worker) -> bool:
    """Whether an idle worker sleeps, or is about to."""
    return innermost(worker.thread) is _idle.Parked._block.__code__


def place(thing: object, name: str) -> tuple[Any, str]:
    """The object that has the attribute which tests call `name`, and the attribute's real name."""
    return Inside(thing)._find(name)


def parts(pool: StatefulThreadPoolExecutor[Any]) -> dict[str, Any]:
    """The objects that a pool and its workers share, by name."""
    registry = pool._registry
    found = {
        "registry": registry,
        "run queue": registry.run_queue,
        "permits": registry.permits,
        "idle": registry.idle,
        "workers": registry.workers,
    }
    return {name: part for name, part in found.items() if part is not None}


def containers(pool: StatefulThreadPoolExecutor[Any]) -> Iterator[tuple[str, Any]]:
    """All that a pool and the library keep, by name."""
    for part, owner in parts(pool).items():
        for name in getattr(owner, "__slots__", None) or vars(owner):
            value = getattr(owner, name)
            if hasattr(value, "__len__") and not isinstance(value, str):
                yield f"{part}.{name}", value
    yield "pool.bindings", pool._bindings
    for binding in pool._bindings.values():
        yield f"{binding.name}.holders", binding.holders
    yield "alarms", _interpreter._alarms
    yield "current", current._workers
    yield "inherited", _interpreter._inherited


def handles(pool: Any) -> list[Any]:
    """The remote workers of a pool."""
    registry = pool._registry
    slots = [owner.states.slots[registry.handles] for owner in registry.there()]
    return [state.value for slot in slots for state in slot.states]


def setup_of_a_server(initializer: Any, initargs: tuple[Any, ...], finalizer: Any) -> bytes:
    """What a remote worker is started with."""
    wire = Wire(pickle)
    return setup_of(wire, "a pool", dump_binding(wire, Binding(initializer, initargs, finalizer)))


finish_all = _interpreter._finish_all  # what the library does when the interpreter exits


def is_exiting() -> bool:
    """Whether the library has heard that the interpreter exits."""
    return _interpreter._exiting


def forget_exit() -> None:
    """Let the library think that the interpreter goes on."""
    _interpreter._exiting = False


def registries() -> list[Any]:
    """What each pool that is alive shares with its workers."""
    return _interpreter._alive()


SLEEPERS_LOCKS = {"Parker._lock", "Worker.lock"}  # each is for one thread to sleep on
# Where every thread sleeps that waits for the library: that is its innermost frame.
JOINS_IN = {joins.__code__ for joins in (_thread.PoolThread.join_started, _thread.PoolThread.join_thread)}
SLEEPS_IN = JOINS_IN | {_parker.Parker.park.__code__}


# Where to replace something: the owner, and the name there.
HOOKS: dict[str, tuple[object, str]] = {
    "Registry.put": (_registry.Registry, "put"),
    "Registry.before_removal": (_registry.Registry, "before_removal"),
    "Registry.close": (_registry.Registry, "close"),
    "Registry.join": (_registry.Registry, "join"),
    "Idle.wake_one": (_idle.Idle, "wake_one"),
    "Idle.arrived": (_idle.Idle, "arrived"),
    "Waits.look": (_waits.Waits, "look"),
    "RunQueue.has_entries": (_runqueue.RunQueue, "has_entries"),
    "RunQueue.entries": (_runqueue.RunQueue, "entries"),
    "RunQueue.compact": (_runqueue.RunQueue, "compact"),
    "Permits.left_line": (_permits.Permits, "left_line"),
    "Permits.try_acquire_in_turn": (_permits.Permits, "try_acquire_in_turn"),
    "Workers.grow": (_workers.Workers, "grow"),
    "Workers.never_came": (_workers.Workers, "never_came"),
    "Workers.after_fork": (_workers.Workers, "after_fork"),
    "Workers.has_ended": (_workers.Workers, "has_ended"),
    "Workers.serves": (_workers.Workers, "serves"),
    "Permits.after_fork": (_permits.Permits, "after_fork"),
    "Workers.retire": (_workers.Workers, "retire"),
    "Workers.set_most": (_workers.Workers, "set_most"),
    "Workers.fit": (_workers.Workers, "fit"),
    "Workers.dismiss": (_workers.Workers, "dismiss"),
    "Mailbox.nudge": (_mailbox.Mailbox, "nudge"),
    "PoolThread.begin": (_thread.PoolThread, "begin"),
    "PoolThread.starts": (_thread.PoolThread, "starts"),
    "start of a thread": (_thread, "_START"),
    "handle of a thread": (_thread, "_HANDLE"),
    "Python's own start": (_thread, "_OWN_START"),
    "find Python's own start": (_thread, "_own_start"),
    "PoolThread.new_thread": (_thread, "_new_thread"),
    "Worker.run_worker": (_worker.Worker, "_run_worker"),
    "Worker.leave": (_worker.Worker, "_leave"),
    "Worker.take_broadcast": (_worker.Worker, "take_broadcast"),
    "Slot.take_back": (_slot.Slot, "take_back"),
    "TearDown.answer": (_states.TearDown, "answer"),
    "replace a worker that died": (_coming, "_replace"),
    "Slot": (_states, "Slot"),
    "Teardowns": (_states, "Teardowns"),
    "State.random": (_state, "_random"),
    "LostError": (_task, "LostError"),
    "AsTheyFinish.add": (AsTheyFinish, "add"),
    "making": (_task, "making"),  # the lock for what a task makes once
    "start_thread.start_new_thread": (_interpreter._thread, "start_new_thread"),  # for the timeout of a scope
}


CLOCKS = [(_state, "monotonic"), (_slot, "monotonic")]  # by which states have an age


def hook(name: str) -> tuple[Any, str]:
    """The owner and the attribute to replace, for `monkeypatch.setattr`."""
    return HOOKS[name]
