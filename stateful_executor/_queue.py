"""Tasks in order, parked workers, and the backlog's bound. Knows no state and no scope.

This is what a pool and its workers share; neither holds the other. It has one lock, for starting workers; all that
happens for every task is done in atomic steps on lists, deques and dicts, each of which takes the object's own lock
(on free-threaded builds too). The shared fields, and what guards each:

`tasks`, `front`
    the deque that takes new tasks, and the one that workers take from. They are the same but for a while after a
    sweep. Each deque is guarded by its own lock; which ones they are is changed only by who holds the `broom`. A task
    may stand in them more than once, or after it was cancelled or run in place: who pops it needs its token, and
    there is only one.
`idle`
    the workers that sleep, or are about to, the last one warmest. Whoever takes a worker out releases its lock, at
    once; nobody else does. Guarded by the dict's own lock.
`woken`
    true while a worker that slept, and was woken for a task, has not looked at the tasks yet: then a submit may leave
    its task to that one, which wakes two more if there are more tasks than its own. Else a burst wakes sixty-four
    workers for what the first does before the second has the GIL. Only if wakes have been futile of late (a chain of
    workers that wait for the GIL one after the other is slower where each has something to do), all workers there may
    be have been started, and there is a GIL. A worker that was woken before it slept may have a user's destructor to
    run first, and is not relied on; but a collection may start in any, and then those tasks are late by its finalizers.
    Who clears it looks at the tasks after that.
`places`, `submitters`
    free places in a bounded backlog, and who waits for one. Guarded by their own locks.
`unheard`
    not empty when somebody who waits for a place has looked at the places, or has left the line, since a worker called
    the first in it; saves workers that free a thousand places, before that one has woken, a thousand calls. Not so with
    a coroutine: to call it again is to see whether its loop was closed meanwhile. Guarded by its own lock.
`workers`, `retired`, `can_grow`, `proven`, `breakage`, `unminted`, `counts`
    written under `lock`, which is never held while user code runs or anything blocks.
`peak`, `grown`
    a figure for `stats()`, and whether it is worth a look; of two who write at once either may win.
`refusal`, `forked`
    once set they stay set; of two reasons for a refusal given at once either may win.
`gone`, `broom`
    guarded by their own locks. `gone` may be wrong by those who are just at it, and too short after a sweep
    (`counts.swept`); nothing but a figure, and when to sweep, depends on it.

Looks without a lock (`idle`, `unheard`, `submitters`, `places`, `can_grow`, `refusal`) come after the looker has locked
what the other side locks as well, as told below; the first look of `put` at `refusal`, and those that only save a call,
may be late, and are made good by the second.

The waits, and who wakes them:

a blocked submit (`_wait_for_place`, or its coroutine)
    whoever frees a place: a worker that begins a task, a cancel, the one before it in line as it leaves, with a place
    or without (timeout, Ctrl-C, cancelled coroutine, refused); `refuse` (shutdown, breakage, exit, dropped pool);
    `Scope.cancel` and deadline. One whose loop was closed is passed over.
an idle worker (`Worker._sleep_idle`)
    who takes it out of `idle`: a submit, `kick`, a sweep, `refuse`, a broadcast, a request; or its `idle_timeout`.
`join`
    each worker as it ends (`Worker._say_ended`), one whose start failed as well; its timeout; Ctrl-C.
`advance`
    spins while another thread sweeps. So a finalizer may submit, cancel and drop pools wherever a collection can start,
    here and under `lock`, but must not wait there for a task.

A sleeper is never missed, since of two threads that lock the same object one after the other, the second sees all that
the first had done before. To sleep, a worker enters `idle`, then locks `tasks` and looks. To submit, a thread locks
`tasks` (by appending), then looks at `idle` and `woken`. In whatever order the two lock `tasks`, one of them sees the
other. A worker that is relied on clears `woken`, then looks: it sees the task, or its submit that nobody is on the way
(there is a GIL where anybody is relied on, so neither needs a lock for that). It is the same with a blocked `submit`
(enters `submitters`, or leaves it, enters `unheard`, locks `places`) and a beginning task (locks `places` by appending,
looks at `unheard`, clears it, then looks at `submitters`), and with the end of the pool (sets `refusal`, locks `idle`)
and a worker (locks `idle`, looks at `refusal`). A worker that retires sets `can_grow`, then locks `tasks` and looks;
who submits looks at `can_grow` after it has appended: a task finds that worker, or starts another one.

Ctrl-C is raised in the main thread after calls, at function entries and at backward jumps. No such point lies inside
the steps marked "one step" below, so each is done or not done.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ._exit import in_subinterpreter
from ._future import PENDING, Future, new_task
from ._state import name_of
from ._stats import ONE, Counts, PoolCounts, PoolStats
from ._waiter import Deadline, Waiter, elsewhere, for_each, here, locked, sleep_until
from .errors import BacklogFull

if TYPE_CHECKING:
    from ._asyncio import LoopWaiter
    from ._scope import Scope
    from ._state import Binding
    from ._worker import Worker

T = TypeVar("T")
AnyWaiter: TypeAlias = "Waiter | LoopWaiter"

INLINE_LEVELS = 32  # tasks begun one inside another by submits of a worker to its own full pool
PLACES_AT_ONCE = 1024  # a bound of a billion tasks costs no memory until they come
GONE_UNSWEPT = 64
FUTILE = 8  # wakes that it takes to notice that they are futile no more
WOKEN_AT_ONCE = 2


class TaskQueue:
    """Strictly private."""

    def __init__(
        self,
        name: str,
        max_workers: int,
        max_backlog: int | None,
        submit_timeout: float | None,
        idle_timeout: float | None = None,
        copy_context: bool = False,
    ) -> None:
        self.name = name
        self.max_workers = max_workers
        self.max_backlog = max_backlog
        self.submit_timeout = submit_timeout
        self.idle_timeout: float | None = None if idle_timeout is None else min(idle_timeout, threading.TIMEOUT_MAX)
        self.copies_context: bool = copy_context
        self.pool: weakref.ref[Any] | None = None  # calls `refuse` when the pool is collected
        self.new_worker: Callable[[], Worker]  # given by the pool
        self.lock: threading.RLock = threading.RLock()  # re-entrant: a collection that starts in it may run a submit

        self.tasks: deque[Future[Any]] = deque()
        self.front: deque[Future[Any]] = self.tasks
        # As many as the deques have entries whose task was cancelled or run in place; now and then one too many, when a
        # worker met the entry before the canceller counted it. A sweep sets that right.
        self.gone: list[None] = []
        self.broom: list[None] = [None]  # taken out by who sweeps them away

        self.idle: dict[Worker, None] = {}
        self.woken: bool = False
        self.workers: dict[Worker, None] = {}
        self.retired: dict[Worker, None] = {}  # whose threads may not have ended yet
        self.vacant: list[int] = []  # indices of workers that have left, a heap
        self.can_grow: bool = True
        self.proven = False  # the pool's own initializer has succeeded once
        self.breakage: Callable[[], Exception] | None = None  # it failed before that

        self.places: list[None] | None = None
        self.unminted: int = 0  # places not yet in the list
        self.submitters: dict[AnyWaiter, float] = {}  # and since when they wait
        self.unheard: dict[None, None] = {}  # with one key at most
        if max_backlog is not None:
            self.places = [None] * min(max_backlog, PLACES_AT_ONCE)
            self.unminted = max_backlog - len(self.places)

        self.refusal: Callable[[], Exception] | None = None  # why no task is accepted any more
        self.forked = False

        self.peak: int = 0
        self.grown: bool = False
        # Apart, since with more than 30 attributes this object gets a dict for them, and each task is 10 % slower.
        self.counts: PoolCounts = PoolCounts()

    # Submitting

    def put(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Scope[Any] | None = None,
        task: Future[T] | None = None,
    ) -> Future[T]:
        """Accept a task, or run it here (in a worker whose own pool's backlog is full), or raise and leave no trace.

        A `scope` may cancel the task as soon as it knows it: hence only when that has its place. A `task` that is given
        has one already, or needs none.
        """
        if bounded := task is None:
            task = Future()  # as `new_task` does: without that call a submit takes 60 ns less, of 640
            task._token = [None]
            task._queue = self
            task._fn = partial(fn, **kwargs) if kwargs and callable(fn) else fn
            task._args = args
            task._phase = PENDING
            task._binding = binding
            task._scope = None
            task._placed = False
            task._watchers = None
        try:
            if self.refusal is not None:  # else a worker that has not ended yet might run the task all the same
                raise self.refusal()
            inline = False
            if bounded and self.places is not None:
                if not self.submitters:
                    try:  # as `try_place` does, and without a call: 35 ns
                        del self.places[-1]
                        task._placed = True
                    except IndexError:
                        pass
                inline = not (task._placed or self._place(task, scope))
            if self.copies_context:
                task._fn = partial(copy_context().run, task._fn)  # type: ignore[arg-type]  # not begun, so not None
            if scope is not None:
                task._scope = scope
                scope._pending[task] = None
                if scope._cancelled or scope._closing is not None:
                    scope._look_whether_open()
            if inline:
                here.worker.run_inline(task)  # type: ignore[union-attr]  # only a worker gets this answer
                return task
            tasks = self.tasks
            tasks.append(task)
            if tasks is not self.tasks:
                self._put_again(task)
            self.grown = True
            if (self.idle and not self.woken) or self.can_grow or self.refusal is not None:
                self._attend(task)
            if scope is not None and scope._helps:
                scope._wake_helper()
            return task
        except BaseException:
            # Ctrl-C, a refusal, a thread that can't be started. Wherever that was, the task is now withdrawn or begun.
            try:
                self._refuse(task)
            except BaseException:  # as in `Future.cancel`
                try:
                    start_new_thread(elsewhere, (self._refuse, task))
                except RuntimeError:
                    self._refuse(task)
            raise
        finally:
            del task  # no cycle from the error of a task run here, by its traceback, to this frame

    async def aput(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Scope[Any] | None = None,
    ) -> Future[T]:
        """As `put`, but wait for a place without blocking the event loop; in a worker of the pool, exceed the bound."""
        task = new_task(self, fn, args, kwargs, binding)
        try:
            if self.places is not None:
                stand_in_line = self.submitters and not self._enough_for_line()
                if (stand_in_line or not self.try_place(task)) and self._worker() is None:
                    from ._asyncio import wait_for_place

                    await wait_for_place(self, task, scope)
            return self.put(fn, args, kwargs, binding, scope, task)
        except BaseException:
            self._refuse(task)
            raise

    def _refuse(self, task: Future[Any]) -> None:
        """`task` was not accepted in the end. May be done again."""
        task._withdraw()
        self.kick()

    def _put_again(self, task: Future[Any]) -> None:
        """A sweep has swapped the deque meanwhile, and may have missed the task. Until it stands in the current one."""
        while True:
            self.gone.append(None)
            tasks = self.tasks
            tasks.append(task)
            if tasks is self.tasks:
                return

    def _attend(self, task: Future[Any]) -> None:
        """See to it that some worker looks at the queue; refuse when there will be none."""
        self.wake()  # before the look at `refusal`: that may come while this finds no worker, and may start none
        if self.refusal is not None and task._withdraw():
            # Not begun, and nobody may be left to begin it: a worker looks at `tasks` once more after `refusal`.
            raise self.refusal()

    def wake(self) -> None:
        """Wake an idle worker, or start one if there is none and there may be more."""
        if not self._wake_idle() and self.can_grow:
            self._grow()

    def _wake_idle(self) -> bool:
        """Wake the worker that parked last."""
        try:
            # A loop's next item comes without a look at signals, while Ctrl-C could come right after a call of popitem.
            for worker, _ in iter(self.idle.popitem, None):
                if worker.asleep and self.counts.futile:
                    self.woken = worker.relied_on = True
                try:
                    worker.release()  # one step with the pop
                except RecursionError:  # up to Python 3.11 there is no stack for calls in C then
                    self.woken = worker.relied_on = False  # another one on its way looks all the same
                    self.idle[worker] = None
                    raise
                return True
        except KeyError:  # there is none
            pass
        return False

    def arrived(self, worker: Worker) -> None:
        """`worker` slept and is awake: learn from it, and if submits relied on it, see to it that others come, too."""
        counts = self.counts
        if self.front or self.tasks or worker.inbox or worker.broadcasts:
            if counts.futile:
                counts.futile -= 1
        elif counts.futile < FUTILE:
            counts.futile += 1
        if worker.relied_on:
            worker.relied_on = False
            self.woken = False  # before the look
            self._wake_others(self._entries() - 1)

    def _wake_others(self, others: int) -> None:
        """For as many tasks as that, since those that submitted them may not have woken anybody.

        A worker that is woken before it slept comes for one task only, so this goes on until there is one to rely on;
        and one more, since with a chain of single ones the last of 32 tasks began twice as late.
        """
        more = WOKEN_AT_ONCE
        while others > 0 and more > 0 and self._wake_idle():
            others -= 1
            more -= self.woken

    def _wake_all(self) -> None:
        for worker in self.idle.copy():
            worker.rouse()

    def _grow(self) -> None:
        """Start a worker; raise when none can be started and there is none.

        Signals are for the main thread, so another one does it for that: what Ctrl-C leaves half done would have to be
        undone, and that can be interrupted as well. (`Thread.start` alone waits for the new thread on an `Event`, which
        Ctrl-C can leave locked, and then the new thread never gets past its start, nor the interpreter past its exit.)
        """
        if in_subinterpreter or not _in_main_thread():
            self._start_worker()
            return
        errors: list[BaseException] = []
        abandoned: list[None] = []
        # A collection that starts in the middle of what this thread does with the lock may have led here.
        waiter = None if self.lock._is_owned() else Waiter()  # type: ignore[attr-defined]  # `Condition` uses it, too
        try:
            try:
                start_new_thread(self._start_worker_for, (errors, abandoned, waiter))
            except Exception:
                if not self._has_live_workers():
                    raise
                return
            if waiter is not None:
                waiter.wait()
        except BaseException:  # before the `kick` that follows, which starts one if this start has failed by then
            abandoned += ONE
            raise
        if errors:
            raise errors.pop()

    def _start_worker_for(self, errors: list[BaseException], abandoned: list[None], waiter: Waiter | None) -> None:
        """In a thread of its own."""
        try:
            self._start_worker()
        except BaseException as exc:
            if waiter is not None and not abandoned:
                errors.append(exc)
            elif isinstance(exc, Exception):
                self._give_up(exc)
        finally:
            if waiter is not None:
                waiter.wake()

    def _start_worker(self) -> None:
        worker = None
        try:
            worker = self.new_worker()
            with self.lock:
                self.workers[worker] = None  # before they are counted: a re-entrant call counts it, too
                if len(self.workers) > self.max_workers or self.refusal is not None:
                    del self.workers[worker]
                    self.can_grow = False
                    return
                worker.take_index(heappop(self.vacant) if self.vacant else next(self.counts.fresh))
            worker.start()
        except BaseException as exc:
            if worker is not None:
                if not worker.disown():
                    raise  # it was born all the same
                self.leave(worker)
                worker.drop_broadcasts()
            if not isinstance(exc, Exception) or not self._has_live_workers():
                raise
            # No more threads to be had, or no memory for one: those that are there will do.

    def _has_live_workers(self) -> bool:
        return any(worker.thread.is_alive() for worker in list(self.workers))

    def leave(self, worker: Worker) -> None:
        """`worker` is none of the pool's any more."""
        with self.lock:
            if worker in self.workers:
                del self.workers[worker]
                self.can_grow = self.refusal is None  # first: after Ctrl-C in the next line only a number is lost
                if worker.index >= 0:
                    heappush(self.vacant, worker.index)

    def retire(self, worker: Worker) -> bool:
        """`worker` has torn down its states, and leaves. False when there are tasks: then it stays, to see to them."""
        with self.lock:
            del self.workers[worker]
            self.can_grow = self.refusal is None  # before the look at the tasks, see above
            if self.has_tasks() and self.waiting_tasks():
                self.workers[worker] = None  # before they are counted, as in `_grow`
                if len(self.workers) <= self.max_workers:
                    worker.leaving = False
                    return False
                del self.workers[worker]
            if self.refusal is not None:
                self.workers[worker] = None  # of a pool that was shut down they are all to be seen
                return True
            self.retired[worker] = None
            heappush(self.vacant, worker.index)
            self.counts.past.add(worker.counts)
            self.counts.past.completed += worker.completed
        for other in self.retired.copy():
            if not other.thread.is_alive():
                self.retired.pop(other, None)
        return True

    def kick(self) -> None:
        """After an interruption: whoever could go on is awake. One that wakes in vain sleeps again."""
        if self.has_tasks():  # be it only what has gone: to look through all of it would take longer
            try:
                self.wake()  # also starts one, for a task that relied on a worker whose start was interrupted
            except Exception as exc:  # there is no thread to be had
                self._give_up(exc)
        if self.places or self.unminted > 0:
            self.wake_submitter()

    def _give_up(self, error: Exception) -> None:
        """No thread can be started: fail the tasks that relied on one, since nobody is left to begin them.

        Their submits found as many workers as there may be, of which one did not start in the end. A worker that is
        there now sees to them, or whoever tries to start it does.
        """
        if locked(self.lock, lambda: bool(self.workers)):
            return
        for_each(self.waiting_tasks(), lambda task: self._lose(task, error))

    def _lose(self, task: Future[Any], error: Exception) -> None:
        """Fail `task`, for which there is no worker because of `error`, unless it has begun."""
        if task._begin():
            lost = RuntimeError(f"{self.name} has no worker for this task, and can't start one")
            lost.__cause__ = error
            self.leave_entry(task)
            self.left(task)
            task._fail(lost)

    # The bound

    def _place(self, task: Future[Any], scope: Scope[Any] | None) -> bool:
        """Take a place for `task`, waiting for it if need be. False in a worker of this pool that should run it."""
        if self._enough_for_line() and self.try_place(task):
            return True
        worker = self._worker()
        if worker is None:
            self._wait_for_place(task, scope)
            return True
        if self.try_place(task):
            return True
        if self.refusal is not None:
            raise self.refusal()
        return worker.inline >= INLINE_LEVELS  # over the bound then: a recursion error helps nobody

    def _enough_for_line(self) -> bool:
        """Whether there are more places than submitters that wait for one: then nobody need stand in line.

        Else, with several that submit, each would stand behind the others after every task, be there a thousand places.
        """
        return len(self.places or ()) > len(self.submitters)

    def _worker(self) -> Worker | None:
        """The worker of this pool that the calling thread is."""
        worker = here.worker
        return worker if worker is not None and worker.queue is self else None

    def try_place(self, task: Future[Any]) -> bool:
        """Take a place for `task` if there is one."""
        try:
            del self.places[-1]  # type: ignore[union-attr]
            task._placed = True  # one step with `del`
        except IndexError:
            return self.unminted > 0 and self._mint_place(task)
        return True

    def _mint_place(self, task: Future[Any]) -> bool:
        def mint() -> bool:
            if self.unminted <= 0:
                return False
            self.unminted -= 1
            task._placed = True  # one step with the count
            return True

        return locked(self.lock, mint)

    def _wait_for_place(self, task: Future[Any], scope: Scope[Any] | None) -> None:
        waiter = Waiter()
        since = time.monotonic()
        try:
            self.submitters[waiter] = since
            if scope is not None:
                scope._submitters[waiter] = None  # one step with the other entry
            if not sleep_until(lambda: self.turn(waiter, task, scope), waiter, self.submit_timeout):
                raise self.backlog_full()
        finally:
            del self.submitters[waiter]  # no call: after Ctrl-C, too, nobody waits behind one who has gone
            if scope is not None:
                del scope._submitters[waiter]
            self.left_line(since)

    def turn(self, waiter: AnyWaiter, task: Future[Any], scope: Scope[Any] | None) -> bool:
        """Take a place for `task` if `waiter`, which stands in `submitters`, is first in line and there is one."""
        self.unheard[None] = None
        if self.refusal is not None:
            raise self.refusal()
        if scope is not None and scope._cancelled:
            raise scope._refusal()
        return self._first_in_line() is waiter and self.try_place(task)

    def left_line(self, since: float) -> None:
        """Somebody who stood in line from `since` on waits no more; the next one may have a place."""
        self.unheard[None] = None  # the call that woke this one may have been meant for the next one as well
        self.places.extend(())  # type: ignore[union-attr]  # locks it, before the look
        if self.places or self.unminted > 0:
            self.wake_submitter()
        blocked = time.monotonic() - since
        locked(self.lock, partial(self.counts.add_blocked, blocked))

    def backlog_full(self) -> BacklogFull:
        """The error of a submit that waited in vain."""
        return BacklogFull(
            f"{self.name} had all {self.max_backlog} places of its backlog taken for {self.submit_timeout} seconds; "
            "submit later, or raise max_backlog or submit_timeout"
        )

    def _first_in_line(self) -> AnyWaiter | None:
        line = list(self.submitters)
        return line[0] if line else None

    def call_submitter(self) -> None:
        """`wake_submitter`, by a worker that has freed a place, if nobody was called since the last look at them."""
        self.unheard.clear()
        self.wake_submitter()

    def wake_submitter(self) -> None:
        """A place came free: the first in line takes it. Awake already, it will look at the places once more."""
        while (waiter := self._first_in_line()) is not None and not waiter.is_awake():
            if waiter.wake() is not False:  # False: its loop was closed, and it has left the line
                return

    def left(self, task: Future[Any]) -> None:
        """After `leave_entry`: `task` left the backlog other than by a worker taking it from the front."""
        if task._only is not None:  # in no backlog
            with suppress(ValueError, IndexError):  # it has been taken, or is just being taken
                task._only.broadcasts.remove(task)
            return
        self.free_place(task)
        self.sweep_if_due()

    def leave_entry(self, task: Future[Any]) -> None:
        """`task` is about to be gone, and its entry stays behind. Before it counts as anything else, see `stats`."""
        if task._only is None:
            self.look_at_peak()
            self.gone.append(None)

    def entry_stays(self, task: Future[Any]) -> None:
        """After `leave_entry`, when it was another thread that had `task`."""
        if task._only is None:
            self.one_less_gone()

    def sweep_if_due(self) -> None:
        """After `leave_entry`."""
        if len(self.gone) > GONE_UNSWEPT + self._entries() // 2:  # so that a sweep costs each of those gone a constant
            self._sweep()

    def _entries(self) -> int:
        """How many stand in the deques, those that have gone, too."""
        tasks, front = self.tasks, self.front
        return len(front) if front is tasks else len(front) + len(tasks)

    def free_place(self, task: Future[Any]) -> None:
        """Give back the place that `task` may hold. Called again after Ctrl-C."""
        if task._placed:
            task._placed = False
            self.places += ONE  # type: ignore[operator]  # one step with `_placed`, and no call, which needs stack
        if self.submitters:
            self.wake_submitter()

    # Taking

    def advance(self) -> bool:
        """`front` was empty: go on to the deque that takes new tasks. False when they are the same. For workers."""
        if self.front is self.tasks:
            return False
        try:
            del self.broom[0]
        except IndexError:
            time.sleep(0)  # being swept: `front` is about to be replaced, and what is in `tasks` comes after that
            return True
        if not self.front:
            self.front = self.tasks
        self.broom.append(None)
        return True

    def has_tasks(self) -> bool:
        """Whether there is anything to take. Locks the deques, so that see the note on sleepers above.

        `tasks` first: a sweep meanwhile moves what was in there to `front`, and nothing the other way.
        """
        self.tasks.extend(())
        self.front.extend(())
        return bool(self.tasks or self.front)

    def one_less_gone(self) -> None:
        """A worker took an entry whose task had gone."""
        with suppress(IndexError):
            self.gone.pop()

    def _sweep(self) -> None:
        """Leave only the entries of tasks that have not begun. One thread at a time; may stop after any step.

        Submitters append to the new deque from (1) on. One that appended to the old deque after it was copied in (2)
        finds `tasks` changed and appends again; one that did so before is in the copy. What stands in both is begun
        once all the same. Workers empty `front` before they go on to `tasks`, so the order is kept.
        """
        try:
            del self.broom[0]
        except IndexError:
            return
        try:
            old = self.tasks
            if self.front is not old:  # not emptied since the last sweep: its tasks come before those of `tasks`
                old.extendleft(reversed(_unbegun(_copy(self.front))))
                self.front = old
            self.tasks = deque()  # (1)
            self.front = deque(_unbegun(_copy(old)))  # (2)
            self.counts.swept = True  # from here on `gone` may be too short: what began or was cancelled since (2)
            self.gone.clear()
            self._wake_all()  # a worker that was about to sleep may have looked at the old deque only
        finally:
            self.broom.append(None)

    # Ending

    def refuse(self, refusal: Callable[[], Exception]) -> None:
        """Accept no more tasks, and let workers go when those accepted have been begun. Takes no lock."""
        if self.refusal is None:
            self.refusal = refusal
        self._wake_all()
        for waiter in self.submitters.copy():
            waiter.wake()

    def waiting_tasks(self) -> list[Future[Any]]:
        """The tasks that have not begun."""
        later = _copy(self.tasks)  # before `front`, see `has_tasks`
        seen = dict.fromkeys((*_copy(self.front), *later))
        return _unbegun(seen)

    def _waiting_broadcasts(self) -> list[Future[Any]]:
        return [task for worker in list(self.workers) for task in _copy(worker.broadcasts)]

    def cancel_waiting(self) -> None:
        """Cancel what has not begun."""
        for_each(self.waiting_tasks() + self._waiting_broadcasts(), lambda task: task.cancel())

    def backlog(self) -> int:
        """The number of tasks that have not begun."""
        length = len(self.tasks)
        # It may count tasks that had gone, and those that took their places, when the entries of the former are taken
        # before the look at `gone`. (Looked at the other way round, it would as soon as one goes in between.)
        exceeds = self.max_backlog is not None and length > self.max_backlog
        if self.front is self.tasks and not self.gone and not self.counts.swept and not exceeds:
            return length
        return len(self.waiting_tasks())

    def join(self, timeout: float | None = None) -> bool:
        """After `refuse`: wait until every worker has ended; False when `timeout` seconds passed before."""
        if sys.is_finalizing():
            return True  # they all have; and a daemon thread that was stopped for good may have had the lock
        deadline = Deadline(timeout)
        # Whoever looked at `refusal` too early to see it has entered its worker when this has the lock.
        workers = locked(self.lock, lambda: [*self.workers, *self.retired])
        for worker in workers:
            if self.forked:
                return True
            if not worker.wait_ended(deadline.left()):
                return False
        _join_threads(workers)
        return True

    def still_running(self) -> str:
        """The workers that have not ended, and what they run, for a person."""
        return ", ".join(
            f"{worker.thread.name} runs {'nothing' if (fn := worker.fn) is None else name_of(fn)}"
            for worker in list(self.workers)
            if not worker.ended
        )

    # Each worker once

    def broadcast(
        self, make: Callable[[], Future[T]], among: dict[Worker, None], scope: Scope[Any] | None = None
    ) -> list[Future[T]]:
        """Have each worker that is in `among` run a task made by `make`, in the order of their indices."""
        if self._worker() is not None or (scope is not None and scope._runs_in_worker):
            raise RuntimeError(
                f"a task of {self.name} can't broadcast, since each worker's part is run between its tasks, this one "
                "included: call broadcast outside of the pool's workers"
            )
        if self.refusal is not None:
            raise self.refusal()
        if scope is not None and (scope._closed or scope._cancelled):
            raise scope._refusal()
        # A worker that has entered has its index by now; -1: just being entered, in this very thread.
        workers = locked(self.lock, lambda: list(self.workers))
        there = [worker for worker in workers if worker in among and worker.index >= 0]
        tasks: list[Future[T]] = []
        try:
            self._hand_out(make, sorted(there, key=lambda worker: worker.index), scope, tasks)
            return tasks
        except BaseException:
            for task in tasks:
                task._withdraw()
            raise

    def _hand_out(
        self, make: Callable[[], Future[T]], workers: list[Worker], scope: Scope[Any] | None, tasks: list[Future[T]]
    ) -> None:
        """Add to `tasks` what each of `workers` takes."""
        for worker in workers:
            task = make()
            tasks.append(task)
            task._only = worker
            if self.copies_context:
                task._fn = partial(copy_context().run, task._fn)  # type: ignore[arg-type]  # as in `put`
            if scope is not None:
                scope._add(task)
            if not self._hand_to(worker, task):
                tasks.pop()._withdraw()

    def _hand_to(self, worker: Worker, task: Future[Any]) -> bool:
        """False when `worker` is ending, or has ended."""

        def hand() -> bool:
            if worker not in self.workers or worker.leaving or self.refusal is not None:
                return False
            worker.broadcasts.append(task)
            worker.called = True
            return True

        taken = locked(self.lock, hand)  # see `Worker._stop_broadcasts`
        if taken:
            worker.rouse()
        return taken

    # Counting

    def look_at_peak(self) -> None:
        """Before the backlog shrinks, if it has grown: have there ever been as many tasks in it?"""
        if not self.grown:
            return
        self.grown = False
        if self.max_backlog is not None and self.places is not None:
            ahead = self.max_backlog - self.unminted - len(self.places)
        else:
            ahead = self._entries() - len(self.gone)
        self.peak = max(self.peak, ahead)

    def stats(self) -> PoolStats:
        """A snapshot.

        A task leaves the backlog before it counts as running, and that before it counts as ended. The look goes the
        other way, so that it may miss a task between two of them, but never counts one twice.
        """
        counts = Counts()

        def begin() -> tuple[list[Worker], float]:
            counts.add(self.counts.past)
            return list(self.workers), self.counts.seconds_blocked

        workers, seconds_blocked = locked(self.lock, begin)  # who retires leaves `workers` and enters `past` at once
        for worker in workers:
            counts.add(worker.counts)
            counts.completed += worker.completed
        completed = counts.completed + self.counts.completed.value()
        failed = counts.failed + self.counts.failed.value()
        cancelled = self.counts.cancelled.value()
        running = sum((worker.fn is not None) + worker.inside for worker in workers)
        waiting_since = list(self.submitters.values())
        now = time.monotonic()
        backlog = self.backlog()
        self.peak = max(self.peak, backlog)
        submitted, seconds_blocked = self.counts.never_less(
            self.lock,
            backlog + running + completed + failed + cancelled,
            seconds_blocked + sum(now - since for since in waiting_since),
        )
        return PoolStats(
            workers=sum(not worker.ended for worker in workers),
            idle=len(self.idle),
            running=running,
            backlog=backlog,
            peak_backlog=self.peak,
            blocked_submitters=len(waiting_since),
            seconds_blocked=seconds_blocked,
            submitted=submitted,
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            states_made=counts.made,
            seconds_making=counts.seconds_making,
            states_discarded=counts.discarded,
            states_torn_down=counts.torn_down,
            teardown_errors=counts.teardown_errors,
        )


def _in_main_thread() -> bool:
    """Not by the current thread's object, which `threading` would make for one that it does not know."""
    return threading.get_ident() == threading.main_thread().ident


def _join_threads(workers: list[Worker]) -> None:
    """Until the threads of `workers`, which have ended, are gone: a few instructions more.

    Up to Python 3.12 `Thread.join` is Python code. Two Ctrl-Cs in there can leave a lock held that every later join,
    and the exit of the interpreter, waits for. So another thread looks for the main one.
    """
    if sys.version_info < (3, 13) and _in_main_thread():
        waiter = Waiter()
        try:
            start_new_thread(_until_gone, (workers, waiter))
        except RuntimeError:  # the interpreter exits, or there is no thread to be had
            _until_gone(workers, waiter)
        waiter.wait()
    else:
        for worker in workers:
            worker.join_thread()


def _until_gone(workers: list[Worker], waiter: Waiter) -> None:
    for worker in workers:
        while worker.thread.is_alive():  # `join` would have `threading` know this thread, and never forget it
            time.sleep(0)
    waiter.wake()


def _unbegun(tasks: Iterable[Future[Any]]) -> list[Future[Any]]:
    return [task for task in tasks if task._token]


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
