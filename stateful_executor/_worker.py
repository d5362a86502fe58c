"""Begin, lend, call, give back, finish, drop; then the next. Holds the queue, never the pool."""

from __future__ import annotations

import logging
import sys
import threading
from _thread import allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any

from ._future import FINISHED, RUNNING
from ._state import Binding, Slot, name_of
from ._waiter import Deadline, Waiter, headroom, here, sleep
from .errors import InitializerError

if TYPE_CHECKING:
    from ._future import Future
    from ._queue import TaskQueue

logger = logging.getLogger("concurrent.futures")


class Request:
    """Something asked of a worker, to be done in its thread between tasks, or while a task of its waits."""

    def __init__(self, waiter: Waiter, todo: dict[Request, None], binding: Binding) -> None:
        self._waiter = waiter
        self._todo = todo
        self._binding = binding
        todo[self] = None

    def answer(self, worker: Worker) -> None:
        """In the worker's thread."""
        late = worker.tearing.get(self._binding)
        if late is not None:  # asked inside that very teardown, which waits for something
            late.append(self)
            return
        worker.tear_down(self._binding)
        self.done()

    def done(self) -> None:
        """Tell who asked."""
        self._todo.pop(self, None)
        self._waiter.wake()


class Worker:
    """One thread of the pool, and what it owns. Strictly private.

    Only its own thread touches `slots`, `tearing`, `announced`, `extras` and `inline`, and writes `waiter`, `dead`,
    `ended` and `fn`, which others read. `inbox` is guarded by its own lock (see `ask`), `born` likewise: whoever takes
    its item decides whether the thread becomes a worker. SIGINT is for the main thread: nothing here is interrupted.
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
        self.waiter: Waiter | None = None  # what a task of this worker sleeps on
        self.announced: bool = False  # in `queue.idle` while still finishing a task
        self.slots: dict[Binding, Slot] = {}  # in the order made
        self.tearing: dict[Binding, list[Request]] = {}  # teardowns under way, and who asked for them meanwhile
        self.extras: bool = False  # a slot may have states for deeper levels of nesting
        self.inline: int = 0
        self.fn: object = None  # what it runs

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
        """Wait until this worker has ended, and its thread with it; False when `timeout` seconds passed before."""
        deadline = Deadline(timeout)
        waiter = Waiter()
        self.watchers.append(waiter)
        while not self.ended:
            if not sleep(waiter, deadline.left()):
                return False
        if not self.disowned:
            self.thread.join()  # a few instructions more
        return True

    def _say_ended(self) -> None:
        self.ended = True
        for waiter in list(self.watchers):  # who is not in it yet will see `ended`
            waiter.wake()

    def start(self) -> None:
        """Start the thread, or raise. Interrupted, it may start yet: see `disown`.

        `Thread.start` waits for the new thread on an `Event`. Ctrl-C in there can leave the event locked, and then the
        thread never gets past its start, nor the interpreter past its exit. Since signals are for the main thread,
        another one does it for that.
        """
        if threading.current_thread() is not threading.main_thread():
            self.thread.start()
            return
        errors: list[BaseException] = []
        waiter = Waiter()
        start_new_thread(self._start_thread, (errors, waiter))
        waiter.wait()
        if errors:
            raise errors.pop()

    def _start_thread(self, errors: list[BaseException], waiter: Waiter) -> None:
        try:
            self.thread.start()
        except BaseException as exc:
            errors.append(exc)
        finally:
            waiter.wake()

    def _live(self) -> None:
        try:
            del self.born[0]
        except IndexError:
            return
        here.worker = self
        try:
            if self._start():
                while self.run() or self._park():
                    if self.inbox:
                        self._answer()
        except BaseException:
            logger.critical("a bug in stateful_executor ended worker %s", self.thread.name, exc_info=True)
        finally:
            self._end()

    # Making the pool's own state

    def _start(self) -> bool:
        """Run the pool's initializer, before the first task. False when the pool is broken, or ends before it works.

        In a pool that has worked before, a failure is the next task's, and no more than that one's: for the one after
        it the initializer runs again.
        """
        if self.binding is None:
            return True
        error = self._make_own_state()
        with self.queue.lock:
            if error is None:
                self.queue.proven = not self.queue.broken
            elif not self.queue.proven:
                self.queue.broken = True
        if self.queue.broken:
            if error is not None:
                self._break(error)
            return False
        return error is None or self._start_again(error)

    def _start_again(self, error: InitializerError | None) -> bool:
        """Fail one task with `error`; for the next one try again, until the state is made. False when it is to end."""
        queue = self.queue
        while True:
            self._answer()
            if not (queue.front or queue.tasks):
                if not self._park():
                    return False
                continue
            # The task stays in the queue meanwhile: others may cancel it, or begin it.
            error = error or self._make_own_state()
            if error is None:
                return True
            if self._fail_next(error):
                error = None

    def _fail_next(self, error: InitializerError) -> bool:
        """Give `error` to the next task. False when there is none any more."""
        queue = self.queue
        while True:
            try:
                task = queue.front.popleft()
            except IndexError:
                if not queue.advance():
                    return False
                continue
            if task._begin():
                if task._placed:
                    queue.free_place(task)
                self._fail(task, error)
                return True
            queue.one_less_gone()

    @staticmethod
    def _fail(task: Future[Any], error: BaseException) -> None:
        try:
            task._fail(error)
        except BaseException:  # a callback's SystemExit
            logger.critical("callback of %r raised", task, exc_info=True)

    def _make_own_state(self) -> InitializerError | None:
        assert self.binding is not None
        slot = self._slot(self.binding)
        try:
            slot.lend()
            slot.lent -= 1
        except InitializerError as exc:
            return exc
        finally:
            self._drop_extras()
        return None

    def _break(self, error: InitializerError) -> None:
        """The pool's initializer failed before it ever succeeded: no task will ever run."""
        cause = error.__cause__
        logger.critical("Exception in initializer:", exc_info=cause)
        text = (
            f"{self.queue.name} is broken: its initializer raised {cause!r} before it had ever succeeded; "
            "the thread pool is not usable anymore"
        )

        def refusal() -> BrokenThreadPool:
            broken = BrokenThreadPool(text)
            broken.__cause__ = cause
            return broken

        self.queue.refuse(refusal)
        for task in self.queue.waiting_tasks():
            if task._begin():
                self.queue.left(task)
                self._fail(task, refusal())

    # Running

    def run(self, task: Future[Any] | None = None) -> bool:
        """Run the next task of the queue, or `task` inside the one that waits for it. False when there was none."""
        queue = self.queue
        nested = task is not None
        if task is None:
            if self.announced:
                return False
            try:
                task = queue.front.popleft()
            except IndexError:
                return queue.advance()
        try:
            del task._token[0]
        except IndexError:  # cancelled, or run in place by a worker that waits for it
            if not nested:
                queue.one_less_gone()
            return not nested
        task._phase = RUNNING
        if task._placed:
            task._placed = False
            queue.places.append(None)  # type: ignore[union-attr]  # as in `free_place`; a call less for every task
            if queue.submitters:
                queue.wake_submitter()

        fn, args, kwargs = task._fn, task._args, task._kwargs
        task._fn = task._kwargs = None
        task._args = ()
        binding, scope = task._binding, task._scope
        outer, self.fn = self.fn, fn
        result = error = slot = None
        try:
            if binding is not None:
                lender = self.slots.get(binding) or self._slot(binding)
                args = (lender.lend(), *args)
                slot = lender
                if slot.lent > 1:
                    self.extras = True
            result = fn(*args) if kwargs is None else fn(*args, **kwargs)  # type: ignore[misc]
        except BaseException as exc:
            # The traceback begins with the user's function. (That one's frame still refers to this one, its caller,
            # which is why every name for the task is dropped at the end: the error would be in a cycle with it.)
            error = exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
            task._name = name_of(fn)
        fn = kwargs = None
        args = ()
        self.fn = outer
        if slot is not None:
            slot.lent -= 1

        if not nested:
            if self.extras:
                self._drop_extras()
            if not queue.front and not task._callbacks and not self.inbox:
                # Be available before you announce: who sees the result and submits again finds this worker idle.
                queue.idle[self] = None
                self.announced = True
        if error is not None:
            task._exception = error
            if scope is not None:
                scope._failed(task)
        task._result = result
        task._phase = FINISHED
        task._token.clear()  # the anchor, see _future.py
        if task._watchers:
            task._wake_watchers()
        if task._callbacks:
            self._call_backs(task)
        if scope is None:
            task = result = error = None
        else:
            # The scope ends only after the last reference to a result that nobody keeps is gone.
            ticket = task._ticket
            task._scope = None
            scope._pending[ticket] = None
            task = result = error = None
            scope._ended(ticket)
            scope = None
        return True

    def _call_backs(self, task: Future[Any]) -> None:
        if self.announced:
            # A callback was added at the last moment. It may take long: be idle no more, and pass on a task that
            # somebody may have submitted to the idle worker that this one seemed to be.
            self.announced = False
            if not self._retract():
                self.queue.wake()
        try:
            task._call_backs()
        except BaseException:
            logger.critical("callback of %r raised", task, exc_info=True)

    def run_in_place(self, task: Future[Any]) -> None:
        """Run `task`, which a task of this worker waits for, unless it has begun."""
        try:
            headroom()
            if task._token and self.run(task):
                self.queue.left(task)
        finally:
            del task  # as in `run`

    def run_inline(self, task: Future[Any]) -> bool:
        """Run `task`, which has no place in the full backlog, inside the task that submits it."""
        headroom()
        self.inline += 1
        try:
            return self.run(task)
        finally:
            self.inline -= 1
            del task  # as in `run`

    # States

    def _slot(self, binding: Binding) -> Slot:
        try:
            return self.slots[binding]
        except KeyError:
            slot = self.slots[binding] = Slot(binding)
            binding.holders[self] = None
            return slot

    def _drop_extras(self) -> None:
        """Tear down what was made for deeper levels of nesting: between tasks, a worker has one state a binding."""
        self.extras = False
        for slot in list(self.slots.values()):
            slot.tear_down(keep=1)

    def tear_down(self, binding: Binding) -> None:
        """Tear down this worker's states of `binding`."""
        late = self.tearing[binding] = []
        slot = self.slots.pop(binding, None)
        if slot is not None:
            slot.tear_down()
        del self.tearing[binding]
        binding.holders.pop(self, None)
        for request in late:
            request.done()

    # Sleeping

    def _park(self) -> bool:
        """Sleep until there may be something to do. False when the worker is to end."""
        queue = self.queue
        if not self.announced:
            queue.idle[self] = None
        self.announced = False
        refused = queue.refusal is not None  # before the look at the tasks: a later submit sees it too, and withdraws
        self.inbox.extend(())  # locks it, see `ask`
        if not (queue.has_tasks() or self.inbox or refused):
            self._sleep()
            return True
        self._retract()
        return bool(queue.front or queue.tasks or self.inbox or not refused)

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
        if self.dead:
            try:
                self.inbox.remove(request)
            except ValueError:
                return  # answered after all
            request.done()
            return
        try:
            del self.queue.idle[self]
        except KeyError:
            if self.waiter is not None:
                self.waiter.wake()
        else:
            self.release()  # one step with `del`

    def _answer(self) -> None:
        while self.inbox:
            self.inbox.popleft().answer(self)

    # Ending

    def _end(self) -> None:
        if not self.queue.forked:  # else this is a child process, and the states are the parent's
            for binding in reversed(list(self.slots)):
                self.tear_down(binding)
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
