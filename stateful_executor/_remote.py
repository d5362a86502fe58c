"""A remote worker, as the state of one of our own.

A pool of remote workers is a pool of threads. Each thread's state is a `Handle`: made when the thread starts, checked
before each task, discarded when a task fails with `WorkerLost`, closed by the thread. So the order of tasks, backlog,
scopes, futures and shutdown are the same code, with the same meaning. What an engine has to give is `RemoteWorker`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

from ._binding import Binding
from ._current import current
from ._interrupts import raise_error
from ._mailbox import Mailbox
from ._wire import CLOSE, COUNTED, EXPIRE, NO_STATE, OWN, Parts, RemoteTraceback, Wire
from ._workers import PoolWorker
from .errors import WorkerLost


class RemoteWorker(Protocol):
    """A worker elsewhere, whose `Server` answers one request at a time. Used by one thread, but for `kill`."""

    def alive(self) -> bool:
        """Whether it is there. Cheap. May be wrong only in saying so of one that has just ended."""
        ...

    def call(self, kind: int, key: int, parts: Parts) -> Parts:
        """Have the server answer a request; `WorkerLost` when nobody knows what became of that."""
        ...

    def close(self) -> None:
        """After the last request: return when it has ended. Raises nothing."""

    def kill(self) -> None:
        """End it at once, whatever it does, and have it dead for `alive` from now on; from any thread."""


# Starts a worker, has its server make the pool's own state, and returns the reply to that as well.
Start: TypeAlias = "Callable[[], tuple[RemoteWorker, Parts]]"


class Handle:
    """One remote worker, and the call that it runs. Strictly private.

    `running`
        that call. Whoever removes it says how it ends: the thread whose state this is, when the reply is there, or who
        kills the worker. Guarded by the list's own lock.
    `_busy`
        a request is under way, and no other one may be made; what a destructor waits for could lead there.
    `_generation`
        of the pool's own state in the worker, see `Binding`.

    All but `running` is touched by the thread whose state this is.
    """

    __slots__ = ("_busy", "_generation", "_wire", "_worker", "running")

    def __init__(self, worker: RemoteWorker, wire: Wire, generation: object) -> None:
        self._worker = worker
        self._wire = wire
        self._generation = generation
        self._busy: bool = False
        self.running: list[object] = []

    def call(self, call: object, kind: int, key: int, parts: Parts) -> tuple[Any, BaseException | None]:
        """Have the worker run a task: what that returned, and what it raised. Raises `WorkerLost`."""
        self.running.append(call)
        try:
            reply = self._exchange(kind, key, parts)
        finally:
            try:
                del self.running[0]
            except IndexError:  # somebody kills the worker, be it too late for this call
                self._worker.kill()
                _look_before_the_next_task()
        return self._opened(reply)

    def request(self, kind: int, key: int, parts: Parts = (b"",)) -> None:
        """Have the worker do something else, and raise what that raised."""
        self.check_reply(self._exchange(kind, key, parts))

    def check_reply(self, reply: Parts) -> None:
        """Raise the error that is in `reply`, if there is one."""
        raise_error(self._opened(reply)[1])

    def _exchange(self, kind: int, key: int, parts: Parts) -> Parts:
        if self._busy:
            raise RuntimeError("this thread waits for its remote worker, and can't ask it for something else meanwhile")
        self._busy = True
        try:
            return self._worker.call(kind, key, parts)
        except WorkerLost:
            _look_before_the_next_task()
            raise
        finally:
            self._busy = False

    def _opened(self, reply: Parts) -> tuple[Any, BaseException | None]:
        value, error, counted = self._wire.load_reply(reply)
        if counted is not None:  # states that were replaced over there
            counts = cast("PoolWorker", current.worker).counts
            for name, more in zip(COUNTED, counted, strict=True):
                setattr(counts, name, getattr(counts, name) + more)
        return value, error

    def renew_if_stale(self, own: Binding) -> None:
        """Have the pool's own state replaced if it is older than the last `discard_all`."""
        generation = own.generation
        if self._generation is not generation:
            self._generation = generation
            self.request(EXPIRE, OWN)

    def alive(self) -> bool:
        """The check: whether the worker is there."""
        return self._worker.alive()

    def kill(self) -> None:
        """For who has removed the call from `running`."""
        self._worker.kill()

    def close(self) -> None:
        """The finalizer: tear down all states over there, and end the worker. Raises what the teardowns raised."""
        try:
            if self._worker.alive():
                with suppress(WorkerLost):  # it ends by itself in this moment
                    self.request(CLOSE, NO_STATE)
        finally:
            self._worker.close()


def _look_before_the_next_task() -> None:
    """Have the worker of this thread look whether its remote one is there: see `Binding.is_there`."""
    cast("Mailbox", current.worker).has_mail = True


class StartWorker:
    """The initializer of handles. Named as the user's own, if there is one: errors speak of that."""

    def __init__(self, start: Start, wire: Wire, own: Binding | None) -> None:
        self._start = start
        self._wire = wire
        self._own = own
        self.__qualname__ = "the start of a worker" if own is None else own.name

    def __call__(self) -> Handle:
        generation = None if self._own is None else self._own.generation  # before that one is made, see `State`
        worker, reply = self._start()
        handle = Handle(worker, self._wire, generation)
        try:
            handle.check_reply(reply)
        except BaseException:
            worker.close()
            raise
        return handle


def is_lost(error: BaseException) -> bool:
    """Whether `error` says that the worker is lost: not one that it sent, having lost a worker of its own."""
    return isinstance(error, WorkerLost) and not isinstance(error.__cause__, RemoteTraceback)
