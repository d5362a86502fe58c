"""Begin, lend, call, take back, end, drop; then the next."""

from __future__ import annotations

import logging
import sys
import threading
from itertools import repeat

from ._future import Future, Waiting
from ._group import Group
from ._mailbox import Mailbox
from ._naming import name_of, tell
from ._parker import Parker
from ._phases import FAILED, FINISHED, RUNNING
from ._registry import Registry
from ._stack import headroom
from ._states import States
from ._stats import Counts
from ._typing import Any, cast
from ._waits import Wait

logger = logging.getLogger("concurrent.futures")

_with_traceback = BaseException.with_traceback  # whatever the class of an error makes of it


class Runner(Mailbox):
    """The part of a worker that runs tasks. Strictly private.

    `fn`, `nested_tasks`, `completed`, `counts`
        what `PoolWorker` says; others read them.
    `caller_runs_depth`
        tasks begun one inside another by submits of this worker to its own full backlog.
    `states`
        what this worker owns.
    `_cut_off`
        tasks, each with its scope, its function, and what another thread threw into this one while it was at them.

    Only its own thread writes any of them. Nothing here waits.
    """

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.fn: object = None
        self.caller_runs_depth: int = 0
        self.nested_tasks: int = 0
        self.completed: int = 0
        self.counts: Counts = Counts()
        self.states = States(self.counts)
        self._cut_off: list[tuple[Future[Any] | None, Group | None, object, BaseException]] = []

    def run(
        self, task: Future[Any] | None = None, nested: bool = False, queue: list[Future[Any]] | None = None
    ) -> bool:
        """Run `task`, `nested` in the one that waits for it, or the first one in `queue`. False when there is none.

        Without either: run those of the run queue, until there is none (False), or something else is asked of this
        worker.

        What stands here as well as in a method of its own saves so many ns a task (medians of 41 paired bursts, CPython
        3.13): to lend and to take back 168, to leave the scope 66, to end the task 56 to 62, to begin 40, to give
        back the permit 36, the look at the high-water mark 40. The loop in here, and not around a function that runs
        one task, saves 30 to 70.

        Other threads may throw an exception into this one, see `_interrupts`. So tasks are popped by a loop (see
        `RunQueue.serve`), and no call comes before the claim: wherever anything may be thrown, `task` is None or one
        that this worker has claimed. Then it is `_cut_off`.
        """
        registry, states = self.registry, self.states
        run_queue, permits, idle = registry.run_queue, registry.permits, registry.idle
        result = error = fn = scope = None
        args: tuple[Any, ...] = ()
        lent, ending, name = 0, False, "?"
        outer, nested_tasks = self.fn, self.nested_tasks
        if task is not None:
            queue, task = [task], None
        single = queue is not None
        if self.listed_idle and not single:  # asked for something else as it became idle; it may have been woken since
            return False
        pops = run_queue.pops if queue is None else map(list.pop, repeat(queue), repeat(0))
        while True:
            try:
                for task in pops:
                    try:  # as `Task._begin` does
                        del task._claim[0]
                    except IndexError:  # a tombstone: cancelled, or run in place by a worker that waits for it
                        target, task = task._target, None
                        if not nested and target is None:
                            run_queue.remove_tombstone()
                        if single:
                            return False
                        continue
                    task._phase = RUNNING
                    if task._has_permit:
                        task._has_permit = False  # as `Permits.release` does, but no sooner than need be
                        permits.free.append(None)  # type: ignore[union-attr]  # there are permits
                        if permits.needs_notify:  # type: ignore[union-attr]
                            permits.notify_first()  # type: ignore[union-attr]

                    fn, args = task._fn, task._args
                    task._fn = None
                    task._args = ()
                    binding, scope = task._binding, task._scope
                    self.fn = fn
                    if outer is not None:  # else this is no nested task, or one in an initializer or a teardown
                        self.nested_tasks += 1
                    slot = None
                    try:
                        if binding is not None:
                            try:
                                slot = states.slots[binding]
                            except KeyError:
                                slot = states.slot(binding)
                            lent = slot.lent
                            if lent or slot.needs_attention:
                                args = (slot.lend(),) + args  # noqa: RUF005  # `(state, *args)` takes 40 ns more
                                if slot.lent > 1:
                                    states.overflow = True
                            else:  # as `Slot.lend` does
                                # Before the tuple: to make it may start a collection, whose finalizers run tasks.
                                slot.lent = 1
                                args = (slot.states[0].value,) + args  # noqa: RUF005
                        result = fn(*args)  # type: ignore[misc]  # not begun before, so not None
                    except BaseException as exc:
                        # The traceback begins with the user's function. That one's frame still refers to this one, its
                        # caller, so every name for the task is dropped at the end: else the error would be in a cycle.
                        traceback = sys.exc_info()[2]
                        error = _with_traceback(exc, traceback and traceback.tb_next)
                        traceback = None
                        name = name_of(fn)
                        if not nested:
                            registry.waits.waiting.pop(self, None)  # should it have been cut off as it began to wait
                        if slot is not None and slot.lent == lent:  # no state was lent
                            slot = None
                    fn = None
                    args = ()
                    if slot is not None:  # as `Slot.take_back` does
                        if slot.needs_attention:
                            slot.take_back(error)
                        else:
                            slot.lent -= 1
                        slot = None
                    if states.overflow and not nested:
                        states.drop_overflow()
                    self.fn = outer
                    if outer is not None:
                        self.nested_tasks -= 1

                    if not nested:
                        if run_queue.head:
                            if run_queue.high_water_stale:
                                run_queue.update_high_water()
                        elif not self.has_mail and not (task._watchers and task._has_callbacks()):
                            # Be available before you announce: who sees the result, and submits again, finds this
                            # worker idle.
                            idle.workers[self] = None
                            self.listed_idle = True
                    if error is None:  # as `Task._end` does
                        self.completed += 1
                        task._result = result
                        result = None
                        task._phase = FINISHED
                    else:
                        task._fails(error, name)
                        error = None
                        self.counts.failed += 1
                        task._phase = FAILED
                    task._claim.clear()  # the fence, see `Task`
                    if task._watchers and task._wake_watchers():
                        self._call_backs(task)
                    if scope is None:
                        task = None
                    else:
                        # As `Group._ended` does. The scope ends only after this worker's last reference to the task
                        # is gone.
                        if scope._cancel_due:
                            scope._cancel_if_due()
                        ending = True  # what is thrown comes after the call
                        scope._ending.append(None)
                        del scope._pending[task]
                        task._scope = None
                        task = None
                        ending = False
                        scope._ending.pop()
                        if not scope._pending:
                            scope._end_if_last()
                        scope = None
                    if single or self.has_mail:
                        return True
                    if self.listed_idle:
                        return False
                    if pops is not run_queue.pops:  # compacted: it is another deque
                        break
                    continue  # as in `_map._results`
                pops = run_queue.pops
            except BaseException as thrown:
                if task is None and scope is None and type(thrown) is IndexError:  # of the pop: there is none
                    if single or not run_queue.next_segment():
                        return False
                    pops = run_queue.pops
                    continue
                if ending:
                    del scope._ending[-1]  # type: ignore[union-attr]  # there is one then
                if task is not None or scope is not None:
                    # No call comes before this: it might be the next to be cut off.
                    self._cut_off += ((task, scope, fn, thrown),)
                self.has_mail = True  # whatever runs in this thread, it soon looks at what is cut off
                task = scope = fn = result = error = None
                args = ()
                self.fn, self.nested_tasks = outer, nested_tasks
                if nested:
                    self._end_cut_off()
                raise

    def _call_backs(self, task: Future[Any]) -> None:
        self._be_busy()  # if a callback was added at the last moment
        try:
            task._call_backs()
        except BaseException:
            tell(logger.critical, "callback of %r raised", task)
        if self.states.overflow and self.fn is None:
            self.states.drop_overflow()

    def _end_cut_off(self) -> None:
        """Tear down the states that cut off tasks held, and end these. May be cut off in turn, and called again."""
        self.states.take_back_cut_off()
        while self._cut_off:
            task, scope, fn, error = self._cut_off[-1]
            try:
                if task is not None:
                    task._abort(error, fn)
                elif scope is not None:
                    scope._end_if_last()
                del self._cut_off[-1]
            except BaseException:
                tell(logger.critical, "callback of %r raised, or the end of the task was cut off as well", task)
            task = scope = fn = error = None  # type: ignore[assignment]

    def help(self, task: Future[Any]) -> None:
        """Run `task`, which a task of this worker waits for, unless it has begun."""
        try:
            if task._target is not None:
                self._forbid_wait(task)
            elif task._claim:
                self.registry.before_removal(task)
                if self._run_inside(task):
                    self.registry.run_queue.compact_if_due()
                else:
                    self.registry.removal_failed(task)
        finally:
            del task  # as in `run`

    def wait(self, parker: Parker, timeout: float | None) -> bool:
        """As `Helper` has it."""
        wait = self.begin_wait(parker, None)
        try:
            return self.sleep(parker, timeout)
        finally:
            self.end_wait(wait)

    def begin_wait(self, parker: Parker, task: Future[Any] | None) -> Wait:
        """As `Helper` has it."""
        if task is not None and task._target is not None:
            self._forbid_wait(task)
            task = None  # of a broadcast: no other worker can run it
        self._be_busy()  # in a destructor, of what a task leaves behind
        waits = self.registry.waits
        # `outer`: in which this one came up, of a task that waits for this one, or of a request.
        wait = Wait(parker, task, outer=waits.waiting.get(self))
        waits.waiting[self] = wait
        try:
            waits.look()
        except BaseException:
            self.end_wait(wait)
            raise
        return wait

    def end_wait(self, wait: Waiting) -> None:
        """As `Helper` has it."""
        outer = cast("Wait", wait).outer
        if outer is None:
            self.registry.waits.waiting.pop(self, None)
        else:
            self.registry.waits.waiting[self] = outer

    def caller_runs(self, task: Future[Any]) -> None:
        """Run `task`, which has no place in the full backlog, inside the task that submits it."""
        self.caller_runs_depth += 1
        try:
            self._run_inside(task)
        finally:
            self.caller_runs_depth -= 1
            del task  # as in `run`

    def _run_inside(self, task: Future[Any]) -> bool:
        """Run `task` inside the one that this worker runs; False when another thread has claimed it."""
        headroom()
        self._be_busy()  # as in `wait`
        states = self.states
        outer, states.base_depth = states.base_depth, {slot: slot.lent for slot in states.slots.values() if slot.lent}
        try:
            return self.run(task, True)
        finally:
            states.base_depth = outer
            del task  # as in `run`

    def _forbid_wait(self, task: Future[Any]) -> None:
        """`task` runs between the tasks of one worker: raise when that is this one, which would wait for itself."""
        if task._target is self and task._claim:
            raise RuntimeError(
                f"{threading.current_thread().name} is to run {task!r} of a broadcast when the task that waits for it "
                "has ended: wait outside of the pool's workers"
            )
