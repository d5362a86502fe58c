"""The workers there are: how they start, get their numbers, retire and are joined."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable, Iterator
from functools import partial

from ._current import current, sleep_until
from ._future import Future
from ._interrupts import locked
from ._naming import name_of
from ._parker import Deadline, Parker
from ._runqueue import RunQueue
from ._stats import Counts
from ._task import Task
from ._thread import PoolThread
from ._typing import Any

LONG_ENOUGH = 1.0  # seconds for workers to come
_NOTHING = Counts()  # never written
PACED = not (3, 12) <= sys.version_info < (3, 12, 2)  # these start no thread when the interpreter exits


class PoolWorker(PoolThread):
    """Base of a worker, as far as those that count, join and address them need it. Strictly private.

    `leaving` and what is added to `broadcasts` are guarded by `Workers.lock`; the worker's own thread writes the rest.
    """

    broadcasts: list[Future[Any]]  # tasks for this worker only
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


class Workers:
    """Owns the list of a pool's workers. Strictly private.

    `live`
        the workers that count as the pool's, from before their start until after their teardown.
    `coming`, `arriving`, `unended`
        those that were started and have not looked whether to start the next; that do not take tasks yet; whose
        threads have not ended. Entered with `live`, each leaves by itself. Guarded by their own locks as well.
    `retired`, `gone`
        those that have left a pool that goes on, until they have ended; those in `live` that have left a closed one.
    `free_indices`, `_numbered`
        numbers that no worker has any more, the lowest last; and the lowest that none ever had.
    `max_workers`, `room`
        how many there may be; and how many more, less than none for a while after `resize`.
    `too_many`
        whether more than that stay (are live and not leaving), since `resize`. False only when that is not so.
    `can_grow`
        whether a submit that finds nobody idle starts a worker. False when there is no room, the pool is closed, or one
        that was started will look at the tasks.
    `initialized_once`, `breakage`
        whether the pool's own initializer has ever succeeded; and what tasks get since it failed before that.
    `retired_counts`
        what the retired ones had counted.
    `failed_in_a_row`
        threads that ended for want of memory since the last one that came. Of two who write at once either may win.
    `_watchers`
        who waits until nobody is in `coming`, or in `unended`. Guarded by its own lock.
    `closed`, `forked`
        no task is accepted any more; this is a child process. Written by the pool, `closed` after its `close_reason`;
        once set they stay set.
    `_dissolved`
        the pool is no more; once set it stays set. Who sets it breaks cycles, or the last worker to end, or nobody.

    But for what is said of some, these are written with `lock` held, which is never held while user code runs or
    anything blocks. `can_grow`, `room` and `too_many` are read without it. No task is stranded, and nobody too many
    sleeps on:

        who              publishes              meets at (locks)    then looks at
        submit           appends the task       `RunQueue.tail`     `can_grow`
        worker that came sets `can_grow`        `RunQueue.tail`     the tasks
        retiring worker  sets `can_grow`        `RunQueue.tail`     the tasks
        resize, up       sets `can_grow`        `RunQueue.tail`     the tasks
        resize, down     sets `too_many`        `Mailbox.inbox`     `Idle.workers`
        idle worker      enters `Idle.workers`  `Mailbox.inbox`     `too_many`

    Whoever comes second sees the other: the worker stays for the task, or the submit or `resize` starts another worker.
    A worker that has seen `too_many` asks `dismiss`, which lets none go but those too many: the first who is not clears
    it. `max_workers` others stay then, each of which serves, or sees to the tasks when it retires in turn. While those
    who are leaving fill `live`, nobody starts; the last of them finds room for itself, and stays if there are tasks.

    A submitter starts one worker and goes on. That one starts the next while there are more tasks than workers on their
    way, also in a pool that is closed meanwhile. One whose thread ends before it comes is missed by `never_came`.
    Who waits in `_watch` is woken by the last worker that comes, or ends; else by the timeout, or Ctrl-C.
    """

    def __init__(self, max_workers: int, run_queue: RunQueue) -> None:
        self.max_workers = max_workers
        self.room = max_workers
        self.new_worker: Callable[[], PoolWorker]  # given by the pool
        self.lock = _thread.RLock()  # re-entrant: a collection that starts in it may run a submit
        self.live: dict[PoolWorker, None] = {}
        self.coming: dict[PoolWorker, None] = {}
        self.arriving: dict[PoolWorker, None] = {}
        self.unended: dict[PoolWorker, None] = {}
        self.retired: dict[PoolWorker, None] = {}
        self.gone: dict[PoolWorker, None] = {}
        self.free_indices: list[int] = []
        self.can_grow: bool = True
        self.too_many: bool = False
        self.initialized_once = False
        self.breakage: Callable[[], Exception] | None = None
        self.retired_counts: Counts = _NOTHING
        self.failed_in_a_row = self._numbered = 0
        self._watchers: dict[Parker, dict[PoolWorker, None]] = {}
        self._run_queue = run_queue
        self.closed: bool = False
        self.forked: bool = False
        self._dissolved: bool = False

    # Starting

    def grow(self, *, late: bool = False) -> Exception | None:
        """Start a worker, if there may be one more. Returns why none can be started, when there is none.

        Does not raise that: what a signal's handler raises in the main thread meanwhile is to be told from it. Does not
        wait for the new thread. `late`: also in a closed pool, for tasks that it has accepted.
        """
        if sys.is_finalizing():
            return None  # a thread that starts now never comes to anything, and Python 3.11 does not say so
        worker = self.new_worker()
        error = locked(self.lock, partial(self._start, worker, worker.starts(), late))
        if worker.index < 0:
            del worker.thread  # no cycle by its target: nobody else has a worker that was not started
        if error is None:
            return None
        self._wake_watchers()  # one that was not there after all has left
        # When no more threads are to be had, or no memory for one, those that are there will do.
        return None if self.serving() else error

    def _start(self, worker: PoolWorker, starts: Iterator[object], late: bool) -> Exception | None:
        """With `lock` held, so that nobody else sees a worker that does not start. Returns why it does not."""
        # No call from here to the start, so that no signal's handler and no collection comes in between: both could
        # lead here again, or wait for the worker that this is about to start.
        if self.room <= 0 or self.forked or (self.closed and not late):
            self.can_grow = False
            return None
        if self.free_indices:
            worker.index = self.free_indices[-1]
            del self.free_indices[-1]
        else:
            worker.index = self._numbered
            self._numbered += 1
        self.room -= 1
        self.live[worker] = None
        self.unended[worker] = None
        self.coming[worker] = None
        self.arriving[worker] = None
        self.can_grow = self.room > 0 and not PACED
        worker.limbo[worker.thread] = worker.thread
        try:
            for _ in starts:  # no call stands here, after which a handler's own error could come
                break
        except Exception as exc:
            self.room += 1
            self.free_indices += (worker.index,)
            worker.index = -1
            del self.live[worker], self.unended[worker], self.coming[worker], self.arriving[worker]
            del worker.limbo[worker.thread]
            self._look_for_room()
            exc.__traceback__ = None  # no cycle by it to the frames that will have what this returns
            return exc
        return None

    def look_again(self) -> None:
        """A worker has come, and looks at the tasks next: submits rely on it no more to start another one."""
        locked(self.lock, self._look_for_room)

    def has_come(self, worker: PoolWorker) -> None:
        """`worker` is there, and has started the next one if that is due. May be called again."""
        self.coming.pop(worker, None)
        self._wake_watchers()

    def serves(self, worker: PoolWorker) -> None:
        """`worker` takes tasks from now on, or never will. May be called again."""
        self.arriving.pop(worker, None)

    def never_came(self, worker: PoolWorker) -> bool:
        """The thread of `worker` has ended, or was never started, before that was a worker. False when it is one."""

        def take_out() -> bool:
            try:
                del worker.start_claim[0]
            except IndexError:
                return False
            self.room += 1
            self.free_indices += (worker.index,)
            worker.ended = True
            del self.live[worker], self.coming[worker], self.arriving[worker]
            worker.limbo.pop(worker.thread, None)
            self._look_for_room()
            return True

        return locked(self.lock, take_out)

    def serving(self) -> int:
        """How many run tasks, or are about to."""
        return locked(self.lock, lambda: len(self.live) - len(self.gone))

    def has_room(self) -> bool:
        """Whether one may be started."""
        return self.room > 0 and not self.closed

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

    def retire(self, worker: PoolWorker) -> bool:
        """`worker` has torn down its states, and leaves. False when there are tasks: then it stays, to see to them."""
        if not locked(self.lock, partial(self._try_retire, worker)):
            return False
        for other in self.retired.copy():
            if other.ended and other.is_gone():
                self.retired.pop(other, None)
        return True

    def _try_retire(self, worker: PoolWorker) -> bool:
        """With `lock` held. May be cut off, and begun again."""
        if worker in self.retired or worker in self.gone:
            return True
        if worker.broadcasts:
            return False
        if worker in self.live:
            del self.live[worker]
            self.room += 1
        self._look_for_room()  # before the look at the tasks
        if self._run_queue.has_entries() and self._run_queue.pending() and self.room > 0:
            self.live[worker] = None
            self.room -= 1
            worker.leaving = False
            return False
        worker.leaving = True
        if self.closed:
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
        self.free_indices.sort(reverse=True)
        return True

    def _look_for_room(self) -> None:
        self.can_grow = self.room > 0 and not self.closed

    # Resizing

    def set_most(self, max_workers: int) -> None:
        """Let there be `max_workers` workers; `fit` is to be called next."""

        def change() -> None:
            self.room += max_workers - self.max_workers
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

    def has_ended(self, worker: PoolWorker) -> None:
        """The thread of `worker` is about to be gone. May be called again."""
        self.unended.pop(worker, None)
        self._wake_watchers()
        if self._dissolved:
            self.dissolve()

    def dissolve(self) -> None:
        """Nobody looks any more at who was there: no cycle by those who have ended. Takes no lock."""
        self._dissolved = True
        if not self.unended:
            self.live.clear()
            self.gone.clear()
            self.retired.clear()

    def join(self, timeout: float | None = None) -> bool:
        """After the pool was closed: wait until every worker has ended; False when `timeout` seconds passed before."""
        if sys.is_finalizing() or self._in_step():
            return True  # none that is left will; and one that was stopped for good may have had the lock
        deadline = Deadline(timeout)
        # Whoever looked too early to see that the pool is closed has entered its worker when this has the lock.
        last, others = locked(self.lock, lambda: (list(self.unended), [*self.live, *self.retired]))
        if self.forked:
            return True
        here = _thread.get_ident()
        if [worker for worker in {*last, *others} if worker.thread.ident == here and not worker.is_gone()]:
            raise RuntimeError("a destructor in a worker's own thread can't wait for that: use shutdown(wait=False)")
        only_one = len(last) == 1 and last == others and current.worker is None  # its thread's end is all there is
        if only_one and last[0].join_started(deadline.left()) and list(self.live) == last and not self.unended:
            return True
        if self.unended and not self._watch(self.unended, deadline):
            return False
        for worker in [] if self.forked else [*self.live, *self.retired]:  # nobody is left to move from one over
            worker.join_thread()
        return True

    def settle(self) -> None:
        """Wait until those that were started are there, and have started others: for who looks how many there are.

        Not for long: a collection may run a finalizer in a worker that comes.
        """
        here: object = current.worker
        if self.coming and not self._in_step() and here not in self.coming:
            self._watch(self.coming, Deadline(LONG_ENOUGH))

    def _in_step(self) -> bool:
        """Whether a collection in the midst of what this thread does with the lock led here: nobody could go on."""
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # `Condition` uses it, too

    def _watch(self, awaited: dict[PoolWorker, None], deadline: Deadline) -> bool:
        """Sleep until there is nobody in `awaited`; False when the time was up before."""
        parker = Parker()
        self._watchers[parker] = awaited
        try:
            # With the lock, so that a worker that can't start is never seen.
            return sleep_until(lambda: self.forked or locked(self.lock, lambda: not awaited), parker, deadline.left())
        finally:
            del self._watchers[parker]

    def _wake_watchers(self) -> None:
        for parker, awaited in list(self._watchers.items()):
            if not awaited:
                parker.wake()

    def still_running(self) -> str:
        """The workers that have not ended, and what they run, for a person."""
        return ", ".join(
            f"{worker.thread.name} runs {'no task' if (fn := worker.fn) is None else name_of(fn)}"
            for worker in list(self.unended)
        )

    def after_fork(self) -> None:
        """In the child, into which no worker came along."""
        self.closed = self.forked = True
        self.lock = _thread.RLock()
        self.can_grow = False
        self.unended = {}  # not `clear`, see `_Current.after_fork`
        self.coming = {}
