"""Interpreter exit and fork: every pool hears of both.

What the main thread waits for at exit is `Closeable.join`, woken by each worker as it ends, or by the `exit_timeout`.
Ctrl-C there, or whatever else a signal's handler raises, cancels what has not begun, and the join goes on.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from time import monotonic

from ._parker import Parker
from ._typing import Any, Protocol

logger = logging.getLogger("stateful_executor")
ABANDONED = "%s has not ended %s seconds after the interpreter began to exit, and is not waited for any more: %s"


class Closeable(Protocol):
    """What a pool and its workers share, as far as the end of the process is concerned."""

    name: str
    exit_timeout: float | None
    abandoned: bool  # the exit has waited for `exit_timeout` seconds

    def close(self, reason: Callable[[], Exception]) -> None:
        """Accept no more tasks, and let workers go when those accepted have been begun."""

    def cancel_waiting(self) -> None:
        """Cancel what has not begun."""

    def join(self, timeout: float | None = None) -> bool:
        """After `close`: wait until every worker has ended; False when `timeout` seconds passed before."""
        ...

    def still_running(self) -> str:
        """The workers that have not ended, and what they run, for a person."""
        ...

    def after_fork(self, reason: Callable[[], Exception]) -> object:
        """In the child; returns what is to be kept for ever."""


# An ordered set. Guarded by its own lock, as each entering and leaving is one atomic step.
_pools: dict[weakref.ref[Closeable], None] = {}
_forget = _pools.pop
_exiting = False

# A subinterpreter is sent no signals, and the process aborts when one ends that has a thread which `threading` does not
# know. Python 3.11 can't tell, and aborts for one that it knows, too: there pools are for the main interpreter only.
in_subinterpreter: bool = not getattr(_thread, "_is_main_interpreter", lambda: True)()

# What threads for the timeouts of scopes sleep on in a subinterpreter, an ordered set. Guarded by its own lock.
_alarms: dict[Parker, None] = {}


def _too_late() -> RuntimeError:
    return RuntimeError("cannot schedule new futures after interpreter shutdown")


def register(pool: Closeable) -> None:
    """Have `pool` closed when the interpreter exits, and refuse in forked children."""
    if in_subinterpreter and pool.exit_timeout is not None:
        raise RuntimeError(
            f"{pool.name} can't have an exit_timeout, since a subinterpreter ends only when its threads have ended: "
            "leave it out, or make the pool in the main interpreter"
        )
    # As the callback is C code, no Ctrl-C is raised, and lost, in it.
    _pools[weakref.ref(pool, _forget)] = None
    if _exiting:
        pool.close(_too_late)


def start_thread(fn: Callable[..., object], args: tuple[Any, ...], alarm: Parker) -> None:
    """Have a thread call `fn(*args)`, which returns when `alarm` is woken, and does not hold up the exit.

    When the interpreter exits, no task is accepted that could be late, and Python 3.12 would start no thread.
    """
    if not in_subinterpreter:
        if not _exiting:
            _thread.start_new_thread(fn, args)
        return

    def run() -> None:
        try:
            fn(*args)
        finally:
            _alarms.pop(alarm, None)

    thread = threading.Thread(target=run, daemon=False)
    _alarms[alarm] = None  # before the look at `_exiting`: `_finish_all` writes that, then looks here
    try:
        if not _exiting:
            thread.start()
    finally:
        if not thread.is_alive():
            _alarms.pop(alarm, None)


def _alive() -> list[Closeable]:
    return [pool for ref in _pools.copy() if (pool := ref()) is not None]


def _finish_all() -> None:
    """Before the interpreter joins threads: close every pool, let workers finish what is queued, tear down.

    What is raised while it joins, by Ctrl-C, `sys.exit` in a handler of SIGTERM, or a time limit, cancels what has not
    begun, and is raised when all have been joined: no state is left without its teardown. Of several the last one is.

    Pools are joined by their `exit_timeout`, the shortest first, and those without one last: all timeouts run at the
    same time, and no pool takes the time of another.
    """
    global _exiting
    _exiting = True
    pools: list[Closeable] | None = None
    began = 0.0
    interrupt = None
    while pools is None or pools:
        try:  # twice, as in `Scope.__exit__`
            while True:
                try:
                    if pools is None:
                        began = monotonic()
                        pools = sorted(_alive(), key=_patience, reverse=True)
                    if not pools:
                        break
                    _finish(pools, began, interrupt is not None)
                except BaseException as exc:  # also a second one: all of this may be done again
                    interrupt = exc
        except BaseException as exc:
            interrupt = exc
    if interrupt is not None:
        raise interrupt


def _finish_late() -> None:
    """At exit, after threads were joined: `threading` calls no more hooks, and joins nobody, when one has raised.

    That of CPython 3.12.1 for process pools does so at times.
    """
    if not _exiting:
        _finish_all()


def _patience(pool: Closeable) -> float:
    return float("inf") if pool.exit_timeout is None else pool.exit_timeout


def _finish(pools: list[Closeable], began: float, cancel: bool) -> None:
    """Join `pools` from the last one on; leave those that have not ended, and are still waited for."""
    for pool in pools:
        pool.close(_too_late)
    if cancel:
        for pool in pools:
            pool.cancel_waiting()
    while pools:
        pool = pools[-1]
        ended = pool.join(None if pool.exit_timeout is None else began + pool.exit_timeout - monotonic())
        if not ended:
            pool.abandoned = True
            pool.cancel_waiting()
        running = "" if ended else pool.still_running()
        del pools[-1]  # first: what a log handler raises is no reason to come back to it
        if running:
            logger.error(ABANDONED, pool.name, pool.exit_timeout, running)
    for alarm in _alarms.copy():  # no task is left that could be late
        alarm.wake()


def _forked() -> None:
    """In the child of a fork: no worker came along, locks may be held for ever, and the states are the parent's."""
    for pool in _alive():
        _inherited.append((pool, pool.after_fork(_parents(pool.name))))  # noqa: PERF401  # one by one


def _parents(name: str) -> Callable[[], Exception]:
    return lambda: BrokenThreadPool(
        f"{name} was made before this process was forked, and its workers are in the parent: make a new pool here"
    )


# Kept for ever, so that nothing of the parent's is collected, and thereby closed, in the child.
_inherited: list[object] = []

# Private, but the only hook that runs before the interpreter joins threads that are not daemons; and daemons would be
# stopped in the middle of a task, without a teardown.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
atexit.register(_finish_late)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
