"""The workers there are: how they start, get their numbers, retire and are joined."""

from __future__ import annotations

import _thread
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Protocol

from ._current import current
from ._future import Future
from ._interpreter import in_subinterpreter
from ._interrupts import locked
from ._naming import name_of
from ._parker import Deadline, Parker
from ._runqueue import RunQueue
from ._stats import ONE, Counts
from ._task import Task
from ._thread import PoolThread, WakeAtEnd, in_main_thread, join_threads


class PoolWorker(PoolThread):
    """Base of a worker, as far as those that count, join and address them need it. Strictly private.

    `leaving` and what is added to `broadcasts` are guarded by `Workers.lock`; the worker's own thread writes the rest.
    """

    broadcasts: deque[Future[Any]]  # tasks for this worker only
    leaving: bool  # takes no more of them, and is none of those who stay
    fn: object  # what it runs
    nested_tasks: int  # tasks that run inside another one, which waits for them
    completed: int
    counts: Counts  # all but `completed`

    def take_broadcast(self, task: Future[Any]) -> bool:
        """Have `task` run between two others. False when this worker is ending, or has ended."""
        raise NotImplementedError

    def forget_broadcast(self, task: Task[Any]) -> None:
        """`task` was cancelled: it need not stand in `broadcasts`."""
        raise NotImplementedError

    def drop_broadcasts(self) -> None:
        """Cancel what is in `broadcasts`: nobody will run it."""
        raise NotImplementedError

    def nudge(self) -> None:
        """Have this worker look at `Workers.too_many`: at once if it is idle, else after its task."""
        raise NotImplementedError


class PoolState(Protocol):
    """The registry, as far as its list of workers needs it."""

    close_reason: Callable[[], Exception] | None
    forked: bool

    def no_worker(self, error: Exception) -> None:
        """A worker could not be started, because of `error`; there may be none."""

    def did_not_start(self) -> None:
        """A worker that was counted has left before it started."""


class Workers:
    """Owns the list of a pool's workers. Strictly private.

    `live`
        the workers that count as the pool's, from before their start until after their teardown.
    `retired`
        those that have left while the pool goes on, and whose threads may not have ended yet.
    `free_indices`, `_next_index`
        numbers of workers that have left; and those that no worker has had.
    `max_workers`, `too_many`
        how many there may be; and whether more than that stay (are live and not leaving), since `resize`. False only
        when that is not so.
    `can_grow`
        false when `live` is full, or the pool is closed.
    `gone`
        those in `live` that have left a pool that is closed.
    `initialized_once`, `breakage`
        whether the pool's own initializer has ever succeeded; and what tasks get since it failed before that.
    `retired_counts`
        what the retired ones had counted.

    All of these are written with `lock` held, which is never held while user code runs or anything blocks. `can_grow`
    and `too_many` are read without it. No task is stranded, and nobody too many sleeps on:

        who              publishes              meets at (locks)    then looks at
        submit           appends the task       `RunQueue.tail`     `can_grow`
        retiring worker  sets `can_grow`        `RunQueue.tail`     the tasks
        resize, up       sets `can_grow`        `RunQueue.tail`     the tasks
        resize, down     sets `too_many`        `Mailbox.inbox`     `Idle.workers`
        idle worker      enters `Idle.workers`  `Mailbox.inbox`     `too_many`

    Whoever comes second sees the other: the worker stays for the task, or the submit or `resize` starts another worker.
    A worker that has seen `too_many` asks `dismiss`, which lets none go but those too many: the first who is not clears
    it. `max_workers` others stay then, each of which serves, or sees to the tasks when it retires in turn. While those
    who are leaving fill `live`, nobody starts; the last of them finds room for itself, and stays if there are tasks.

    Who waits in `join` is woken by each worker as it ends, by one whose start failed as well; else by its timeout, or
    Ctrl-C. Who waits in `grow` is woken by the thread that starts the worker, whether that succeeds or not.
    """

    def __init__(self, max_workers: int, run_queue: RunQueue, pool: PoolState) -> None:
        self.max_workers = max_workers
        self.new_worker: Callable[[], PoolWorker]  # given by the pool
        self.lock = _thread.RLock()  # re-entrant: a collection that starts in it may run a submit
        self.live: dict[PoolWorker, None] = {}
        self.retired: dict[PoolWorker, None] = {}
        self.gone: dict[PoolWorker, None] = {}
        self.free_indices: list[int] = []
        self.can_grow: bool = True
        self.too_many: bool = False
        self.initialized_once = False
        self.breakage: Callable[[], Exception] | None = None
        self.retired_counts: Counts = Counts()
        self._next_index: count[int] = count()
        self._run_queue = run_queue
        self._pool = pool

    # Starting

    def grow(self) -> Exception | None:
        """Start a worker. Returns why none can be started, when there is none.

        Does not raise that: what a signal's handler raises in the main thread meanwhile is to be told from it.

        Signals are for the main thread, and exceptions are thrown into workers, so there another thread does it: what
        they leave half done would have to be undone, and that can be interrupted as well. `Thread.start` alone waits
        for the new thread on an `Event`, whose lock Ctrl-C can leave held. Then the new thread never gets past its
        start, nor the interpreter past its exit.
        """
        if sys.is_finalizing():
            return None  # a thread that starts now never comes to anything, and Python 3.11 does not say so
        if in_subinterpreter or not (in_main_thread() or current.worker is not None):
            try:
                self._start_worker()
            except Exception as exc:
                return exc
            return None
        errors: list[BaseException] = []
        interrupted: list[None] = []
        over: list[None] = []
        # A collection that starts in the middle of what this thread does with the lock may have led here.
        parker = None if self.lock._is_owned() else Parker()  # type: ignore[attr-defined]  # `Condition` uses it, too
        args = errors, interrupted, over, parker, None if current.worker is None else WakeAtEnd(parker)
        starts = map(_thread.start_new_thread, (self._start_worker_for,), (args,))
        try:
            try:
                for _ in starts:  # no call stands here, after which a handler's own error could come
                    break
            except Exception as exc:
                return None if self._has_live_workers() else exc
            del args, starts  # they would keep what wakes this thread
            if parker is not None:
                parker.park()
        except BaseException:  # `notify_if_work_pending` comes next, and starts one if this start has failed by then
            interrupted += ONE
            raise
        if parker is not None and not over:  # what was meant for this thread has hit the other one, see `WakeAtEnd`
            return self.grow()
        return _exception(errors.pop()) if errors else None

    def _start_worker_for(
        self,
        errors: list[BaseException],
        interrupted: list[None],
        over: list[None],
        parker: Parker | None,
        _: object,
    ) -> None:
        """In a thread of its own, for one that waits on `parker` unless it is `interrupted`."""
        try:
            self._start_worker()
        except BaseException as exc:
            if parker is not None and not interrupted:
                errors.append(exc)
            elif isinstance(exc, Exception):
                self._pool.no_worker(exc)
        finally:
            over += ONE
            if parker is not None:
                parker.wake()

    def _start_worker(self) -> None:
        worker = None
        try:
            worker = self.new_worker()
            with self.lock:
                self.live[worker] = None  # before they are counted: a re-entrant call counts it, too
                if starts := len(self.live) <= self.max_workers and not self._closed():
                    worker.take_index(self._free_index())
                else:
                    del self.live[worker]
                    self.can_grow = False
            if starts:
                worker.start()
            else:
                self._pool.did_not_start()  # it was counted for a moment
        except BaseException as exc:
            if worker is not None:
                if not worker.abandon():
                    raise  # it has started all the same
                self.leave(worker)
                worker.drop_broadcasts()
                self._pool.did_not_start()
            if not isinstance(exc, Exception) or not self._has_live_workers():
                raise
            # No more threads to be had, or no memory for one: those that are there will do.

    def _free_index(self) -> int:
        if not self.free_indices:
            return next(self._next_index)
        index = min(self.free_indices)
        self.free_indices.remove(index)
        return index

    def _has_live_workers(self) -> bool:
        return any(worker.thread.is_alive() for worker in list(self.live) if worker not in self.gone)

    def _closed(self) -> bool:
        return self._pool.close_reason is not None

    def serving(self) -> int:
        """How many run tasks, or are about to."""
        return len(self.live) - len(self.gone)

    def has_room(self) -> bool:
        """Whether one may be started."""
        return self.can_grow and len(self.live) < self.max_workers

    def is_empty(self) -> bool:
        """Whether there is no worker."""
        return locked(self.lock, lambda: not self.live)

    # Told by workers

    def initializer_ended(self, breakage: Callable[[], Exception] | None) -> Callable[[], Exception] | None:
        """A worker has run the pool's own initializer; `breakage` makes what tasks get, should that break the pool.

        Returns what makes it from now on, or None while the pool works.
        """

        def enter() -> Callable[[], Exception] | None:
            if breakage is None:
                self.initialized_once = self.breakage is None
            elif not self.initialized_once:
                self.breakage = self.breakage or breakage
            return self.breakage

        return locked(self.lock, enter)

    def leave(self, worker: PoolWorker) -> None:
        """`worker` is none of the pool's any more."""
        with self.lock:
            if worker in self.live:
                del self.live[worker]
                self._look_for_room()  # first: after Ctrl-C in the next line only a number is lost
                if worker.index >= 0:
                    self.free_indices.append(worker.index)

    def retire(self, worker: PoolWorker) -> bool:
        """`worker` has torn down its states, and leaves. False when there are tasks: then it stays, to see to them."""
        if not locked(self.lock, partial(self._try_retire, worker)):
            return False
        for other in self.retired.copy():
            if not other.thread.is_alive():
                self.retired.pop(other, None)
        return True

    def _try_retire(self, worker: PoolWorker) -> bool:
        """With `lock` held. May be cut off, and begun again."""
        if worker in self.retired:
            return True
        self.gone.pop(worker, None)
        self.live.pop(worker, None)
        self._look_for_room()  # before the look at the tasks
        if self._run_queue.has_entries() and self._run_queue.pending():
            self.live[worker] = None  # before they are counted, as in `_start_worker`
            if self.serving() <= self.max_workers:
                worker.leaving = False
                return False
            del self.live[worker]
        if self._closed():
            self.live[worker] = None  # of a pool that was shut down they are all to be seen
            self.gone[worker] = None
            return True
        counts = Counts()
        counts.add(self.retired_counts)
        counts.add(worker.counts)
        counts.completed += worker.completed
        self.retired_counts = counts  # one step, from here on
        self.free_indices += (worker.index,)
        self.retired[worker] = None
        return True

    def _look_for_room(self) -> None:
        self.can_grow = len(self.live) < self.max_workers and not self._closed()

    # Resizing

    def set_most(self, max_workers: int) -> None:
        """Let there be `max_workers` workers; `fit` is to be called next."""

        def change() -> None:
            self.max_workers = max_workers

        locked(self.lock, change)

    def fit(self) -> list[PoolWorker]:
        """With `lock` held, after a change of `max_workers`: set what depends on it. Returns those who stay."""
        staying = self._staying()
        self.too_many = len(staying) > self.max_workers
        self._look_for_room()
        return staying

    def dismiss(self, worker: PoolWorker) -> bool:
        """Whether `worker`, which is between tasks, is to leave as one too many; not while it has broadcasts to run."""

        def decide() -> bool:
            if worker.broadcasts:
                return False
            worker.leaving = self.too_many = len(self._staying()) > self.max_workers
            return worker.leaving

        return locked(self.lock, decide)

    def _staying(self) -> list[PoolWorker]:
        return [worker for worker in list(self.live) if not worker.leaving]

    # Joining

    def join(self, timeout: float | None = None) -> bool:
        """After the pool was closed: wait until every worker has ended; False when `timeout` seconds passed before."""
        if sys.is_finalizing():
            return True  # none that is left will; and one that was stopped for good may have had the lock
        deadline = Deadline(timeout)
        # Whoever looked too early to see that the pool is closed has entered its worker when this has the lock.
        workers = locked(self.lock, lambda: [*self.live, *self.retired])
        for worker in workers:
            if self._pool.forked:
                return True
            if not worker.wait_ended(deadline.left()):
                return False
        join_threads(workers)
        return True

    def still_running(self) -> str:
        """The workers that have not ended, and what they run, for a person."""
        return ", ".join(
            f"{worker.thread.name} runs {'no task' if (fn := worker.fn) is None else name_of(fn)}"
            for worker in list(self.live)
            if not worker.ended
        )

    def after_fork(self) -> None:
        """In the child, into which no worker came along."""
        self.lock = _thread.RLock()
        self.can_grow = False


def _exception(error: BaseException) -> Exception:
    """`error`, or raise it if it is no reason why a worker can't be started."""
    if not isinstance(error, Exception):
        raise error
    return error
