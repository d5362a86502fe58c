"""Idle workers, and how many of them a submit wakes. What rayon calls its sleep module, and tokio its idle set."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterator

MAX_WASTED_WAKES = 8  # as many good ones it takes to notice that wakes are wasted no more
WOKEN_AT_ONCE = 2


class Parked:
    """The part of a worker that sleeps. Strictly private.

    `lock`
        on which the worker sleeps. Released by whoever takes the worker out of `Idle.workers`, at once, and by nobody
        else.
    `listed_idle`
        stands in `Idle.workers`, or has been taken out of there and not slept since: true until it has acquired the
        lock. For its own thread only.
    `asleep`
        true while the worker sleeps and had nothing else to do before. Written by its own thread; false when it enters
        `Idle.workers`, and who takes it out may miss that it is true since.
    `searching`
        submits rely on this one. Written by who took it out of `Idle.workers`, before the release; by its thread after.
    """

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.lock.acquire()
        self._acquires: Iterator[bool] = iter(self.lock.acquire, None)  # never that
        self.listed_idle: bool = False
        self.asleep: bool = False
        self.searching: bool = False

    def _block(self, timeout: float | None = None) -> bool:
        """Sleep until whoever took this worker out of `Idle.workers` has released the lock; False after `timeout`."""
        acquires = self._acquires if timeout is None else map(self.lock.acquire, (True,), (timeout,))
        if not self.listed_idle:  # a collection ran a finalizer on the way here, which waited for a task: it is awake
            return True
        # By a loop, see `RunQueue.serve`: what is thrown into this thread comes after `listed_idle`, or not once awake.
        for awake in acquires:
            self.listed_idle = not awake
            return awake
        raise AssertionError  # it is endless


class Idle:
    """Owns who sleeps, and decides whom a submit wakes. Knows no tasks. Strictly private.

    `workers`
        those that sleep, or are about to, the last one warmest. Guarded by the dict's own lock.
    `searching`
        true while a worker that slept, and was woken for a task, has not looked at the tasks yet. A submit then wakes
        nobody: it leaves its task to that worker. Written by any thread, see below.
    `wasted_wakes`
        wakes of late that found no task, less those that did. Of two who write at once either may win.

    Why submits rely on a searching worker. A burst would wake sixty-four workers for what the first of them does before
    the second has the GIL. So the first looks how much there is to do, and wakes two more if that is more than its own
    task; they do the same. Not always: a chain of workers that wait for the GIL one after the other is slower than a
    burst of wakes when each has something to do, so only after wasted wakes; and only with a GIL. A worker that was
    woken before it slept (not `asleep`) is not relied on: it may have a user's destructor to run first.

    No task is stranded. With a GIL, of these two threads one sees what the other did:

    1. A submit appends its task, then looks at `searching`.
    2. The worker clears `searching`, then looks at the tasks (`arrived`).

    If the submit finds `searching` set, the worker has still to clear it, and finds the task when it looks. If it finds
    it cleared, it wakes a worker itself. A collection may start in any worker on its way, and then those tasks are late
    by its finalizers.
    """

    __slots__ = ("searching", "wasted_wakes", "workers")

    def __init__(self) -> None:
        self.workers: dict[Parked, None] = {}
        self.searching: bool = False
        self.wasted_wakes: int = 0

    def wake_one(self) -> bool:
        """Wake the worker that parked last; False when there is none."""
        if not self.workers:  # `popitem` would raise; whoever comes here has gone through the lock of `RunQueue.tail`
            return False
        try:
            # A loop's next item comes without a look at signals, while Ctrl-C could come right after a call of popitem.
            for worker, _ in iter(self.workers.popitem, None):
                if worker.asleep and self.wasted_wakes:
                    self.searching = worker.searching = True
                try:
                    worker.lock.release()  # one step with the pop
                except RecursionError:  # up to Python 3.11 there is no stack for calls in C then
                    self.searching = worker.searching = False  # another one that searches looks all the same
                    self.workers[worker] = None
                    raise
                return True
        except KeyError:  # there is none
            pass
        return False

    def wake(self, worker: Parked) -> bool:
        """Wake this worker if it is idle, to look at what it alone is to do."""
        try:
            del self.workers[worker]
        except KeyError:
            return False
        try:
            worker.lock.release()  # one step with `del`
        except RecursionError:  # as in `wake_one`
            self.workers[worker] = None
            raise
        return True

    def wake_all(self) -> None:
        """There is something for each to look at."""
        for worker in self.workers.copy():
            self.wake(worker)

    def wake_to_leave(self) -> None:
        """The pool is closed: those that sleep wake each other, see `wake_next`; the others are woken here.

        One after the other: of two that are awake at once, one waits for the GIL, and is put to sleep for that.
        """
        woken = False
        for worker in self.workers.copy():
            if not worker.asleep:
                self.wake(worker)
            elif not woken:
                woken = self.wake(worker)

    def wake_next(self) -> None:
        """Wake the next worker to leave, by one that was woken; and whoever does not sleep on the way to it."""
        while self._wake_last() is False:
            pass

    def _wake_last(self) -> bool | None:
        """Wake the worker that parked last; whether it slept, or None when there is none."""
        if not self.workers:  # as in `wake_one`; who enters after `wake_to_leave` has looked sees `close_reason`
            return None
        try:
            for worker, _ in iter(self.workers.popitem, None):
                slept = worker.asleep
                worker.lock.release()  # one step with the pop, as in `wake_one`
                return slept
        except KeyError:
            pass
        return None

    def after_fork(self) -> None:
        """In the child, into which no worker came along."""
        self.workers = {}  # not `clear`, see `_Current.after_fork`

    def arrived(self, worker: Parked, found: bool, entries: Callable[[], int]) -> None:
        """`worker` slept and is awake: learn from whether it found a task; if submits relied on it, wake others.

        `entries` counts the tasks that wait.
        """
        if found:
            if self.wasted_wakes:
                self.wasted_wakes -= 1
        elif self.wasted_wakes < MAX_WASTED_WAKES:
            self.wasted_wakes += 1
        if worker.searching:
            worker.searching = False
            self.searching = False  # before the look
            self._wake_more(entries() - 1)

    def _wake_more(self, tasks: int) -> None:
        """Wake workers for `tasks` more tasks, since those that submitted them may not have woken anybody.

        A worker that is woken before it slept comes for one task only, so this goes on until there is one to rely on;
        and one more, since with a chain of single ones the last of 32 tasks began twice as late.
        """
        more = WOKEN_AT_ONCE
        while tasks > 0 and more > 0 and self.wake_one():
            tasks -= 1
            more -= self.searching
