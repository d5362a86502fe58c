"""Tasks in the order of their submission, and the compaction of the entries of cancelled ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count, repeat

from ._future import Future
from ._interrupts import HAS_GIL
from ._stats import ONE
from ._typing import Any

MIN_TOMBSTONES = 64


class RunQueue:
    """Owns the order of tasks, in two segments: submitters append to `tail`, workers pop from `head`. Strictly private.

    A task may stand there more than once, or after it was cancelled or run in place. Such an entry is a *tombstone*:
    the worker that pops it finds the task claimed, and skips it.

    `tail`, `head`
        one deque but for a while after a compaction. Each is guarded by its own lock; which deques they are is changed
        only by whoever holds the item of `compactor`.
    `pops`
        an iterator over what is popped from `head`, without a state of its own, written in one step with that.
    `tombstones`
        as many items as there are tombstones; now and then one too many, when a worker met the entry before the
        canceller counted it, and too few after a compaction (`compacted`). Only a figure, and when to compact, depends
        on it. Guarded by the list's own lock.
    `compacted`
        once set it stays set: from then on the backlog has to be counted task by task.
    `high_water`
        the most tasks there ever were. Written by whoever holds the item of `_high_water_turn`, and never to less.
    `high_water_stale`
        more have come since that was looked at. Who finds it set leaves it: what was appended before that is counted by
        whoever clears it after. Never cleared without a GIL, where threads that write the same object in turn contend
        for its lock: that took two thirds more of a task with 64 workers, and to count takes less.

    Nobody sleeps here, but `next_segment` gives way for the few instructions in which another thread compacts. So a
    finalizer may submit, cancel and drop pools wherever a collection can start, but must not wait there for a task.
    `on_compacted` wakes every idle worker.
    """

    def __init__(self, on_compacted: Callable[[], None], in_use: Callable[[], int] | None = None) -> None:
        self.tail: deque[Future[Any]] = deque()
        self.head: deque[Future[Any]]
        self.pops: Iterator[Future[Any]]
        self.serve(self.tail)
        self.tombstones: list[None] = []
        self.compactor: list[None] = [None]
        self.compacted: bool = False
        self.high_water: int = 0
        self.high_water_stale: bool = False
        self._high_water_turn: list[None] = [None]
        self._on_compacted = on_compacted
        self._in_use = in_use  # an exact count of the backlog, where there is one

    def serve(self, head: deque[Future[Any]]) -> None:
        """Have workers pop from `head`.

        They take a task by a loop over `pops`, not by a call of `popleft`: what another thread throws into a worker is
        raised after a call, and the task would be lost, but not before the body of a loop.
        """
        pops = map(type(head).popleft, repeat(head))
        self.head = head
        self.pops = pops

    def append_again(self, task: Future[Any]) -> None:
        """Append until `task` stands in the current `tail`: a compaction has swapped it, and may have missed that."""
        while True:
            self.tombstones.append(None)
            tail = self.tail
            tail.append(task)
            if tail is self.tail:
                return

    def entries(self) -> int:
        """How many stand in the segments, tombstones too."""
        tail, head = self.tail, self.head
        return len(head) if head is tail else len(head) + len(tail)

    def next_segment(self) -> bool:
        """`head` was empty: go on to `tail`. False when they are the same. For workers."""
        if self.head is self.tail:
            return False
        try:
            del self.compactor[0]
        except IndexError:
            time.sleep(0)  # being compacted: `head` is about to be replaced, and what is in `tail` comes after that
            return True
        try:
            if not self.head:
                self.serve(self.tail)
        finally:
            self.compactor += ONE
        return True

    def has_entries(self) -> bool:
        """Whether there is anything to take. Locks the deques: the look of a worker that is about to sleep.

        `tail` first: a compaction meanwhile moves what was in there to `head`, and nothing the other way.
        """
        self.tail.extend(())
        if self.head is not self.tail:
            self.head.extend(())
        return bool(self.tail or self.head)

    # Tombstones

    def add_tombstone(self) -> None:
        """A task will be claimed, and its entry stays behind. Before it counts as anything else, see `snapshot`."""
        self.update_high_water()
        self.tombstones.append(None)

    def remove_tombstone(self) -> None:
        """A worker has popped one, or somebody else claimed the task, which is none then."""
        with suppress(IndexError):
            self.tombstones.pop()

    def compact_if_due(self) -> None:
        """Compact when there are so many tombstones that it costs each of them a constant."""
        if len(self.tombstones) > MIN_TOMBSTONES + self.entries() // 2:
            self.compact()

    def compact(self) -> None:
        """Leave only the entries of tasks that have not begun. One thread at a time; may stop after any step.

        A submit meanwhile:

        1. The compactor makes a new `tail` (1). A submit that looks at `tail` after that appends to it.
        2. The compactor copies the old `tail` (2). A submit that appended there before is in the copy.
        3. A submit that appends to the old one after that finds `tail` changed, and appends again.

        What stands in both is begun once all the same. Workers empty `head` before they go on to `tail`, so the order
        is kept.
        """
        try:
            del self.compactor[0]
        except IndexError:
            return
        old = self.tail
        try:
            if self.head is not old:  # not emptied since the last time: its tasks come before those of `tail`
                old.extendleft(reversed(_pending(_copy(self.head))))
                self.serve(old)
            self.tail = deque()  # (1)
            self.serve(deque(_pending(_copy(old))))  # (2)
            self.compacted = True  # from here on there may be too few tombstones: those that came since (2)
            self.tombstones.clear()
            self._on_compacted()  # a worker that was about to sleep may have looked at the old deque only
        finally:
            self.compactor.append(None)
        old.clear()  # a worker may have it until its task has ended

    # Counting

    def pending(self) -> list[Future[Any]]:
        """The tasks that have not begun."""
        later = _copy(self.tail)  # before `head`, see `has_entries`
        return _pending(dict.fromkeys((*_copy(self.head), *later)))

    def update_high_water(self) -> None:
        """Before the backlog shrinks, if it has grown: have there ever been as many tasks in it?"""
        if not self.high_water_stale:
            return
        if HAS_GIL:
            self.high_water_stale = False  # before the count
        ahead = self.entries() - len(self.tombstones) if self._in_use is None else self._in_use()
        if ahead > self.high_water:
            self.raise_high_water(ahead)

    def raise_high_water(self, tasks: int) -> None:
        """There have been so many tasks at once."""
        while tasks > self.high_water:
            try:
                del self._high_water_turn[0]
            except IndexError:
                time.sleep(0)  # another thread is at the next lines
                continue
            if tasks > self.high_water:  # noqa: PLR1730  # one step with `del`: no call, which could be interrupted
                self.high_water = tasks
            self._high_water_turn += ONE

    def after_fork(self) -> object:
        """In the child: forget all tasks; returns what is to be kept for ever, since it is the parent's."""
        self._high_water_turn = [None]
        kept = (self.tail, self.head)
        self.tail = deque()
        self.serve(self.tail)
        return kept


def _pending(tasks: Iterable[Future[Any]]) -> list[Future[Any]]:
    return [task for task in tasks if task._claim]


def _copy(tasks: deque[Future[Any]]) -> list[Future[Any]]:
    """The entries of `tasks` that stay in it meanwhile, in order."""
    try:
        return list(tasks)
    except RuntimeError:  # free-threaded builds don't, while others use it
        entries = []
        with suppress(IndexError):
            # From the right: an append meanwhile makes one entry come twice, a task taken from the left ends it early.
            for index in count(1):
                entries.append(tasks[-index])  # noqa: PERF401  # the error that ends it would end a comprehension, too
        return entries[::-1]
