"""What was seen, as it is written down: one log for each worker, and one for the threads that submit."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Protocol, TypeAlias, cast

# kind, name, when it was submitted, began and ended (nanoseconds of `perf_counter_ns`), failed
Event: TypeAlias = "tuple[str, str, int, int, int, bool]"
SIZE = 6


class Running(Protocol):
    """A task that runs, as far as its log needs it; `outer` is the one inside of which it does."""

    __qualname__: str
    outer: Running | None
    submitted: int
    started: int


class Log:
    """What one thread did. Written by that thread only, read by any: a deque's and a list's own locks guard them.

    `events`
        the fields of one after the other, six by six: a tuple for each would be one more object for collections to look
        through, which costs more than all the rest.
    `extend`
        adds to them.
    `running`
        the innermost task that runs.
    """

    __slots__ = ("began", "events", "extend", "lane", "running")

    def __init__(self, lane: str, limit: int) -> None:
        self.lane = lane
        self.began: int = perf_counter_ns()
        self.events: deque[str | int | bool] = deque(maxlen=limit * SIZE)
        self.extend: Callable[[Iterable[str | int | bool]], None] = self.events.extend
        self.running: Running | None = None

    def add(self, kind: str, name: str, began: int, failed: bool = False) -> None:
        """What has just ended, other than a task."""
        self.extend((kind, name, began, began, perf_counter_ns(), failed))

    def copy(self) -> list[Event]:
        """The events so far, from any thread."""
        while True:
            try:
                fields = list(self.events)
                return cast("list[Event]", list(zip(*[iter(fields)] * SIZE, strict=True)))
            except RuntimeError:  # one was added meanwhile
                continue


class Logs:
    """The logs of one recording.

    `by_thread`, `find`
        those of the workers there are, by the ident of their thread, which alone enters and leaves; and a look at one.
        Guarded by the dict's own lock.
    `all`
        those of workers that have left, too. Guarded by the list's own lock.
    `submitters`
        of whatever threads submit, several of which may write: what they do here is seldom.
    `stopped`
        once set it stays set: a task that begins after that is not recorded.
    """

    __slots__ = ("_limit", "all", "by_thread", "find", "stopped", "submitters")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.by_thread: dict[int, Log] = {}
        self.find: Callable[[int], Log | None] = self.by_thread.get
        self.all: list[Log] = []
        self.submitters = Log("", limit)
        self.stopped: bool = False

    def here(self) -> Log:
        """That of the worker that calls this."""
        ident = _thread.get_ident()
        log = self.by_thread.get(ident)
        if log is None:
            log = self.by_thread[ident] = Log(threading.current_thread().name, self._limit)
            self.all.append(log)
        return log

    def leave(self) -> None:
        """The worker that calls this is about to end, or to begin anew; a later thread may have the same ident."""
        log = self.by_thread.pop(_thread.get_ident(), None)
        if log is not None:
            log.add("leave", "", perf_counter_ns())
            log.running = None  # as it is not, if what was thrown into this thread has cut off the end of a task

    def are_cut(self) -> bool:
        """Whether older events were dropped."""
        return any(len(log.events) == log.events.maxlen for log in (*self.all, self.submitters))
