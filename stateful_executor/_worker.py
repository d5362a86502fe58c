"""Begin, lend, call, give back, finish, drop; then the next. Holds the queue, never the pool."""

from __future__ import annotations

import logging
import sys
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ._future import FAILED, FINISHED, RUNNING
from ._state import Binding, Slot, described, name_of, tell
from ._stats import Counts
from ._waiter import Waiter, headroom, here, sleep_until
from .errors import InitializerError

if TYPE_CHECKING:
    from ._future import Future
    from ._queue import TaskQueue

logger = logging.getLogger("concurrent.futures")

# Without it those that are woken run at once, and may have destructors to run first, of objects that they made: nobody
# is relied on then, see `TaskQueue.woken`.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

_with_traceback = BaseException.with_traceback  # whatever the class of an error makes of it


class Request:
    """Something asked of a worker, to be done in its thread between tasks, or while a task of its waits."""

    def answer(self, worker: Worker) -> None:
        """In the worker's thread."""
        raise NotImplementedError

    def done(self) -> None:
        """There is nothing left to do, as the worker has ended, or has done it."""


class TearDown(Request):
    """Tear down the worker's states of a scope's own binding."""

    def __init__(self, wake: Callable[[], object], todo: dict[Request, None], binding: Binding) -> None:
        self._wake = wake
        self._todo = todo
        self._binding = binding
        todo[self] = None

    def answer(self, worker: Worker) -> None:
        late = worker.tearing.get(self._binding)
        if late is not None:  # asked inside that very teardown, which waits for something
            late.append(self)
            return
        slot = worker.slots.get(self._binding)
        if slot is not None and slot.in_use():  # by a bound function, in a task that is not the scope's
            slot.when_free(lambda: self.answer(worker))
            return
        worker.tear_down(self._binding)
        self.done()

    def done(self) -> None:
        self._todo.pop(self, None)
        self._wake()


class Replace(Request):
    """Tear down the worker's states of a binding that were made before `discard_all`."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def answer(self, worker: Worker) -> None:
        slot = worker.slots.get(self._binding)
        if slot is not None:
            slot.drop_stale()


class Worker:
    """One thread of the pool, and what it owns. Strictly private.

    Only its own thread touches `tearing`, `announced`, `extras`, `inline` and `floors`, and writes `slots`, `waiter`,
    `dead`, `ended`, `fn`, `inside`, `completed`, `asleep` and what is in `counts`, which others read; `asleep` is false
    when it enters `queue.idle`, and who takes it out may miss that it is true since. `relied_on` is written by who took
    it out, before the release, and by itself after that. `inbox` and `broadcasts` are guarded by their own locks (see
    `ask`), `born` likewise: whoever takes its item decides whether the thread becomes a worker. `leaving` and `index`
    are guarded by the queue's lock, which who adds to `broadcasts` holds. `watchers` is guarded by its own lock: who
    waits enters, then looks at `ended`; the worker writes that, then locks `watchers`. `disowned` is written before
    `ended`, by who took the item of `born`. SIGINT is for the main thread: nothing here is interrupted.

    Who wakes a task of this worker that waits (`sleep`): what it waits for, and whoever asks something of the worker.
    A lock that was taken from `queue.idle` is released in the same step, so `_retract` waits for that only.
    """

    def __init__(self, queue: TaskQueue, binding: Binding | None) -> None:
        self.queue = queue
        self.binding = binding
        self.index: int = -1
        self.thread: threading.Thread = _new_thread(self._live)
        self.born: list[None] = [None]
        self.ended: bool = False
        self.watchers: list[Waiter] = []  # who waits for `ended`
        self.disowned: bool = False
        self.dead: bool = False

        lock = allocate_lock()
        lock.acquire()
        self.release: Callable[[], None] = lock.release  # by whoever takes this worker out of `queue.idle`, at once
        self._sleep = lock.acquire

        self.inbox: deque[Request] = deque()
        self.broadcasts: deque[Future[Any]] = deque()  # tasks for this worker only, run between others
        self.called: bool = False  # to look at either after this task
        self.leaving: bool = False  # takes no more of them
        self.waiter: Waiter | None = None  # what a task of this worker sleeps on
        self.announced: bool = False  # in `queue.idle` while still finishing a task
        self.asleep: bool = False  # in `queue.idle`, with nothing to do before it sleeps
        self.relied_on: bool = False  # on its way, see `TaskQueue.woken`
        self.slots: dict[Binding, Slot] = {}  # in the order made
        self.tearing: dict[Binding, list[Request]] = {}  # teardowns under way, and who asked for them meanwhile
        self.extras: bool = False  # a slot may have states for deeper levels of nesting
        self.inline: int = 0
        self.inside: int = 0  # tasks that run inside another one, which waits for them
        self.floors: dict[Slot, int] = {}  # how many states are lent to tasks further out than the innermost one
        self.fn: object = None  # what it runs
        self.completed: int = 0
        self.counts: Counts = Counts()  # all but `completed`, which is in reach for the sake of speed

    # Being born

    def take_index(self, index: int) -> None:
        """Under the queue's lock, before the thread starts."""
        self.index = index
        self.thread.name = f"{self.queue.name}_{index}"

    def disown(self) -> bool:
        """True when the thread will never be a worker: it did not start, or has not come as far as its first step."""
        try:
            del self.born[0]
        except IndexError:
            return False
        self.disowned = True
        self._say_ended()
        return True

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until this worker has ended; False when `timeout` seconds passed before."""
        waiter = Waiter()
        self.watchers.append(waiter)
        try:
            return sleep_until(lambda: self.ended, waiter, timeout)
        finally:
            self.watchers.remove(waiter)

    def join_thread(self) -> None:
        """After `wait_ended`: a few instructions more."""
        if not self.disowned:
            self.thread.join()

    def _say_ended(self) -> None:
        self.ended = True
        for waiter in list(self.watchers):  # who is not in it yet will see `ended`
            waiter.wake()

    def start(self) -> None:
        """Start the thread, or raise; it may have started all the same, see `disown`."""
        self.thread.start()

    def _live(self) -> None:
        try:
            del self.born[0]
        except IndexError:
            return
        here.worker = self
        try:
            self._work()
        except BaseException:
            tell(logger.critical, "a bug in stateful_executor ended worker %s", self.thread.name)
        finally:
            self._end()

    def _work(self) -> None:
        leaving = False
        while not leaving:
            if self._start():
                self._serve()
            leaving = self._leave()

    def _serve(self) -> None:
        """Run tasks until there will be none, or have been none for `idle_timeout` seconds."""
        self.queue.look_at_peak()
        while (ran := self.run()) or self._park():
            if self.called:
                self.called = False  # before the look, so that what is asked meanwhile is not missed
                self.inbox.extend(())  # locks it, see `ask`
                self.broadcasts.extend(())
            if self.inbox or self.broadcasts:
                if self.announced:
                    self._be_busy()
                elif not ran:  # it may have been woken for a task, and asked for something else before it came to that
                    self._pass_on()
            if self.inbox:
                self._answer()
            if self.broadcasts:
                self._run_broadcasts()

    # Making the pool's own state

    def _start(self) -> bool:
        """Run the pool's initializer, before the first task. False when the pool is broken, or ends before it works.

        In a pool that has worked before, a failure is the next task's, and no more than that one's: for the one after
        it the initializer runs again.
        """
        if self.binding is None:
            return True
        error = self._make_own_state()
        breakage = None if error is None else self._breakage(error)
        with self.queue.lock:
            if breakage is None:
                self.queue.proven = self.queue.breakage is None
            elif not self.queue.proven:
                self.queue.breakage = self.queue.breakage or breakage
        if self.queue.breakage is not None:
            if error is not None:
                self._break(error, self.queue.breakage)
            return False
        failures = [] if error is None else [error]
        error = breakage = None  # this frame may last for long
        return not failures or self._start_again(failures)

    def _start_again(self, failures: list[InitializerError]) -> bool:
        """Fail one task with what is in `failures`; for the next one try again, until the state is made.

        False when this worker is to end. Keeps no error that it has given to a task.
        """
        queue = self.queue
        while True:
            self._answer()
            if not (self.broadcasts or queue.front or queue.tasks):
                if not self._park():
                    return False
                continue
            # The task stays in the queue meanwhile: others may cancel it, or begin it.
            failures = failures or self._failures_to_start()
            if not failures:
                return True
            self._fail_next(failures)

    def _failures_to_start(self) -> list[InitializerError]:
        error = self._make_own_state()
        return [] if error is None else [error]

    def _fail_next(self, failures: list[InitializerError]) -> None:
        """Give the error in `failures` to the next task, if there is one yet."""
        queue = self.queue
        while True:
            try:
                task = self.broadcasts.popleft() if self.broadcasts else queue.front.popleft()
            except IndexError:
                if not queue.advance():
                    return
                continue
            if task._begin():
                queue.free_place(task)
                self._fail(task, failures.pop())
                return
            if task._only is None:
                queue.one_less_gone()

    @staticmethod
    def _fail(task: Future[Any], error: BaseException) -> None:
        try:
            task._fail(error)
        except BaseException:  # a callback's SystemExit
            tell(logger.critical, "callback of %r raised", task)

    def _make_own_state(self) -> InitializerError | None:
        assert self.binding is not None
        try:
            self._slot(self.binding).prepare()
        except InitializerError as exc:
            return exc
        finally:
            self._drop_extras()
        return None

    def _breakage(self, error: InitializerError) -> Callable[[], Exception]:
        """What tasks get from now on, should `error` break the pool."""
        cause = error.__cause__
        text = (
            f"{self.queue.name} is broken: its initializer raised {described(cause)} before it had ever succeeded; "
            "the thread pool is not usable anymore"
        )

        def breakage() -> BrokenThreadPool:
            broken = BrokenThreadPool(text)
            broken.__cause__ = cause
            return broken

        return breakage

    def _break(self, error: InitializerError, breakage: Callable[[], Exception]) -> None:
        """The pool's initializer failed before it ever succeeded: no task will ever run."""
        tell(logger.critical, "Exception in initializer:", exc_info=error.__cause__)
        self.queue.refuse(breakage)
        for task in self.queue.waiting_tasks():
            if task._begin():
                task._unheeded = True  # the log has the cause
                self.queue.leave_entry(task)
                self.queue.left(task)
                self._fail(task, breakage())

    # Running

    def run(self, task: Future[Any] | None = None, nested: bool = False) -> bool:
        """Run `task`, `nested` in the one that waits for it. False when it had gone.

        Without one: run those of the queue, until there is none (False), or something else is asked of this worker.
        """
        queue = self.queue
        single = task is not None
        result = error = None
        name = "?"
        while True:  # in here, not around a function that runs one task: a call less for each, 30 to 70 ns
            if not single:
                if self.announced:
                    return False
                try:
                    task = queue.front.popleft()
                except IndexError:
                    if queue.advance():
                        continue
                    return False
            assert task is not None
            try:
                del task._token[0]
            except IndexError:  # cancelled, or run in place by a worker that waits for it
                if not nested and task._only is None:
                    queue.one_less_gone()
                if single:
                    return False
                task = None
                continue
            task._phase = RUNNING
            if task._placed:
                task._placed = False
                queue.places.append(None)  # type: ignore[union-attr]  # as in `free_place`; a call less for every task
                if queue.unheard:
                    queue.call_submitter()

            fn, args = task._fn, task._args
            task._fn = None
            task._args = ()
            binding, scope = task._binding, task._scope
            outer, self.fn = self.fn, fn
            if outer is not None:  # else this is no nested task, or one in an initializer or a teardown
                self.inside += 1
            slot = lender = None
            try:
                if binding is not None:
                    try:
                        lender = self.slots[binding]
                    except KeyError:
                        lender = self._slot(binding)
                    # 40 ns faster than `(state, *args)`, which makes a list first.
                    if lender.lent or lender.due:
                        args = (lender.lend(),) + args  # noqa: RUF005
                        slot = lender
                        self.extras = slot.lent > 1 or self.extras
                    else:  # as `lend` does, without a call
                        # Before the tuple: to make it may start a collection, and a finalizer run another task.
                        lender.lent = 1
                        slot = lender
                        args = (lender.states[0].value,) + args  # noqa: RUF005
                result = fn(*args)  # type: ignore[misc]  # not begun before, so not None
            except BaseException as exc:
                # The traceback begins with the user's function. (That one's frame still refers to this one, its caller,
                # which is why every name for the task is dropped at the end: the error would be in a cycle with it.)
                traceback = sys.exc_info()[2]
                error = _with_traceback(exc, traceback and traceback.tb_next)
                traceback = None
                name = name_of(fn)
            fn = None
            args = ()
            if slot is not None:
                if slot.due:
                    slot.take_back(error)
                else:
                    slot.lent -= 1
                slot = None
            if self.extras and not nested:
                self._drop_extras()
            self.fn = outer
            if outer is not None:
                self.inside -= 1

            if not nested:
                if queue.front:
                    if queue.grown:
                        queue.look_at_peak()
                elif not self.called and not (task._watchers and task._has_callbacks()):
                    # Be available before you announce: who sees the result and submits again finds this worker idle.
                    queue.idle[self] = None
                    self.announced = True
            if error is None:
                self.completed += 1
                task._result = result
                result = None
                task._phase = FINISHED
            else:
                self.counts.failed += 1
                task._fails(error, name)
                error = None
                task._phase = FAILED
            task._token.clear()  # the anchor, see _future.py
            if task._watchers and task._wake_watchers():
                self._call_backs(task)
            if scope is None:
                task = None
            else:
                # The scope ends only after the last reference to a result that nobody keeps is gone.
                if scope._doomed:
                    scope._cancel_if_doomed()
                scope._ending.append(None)
                del scope._pending[task]
                task._scope = None
                task = None
                scope._ending.pop()
                if not scope._pending:
                    scope._end_if_last()
                scope = None
            if single or self.called:
                return True

    def _call_backs(self, task: Future[Any]) -> None:
        self._be_busy()  # if a callback was added at the last moment
        try:
            task._call_backs()
        except BaseException:
            tell(logger.critical, "callback of %r raised", task)
        if self.extras and self.fn is None:
            self._drop_extras()

    def _be_busy(self) -> None:
        """Before what may take long: be idle no more, and pass on a task submitted to the idle worker this seemed."""
        if self.announced:
            self.announced = False
            if not self._retract():
                self._pass_on()

    def _pass_on(self) -> None:
        """What this worker was woken for is another one's to do, as this one has other things to do first."""
        if self.queue.has_tasks():
            self.queue.wake()

    def run_in_place(self, task: Future[Any]) -> None:
        """Run `task`, which a task of this worker waits for, unless it has begun."""
        try:
            if task._only is not None:
                self._forbid_wait(task)
            elif task._token:
                self.queue.leave_entry(task)
                if self._run_inside(task):
                    self.queue.sweep_if_due()
                else:
                    self.queue.entry_stays(task)
        finally:
            del task  # as in `run`

    def run_inline(self, task: Future[Any]) -> None:
        """Run `task`, which has no place in the full backlog, inside the task that submits it."""
        self.inline += 1
        try:
            self._run_inside(task)
        finally:
            self.inline -= 1
            del task  # as in `run`

    def _run_inside(self, task: Future[Any]) -> bool:
        headroom()
        outer, self.floors = self.floors, {slot: slot.lent for slot in self.slots.values() if slot.lent}
        try:
            return self.run(task, True)
        finally:
            self.floors = outer
            del task  # as in `run`

    def _run_broadcasts(self) -> None:
        breakage = self.queue.breakage
        while self.broadcasts:
            try:
                task = self.broadcasts.popleft()
            except IndexError:
                return  # cancelled
            if breakage is None:
                self._be_busy()
                self.run(task)
            elif task._begin():
                task._unheeded = True
                self._fail(task, breakage())
            del task

    def _forbid_wait(self, task: Future[Any]) -> None:
        """`task` runs between the tasks of one worker: raise when that is this one, which would wait for itself."""
        if task._only is self and task._token:
            raise RuntimeError(
                f"{self.thread.name} is to run {task!r} of a broadcast when the task that waits for it has ended: "
                "wait outside of the pool's workers"
            )

    # States

    def _slot(self, binding: Binding) -> Slot:
        try:
            return self.slots[binding]
        except KeyError:
            pass
        binding.holders[self] = None
        if binding.term is not None and binding.term.over:
            if binding not in self.tearing:
                binding.holders.pop(self, None)
            raise RuntimeError(f"the scope of this view has ended, and with it the states made by {binding.name}")
        slot = self.slots[binding] = Slot(binding, self.counts)
        return slot

    def call_bound(
        self, binding: Binding, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call `fn(state, *args, **kwargs)` inside a task, with a state that no task of this worker holds."""
        slot = self._slot(binding)
        state = slot.lend()
        if slot.lent > 1:
            self.extras = True
        error = None
        try:
            return fn(state, *args, **kwargs)
        except BaseException as exc:
            error = exc
            raise
        finally:
            slot.take_back(error)
            del error, state  # no cycle from it by its traceback to this frame

    def lent_now(self, binding: Binding) -> Slot | None:
        """The slot of `binding`, if a state of it is lent to the task, or bound function, that calls this."""
        slot = self.slots.get(binding)
        return None if slot is None or slot.lent == self.floors.get(slot, 0) else slot

    def _drop_extras(self) -> None:
        """Tear down what was made for deeper levels of nesting: between tasks, a worker has one state a binding."""
        self.extras = False
        for slot in list(self.slots.values()):
            slot.drop_extras()

    def tear_down(self, binding: Binding) -> None:
        """Tear down this worker's states of `binding`."""
        late = self.tearing[binding] = []
        while (slot := self.slots.pop(binding, None)) is not None:  # a teardown may have led to another one
            slot.tear_down()
        del self.tearing[binding]
        binding.holders.pop(self, None)
        for request in late:
            request.done()

    # Sleeping

    def _park(self) -> bool:
        """Sleep until there may be something to do. False when the worker is to end, or has been idle for too long."""
        queue = self.queue
        if not self.announced:
            queue.idle[self] = None
        self.announced = False
        refused = queue.refusal is not None  # before the look at the tasks: a later submit sees it too, and withdraws
        self.inbox.extend(())  # locks it, see `ask`
        self.broadcasts.extend(())
        if not (queue.has_tasks() or self.inbox or self.broadcasts or refused):
            return self._sleep_idle()
        self._retract()
        queue.look_at_peak()
        return bool(queue.front or queue.tasks or self.inbox or self.broadcasts or not refused)

    def _sleep_idle(self) -> bool:
        """Sleep until somebody takes this worker out of `idle`; False when nobody does for `idle_timeout` seconds."""
        queue = self.queue
        timeout = queue.idle_timeout
        self.asleep = HAS_GIL
        if timeout is None:
            self._sleep()
        # A submit that saw this worker idle, and another one on its way, may have left its task to the two of them.
        elif not self._sleep(timeout=timeout) and self._retract() and not queue.has_tasks():
            self.asleep = False
            return False
        self.asleep = False
        queue.arrived(self)
        queue.look_at_peak()
        return True

    def _retract(self) -> bool:
        """Be idle no more. False when somebody has taken this worker out of `idle`, and so counts on it."""
        try:
            del self.queue.idle[self]
        except KeyError:
            self._sleep()  # not for long: the lock is released in the step that took it out
            return False
        return True

    def sleep(self, waiter: Waiter, timeout: float | None) -> bool:
        """`waiter.wait(timeout)` in a task of this worker. Returns also when a request came in."""
        outer, self.waiter = self.waiter, waiter
        try:
            self.inbox.extend(())  # locks it, see `ask`
            self._answer()
            return waiter.wait(timeout)
        finally:
            self.waiter = outer

    def ask(self, request: Request) -> None:
        """Have `request` answered in this worker's thread; from any thread.

        The worker looks at its inbox after it has entered `queue.idle`, set `waiter` or set `dead`; this looks at
        those after it has put the request in. The one that locks the inbox second sees the other.
        """
        self.inbox.append(request)
        self.called = True
        if self.dead:
            try:
                self.inbox.remove(request)
            except ValueError:
                return  # answered after all
            request.done()
            return
        waiter = self.waiter
        if not self.rouse() and waiter is not None:
            waiter.wake()

    def rouse(self) -> bool:
        """Wake this worker if it is idle, to look at what it alone is to do."""
        try:
            del self.queue.idle[self]
        except KeyError:
            return False
        try:
            self.release()  # one step with `del`
        except RecursionError:  # as in `TaskQueue._wake_idle`
            self.queue.idle[self] = None
            raise
        return True

    def _answer(self) -> None:
        while self.inbox:
            self.inbox.popleft().answer(self)
            self.inbox.extend(())  # locks it: the answer may have waited, and set `waiter` back since, see `ask`

    # Ending

    def _leave(self) -> bool:
        """Tear down, and leave the pool. False when there are tasks meanwhile, for which this worker starts anew.

        Until it has torn down it counts as one of the pool's workers, and its states as theirs: there are never more
        of either than `max_workers`. So there may have been nobody else for a task that came meanwhile.
        """
        queue = self.queue
        if queue.forked:  # this is a child process, and the states are the parent's
            return True
        while not self._stop_broadcasts():
            if queue.breakage is None:
                return False
            self._run_broadcasts()
        self._tear_down_all()
        if queue.breakage is not None or queue.retire(self):
            return True
        self._answer()  # a scope that ended meanwhile is not to wait for those tasks
        return False

    def _stop_broadcasts(self) -> bool:
        """False when there are some to run first."""
        with self.queue.lock:
            self.leaving = not self.broadcasts
        return self.leaving

    def drop_broadcasts(self) -> None:
        """Nobody will run them: the thread did not start, or has ended by a bug."""
        while not self._stop_broadcasts():
            with suppress(IndexError):  # cancelled meanwhile
                self.broadcasts.popleft().cancel()

    def _tear_down_all(self) -> None:
        while self.slots:  # a teardown may have led to new ones
            for binding in reversed(list(self.slots)):
                self.tear_down(binding)

    def _end(self) -> None:
        if not self.queue.forked:
            self._tear_down_all()  # nothing is left to do here, nor in the next two lines, but after a bug
            self.drop_broadcasts()
            self.dead = True
            self.inbox.extend(())  # locks it, see `ask`
            self._answer()
        here.worker = None
        self._say_ended()


def _new_thread(target: Callable[[], None]) -> threading.Thread:
    if sys.version_info >= (3, 14):
        # Free-threaded builds would start it in a copy of the creator's context, and keep that alive.
        from contextvars import Context

        return threading.Thread(target=target, daemon=False, context=Context())
    return threading.Thread(target=target, daemon=False)
