"""What a pool and its workers share; neither holds the other. It knows no state and no scope."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable
from functools import partial
from threading import TIMEOUT_MAX

from ._binding import Binding
from ._future import Future, current_helper, new_task
from ._group import Group
from ._idle import Idle
from ._interrupts import for_each, in_new_thread
from ._options import TaskDecorator
from ._permits import Permits
from ._phases import PENDING, RUNNING
from ._runqueue import RunQueue
from ._stats import PoolCounts
from ._task import Task, Watcher
from ._typing import Any, TypeVar
from ._waits import Waits
from ._workers import Workers

T = TypeVar("T")

MAX_CALLER_RUNS = 32  # tasks begun one inside another by submits of a worker to its own full backlog


class Registry:
    """Owns the parts of a pool that its workers share, and the operations that need several of them. Strictly private.

    Its parts are `run_queue` (order), `permits` (the bound; None without one), `idle` (who sleeps), `workers` (who is
    there) and `waits` (who waits in a task); each says what guards it, and who wakes whom. Here are `put`, which
    accepts a task; `close`, which lets all go; and what a task tells when it leaves the backlog other than by its turn.

    `close_reason`, `forked`, `abandoned`
        once set they stay set; of two reasons given at once either may win.
    The rest is written once.

    No wake-up is lost. Everywhere a sleeper and its waker race, both publish first and look second, and both go through
    the lock inside one container, so that whoever comes second sees what the first has published:

        who          publishes                  meets at (locks)   then looks at
        submit       appends the task           `RunQueue.tail`    `Idle.workers`, `Idle.searching`
        idle worker  enters `Idle.workers`      `RunQueue.tail`    the tasks
        close        sets `close_reason`        `Idle.workers`     who is in there
        idle worker  enters there               `Idle.workers`     `close_reason`

    Take the first pair. If the submit's append comes first, the worker finds the task. If the worker's look does, it is
    listed by then, and the submit wakes it. Both may happen: a worker woken in vain sleeps again. (`extend(())` takes a
    list's or deque's lock without changing it.)

    The first look of `put` at `close_reason` may be late, and is made good by the second, in `_attend`.
    """

    __slots__ = (
        "__weakref__",
        "abandoned",
        "close_reason",
        "counts",
        "decorate",
        "exit_timeout",
        "forked",
        "idle",
        "idle_timeout",
        "name",
        "permits",
        "pool",
        "run_queue",
        "waits",
        "workers",
    )

    def __init__(
        self,
        name: str,
        max_workers: int,
        max_backlog: int | None,
        submit_timeout: float | None,
        idle_timeout: float | None = None,
        exit_timeout: float | None = None,
        decorate: TaskDecorator | None = None,
    ) -> None:
        self.name: str = name
        self.idle_timeout: float | None = None if idle_timeout is None else min(idle_timeout, TIMEOUT_MAX)
        self.exit_timeout: float | None = None if exit_timeout is None else min(exit_timeout, TIMEOUT_MAX)
        self.decorate: TaskDecorator | None = decorate  # called with each task's function, where that is submitted
        self.pool: weakref.ref[object] | None = None  # calls `close` when the pool is collected
        self.close_reason: Callable[[], Exception] | None = None  # why no task is accepted any more
        self.forked: bool = False
        self.abandoned: bool = False
        self.counts: PoolCounts = PoolCounts()
        self.permits: Permits | None = None
        if max_backlog is not None:
            self.permits = Permits(max_backlog, submit_timeout, name)
        self.idle = Idle()
        self.run_queue = RunQueue(self.idle.wake_all, None if self.permits is None else self.permits.in_use)
        self.workers = Workers(max_workers, self.run_queue)
        self.waits = Waits(self.workers)

    # Submitting

    def put(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Group | None = None,
        task: Future[T] | None = None,
        watchers: tuple[Watcher] | None = None,
    ) -> Future[T]:
        """Accept a task, or run it here (in a worker whose own pool's backlog is full), or raise and leave no trace.

        The task enters its `scope` only when it has its permit, since from then on the scope may cancel it. A `task`
        that is given has its permit, or needs none. `watchers` are told when the task has ended.

        What stands here as well as in a method of its own saves so many ns a task (medians of 41 paired bursts, CPython
        3.13): to make the task 55, to append it 40, to take a permit 39, to enter the scope 37.
        """
        if bounded := task is None:
            task = Future()  # as `new_task` does
            task._claim = [None]
            task._home = self
            task._fn = partial(fn, **kwargs) if kwargs and callable(fn) else fn
            task._args = args
            task._phase = PENDING
            task._binding = binding
            task._scope = None
            task._has_permit = False
            task._watchers = watchers
        try:
            if self.close_reason is not None:  # else a worker that has not ended yet might run the task all the same
                raise self.close_reason()
            runs_here = False
            permits = self.permits
            if bounded and permits is not None:
                if not permits.waiters:
                    try:  # as `Permits.try_acquire` does
                        del permits.free[-1]
                        task._has_permit = True  # one step with `del`
                    except IndexError:
                        pass
                runs_here = not (task._has_permit or self._acquire(permits, task, scope))
            if self.decorate is not None:
                task._fn = self.decorate(task._fn)  # type: ignore[arg-type]  # not begun, so not None
            if scope is not None:  # as `Group._add` does
                task._scope = scope
                scope._pending[task] = None
                if scope._cancelled or scope._closing is not None:
                    scope._check_open()
            if runs_here:
                current_helper(self).caller_runs(task)  # type: ignore[union-attr]  # only a worker gets this answer
                return task
            run_queue = self.run_queue
            tail = run_queue.tail
            tail.append(task)
            if tail is not run_queue.tail:
                run_queue.append_again(task)
            if not run_queue.high_water_stale:
                run_queue.high_water_stale = True
            idle = self.idle
            if (idle.workers and not idle.searching) or self.workers.can_grow or self.close_reason is not None:
                self._attend(task)
            if scope is not None and scope._helps:
                scope._wake_helper()
            return task
        except BaseException:
            # Ctrl-C, a closed pool, no thread to be had. Wherever that was, the task is withdrawn now, or has begun.
            try:
                self._withdraw(task)
            except BaseException:  # as in `Task._call_off`
                try:
                    _thread.start_new_thread(in_new_thread, (self._withdraw, task))
                except RuntimeError:
                    self._withdraw(task)
                raise  # what a signal's handler has raised in there, not what led here
            raise
        finally:
            del task  # no cycle from the error of a task run here, by its traceback, to this frame

    async def aput(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Group | None = None,
    ) -> Future[T]:
        """As `put`, but wait for a permit without blocking the event loop; in a worker of the pool exceed the bound."""
        from ._asyncio import acquire, check_loop

        check_loop(f"asubmit of {self.name}")
        task = new_task(self, fn, args, kwargs, binding)
        try:
            permits = self.permits
            if permits is not None:
                stand_in_line = permits.waiters and not permits.enough_for_line()
                if (stand_in_line or not permits.try_acquire(task)) and current_helper(self) is None:
                    line = None if scope is None else scope._permit_waiters
                    await acquire(permits, task, partial(self._check_open, scope), line)
            return self.put(fn, args, kwargs, binding, scope, task)
        except BaseException:
            self._withdraw(task)
            raise

    def maker(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], binding: Binding | None = None
    ) -> Callable[[], Future[T]]:
        """What makes a task for each worker of a broadcast."""
        return partial(new_task, self, fn, args, kwargs, binding)

    def _acquire(self, permits: Permits, task: Future[Any], scope: Group | None) -> bool:
        """Take a permit for `task`, waiting for it if need be. False in a worker of this pool that should run it."""
        if permits.enough_for_line() and permits.try_acquire(task):
            return True
        worker = current_helper(self)
        if worker is None:
            line = None if scope is None else scope._permit_waiters
            permits.acquire(task, partial(self._check_open, scope), line)
            return True
        if permits.try_acquire(task):
            return True
        self._check_open(None)
        return worker.caller_runs_depth >= MAX_CALLER_RUNS  # over the bound then: a recursion error helps nobody

    def _check_open(self, scope: Group | None) -> None:
        """Raise when nothing is accepted any more."""
        if self.close_reason is not None:
            raise self.close_reason()
        if scope is not None and scope._cancelled:
            raise scope._closed_error()

    def _withdraw(self, task: Future[Any]) -> None:
        """`task` was not accepted in the end. May be done again."""
        task._withdraw()
        self.notify_if_work_pending()

    def _attend(self, task: Future[Any]) -> None:
        """See to it that some worker looks at the tasks; withdraw `task`, and raise, when there will be none."""
        # Before the look at `close_reason`: that may come while this finds no worker, and may start none.
        error = self.wake()
        if error is not None:
            try:
                raise error
            finally:
                error = None  # no cycle from it by its traceback to this frame
        if self.close_reason is not None and task._withdraw():
            # Not begun, and nobody may be left to begin it: a worker looks at the tasks once more after `close_reason`.
            raise self.close_reason()

    def wake(self) -> Exception | None:
        """Wake an idle worker, or start one if need be and there may be more. Returns why there is none at all."""
        return self.workers.grow() if not self.idle.wake_one() and self.workers.can_grow else None

    def notify_if_work_pending(self) -> None:
        """After an interruption: whoever could go on is awake. One that wakes in vain, for tombstones, sleeps again."""
        if self.run_queue.has_entries() and not self.idle.wake_one() and self.workers.can_grow and self.backlog():
            error = self.workers.grow()
            if error is not None:
                self.no_worker(error)
        if self.permits is not None:
            self.permits.notify_if_free()

    # Failing

    def no_worker(self, error: Exception, tasks: list[Future[Any]] | None = None) -> None:
        """No thread can be started: fail the tasks that relied on one, or `tasks`, since nobody is left to begin them.

        Their submits found as many workers as may be, one of which did not start. One that is there now sees to them.
        """

        def fail(task: Future[Any]) -> None:
            lost = RuntimeError(f"{self.name} has no worker for this task, and can't start one")
            lost.__cause__ = error
            self.fail_unbegun(task, lost)

        if not self.workers.serving():
            for_each(self.run_queue.pending() if tasks is None else tasks, fail)

    def fail_unbegun(self, task: Future[Any], error: BaseException, *, silenced: bool = False) -> bool:
        """Fail `task` with `error` unless it has begun, or was cancelled; True when this did so.

        Its entry in the run queue stays behind. `silenced`: the log is not to be bothered when nobody takes the error.
        """
        begun = False
        try:
            try:
                del task._claim[0]
                task._phase = RUNNING
                begun = True  # one step with `del`
            except IndexError:
                return False
            if silenced:
                task._silenced = True
            self.before_removal(task)
            self.removed(task)
            task._fail(error)
        except BaseException:
            if begun:  # as in `Task._call_off`
                try:
                    _thread.start_new_thread(in_new_thread, (task._abort, error, task._fn))
                except RuntimeError:
                    task._abort(error, task._fn)
            raise
        return True

    # Told by tasks that leave other than by their turn: see `_task.Home`

    def before_removal(self, task: Task[Any]) -> None:
        """`task` is about to be claimed, and its entry stays behind."""
        if task._target is None:
            self.run_queue.add_tombstone()

    def removal_failed(self, task: Task[Any]) -> None:
        """After `before_removal`: another thread has claimed `task`."""
        if task._target is None:
            self.run_queue.remove_tombstone()

    def removed(self, task: Task[Any]) -> None:
        """After `before_removal`: the task is claimed, and its permit free. May be called again."""
        if task._target is not None:  # in no backlog
            task._target.forget_broadcast(task)
            return
        if self.permits is not None:
            self.permits.release(task)
        self.run_queue.compact_if_due()

    # Ending

    def close(self, reason: Callable[[], Exception]) -> None:
        """Accept no more tasks, and let workers go when those accepted have been begun. Takes no lock."""
        if self.close_reason is None:
            self.close_reason = reason
        self.workers.closed = True  # in any case: whoever has set the other may not have come to this yet
        self.idle.wake_to_leave()
        if self.permits is not None:
            self.permits.wake_all()

    def cancel_waiting(self) -> None:
        """Cancel what has not begun."""
        broadcasts = [task for worker in list(self.workers.live) for task in list(worker.broadcasts)]
        for_each(self.run_queue.pending() + broadcasts, lambda task: task.cancel())

    def backlog(self) -> int:
        """The number of tasks that have not begun."""
        run_queue = self.run_queue
        length = len(run_queue.tail)
        # More than the bound: entries of claimed tasks were counted, and taken before the look at `tombstones`. (Looked
        # at the other way round, that would happen with each task claimed in between.)
        exceeds = self.permits is not None and length > self.permits.size
        one_segment = run_queue.head is run_queue.tail
        if one_segment and not run_queue.tombstones and not run_queue.compacted and not exceeds:
            return length
        return len(run_queue.pending())

    def join(self, timeout: float | None = None) -> bool:
        """After `close`: wait until every worker has ended; False when `timeout` seconds passed before."""
        if self.abandoned and timeout is None:  # by the interpreter's exit, whose last handlers are not to hang either
            return True
        return self.workers.join(timeout)

    def still_running(self) -> str:
        """The workers that have not ended, and what they run, for a person; "" when all have."""
        return self.workers.still_running()

    def after_fork(self, reason: Callable[[], Exception]) -> object:
        """In the child; returns what is to be kept for ever."""
        kept = self.run_queue.after_fork()
        self.idle.after_fork()
        self.workers.after_fork()
        self.waits.after_fork()
        if self.permits is not None:
            self.permits.after_fork()
        self.forked = True
        self.close_reason = reason
        return kept


def shut_down() -> RuntimeError:
    """What a submit raises after `shutdown`."""
    return RuntimeError("cannot schedule new futures after shutdown")


def dropped(registry: Registry) -> Callable[[object], None]:
    """What a weakref calls when the pool of `registry` is collected."""

    def drop(_: object) -> None:
        if registry.close_reason is None or registry.workers.unended:  # else there is nobody to let go
            try:
                registry.close(shut_down)
            except BaseException:  # Ctrl-C, which Python prints and then ignores here
                registry.close(shut_down)
                raise
        registry.workers.dissolve()

    return drop
