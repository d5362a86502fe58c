"""A worker asleep: idle, or while a task of its waits; and what others ask of it meanwhile."""

from __future__ import annotations

from contextlib import suppress
from itertools import repeat

from ._future import Future
from ._idle import Parked
from ._interrupts import HAS_GIL, locked
from ._parker import Parker
from ._registry import Registry
from ._states import Owner, Request
from ._task import Task
from ._typing import Any
from ._workers import PoolWorker


class Mailbox(Parked, PoolWorker, Owner):
    """The part of a worker that sleeps, and that others address. Strictly private.

    `inbox`, `broadcasts`
        requests to answer, and tasks for this worker only, run between others. Guarded by their own locks; who adds to
        `broadcasts` holds `Workers.lock` as well.
    `has_mail`
        set by any thread after it has added to either, or by `nudge`; cleared by the worker before it looks.
    `leaving`
        takes no more broadcasts, and is none of those who stay. Guarded by `Workers.lock`.
    `dead`
        answers no more; once set it stays set.
    `parker`
        what a task of this worker sleeps on, None while none does.
    The worker's own thread writes the last two.

    An idle worker is woken by who takes it out of `Idle.workers`: a submit, `Registry.notify_if_work_pending`, a
    compaction, `Registry.close`, a broadcast, a request, `resize`; or by its `idle_timeout`. A task that sleeps is
    woken by what it waits for, or by a request. No request is missed:

        who     publishes                                           meets at (locks)  then looks at
        asker   adds to `inbox`                                     `inbox`           `dead`, `parker`, `Idle.workers`
        worker  enters `Idle.workers`, or sets `parker`, or `dead`  `inbox`           what is in it
    """

    def __init__(self, registry: Registry) -> None:
        Parked.__init__(self)
        PoolWorker.__init__(self, registry.name, daemon=registry.exit_timeout is not None)
        self.registry = registry
        self.inbox: list[Request] = []
        self.broadcasts: list[Future[Any]] = []
        self.has_mail: bool = False
        self.leaving: bool = False
        self.dead: bool = False
        self.parker: Parker | None = None

    # Idle

    def _park(self) -> bool:
        """Sleep until there may be something to do. False when the worker is to end, or has been idle for too long."""
        registry = self.registry
        if not self.listed_idle:
            registry.idle.workers[self] = None
            self.listed_idle = True  # one step with the line before
        # Before the look at the tasks: a later submit sees it, and withdraws.
        closed = registry.close_reason is not None
        self.inbox.extend(())  # locks it, see above
        self.broadcasts.extend(())
        if not (
            registry.run_queue.has_entries() or self.inbox or self.broadcasts or closed or registry.workers.too_many
        ):
            return self._sleep_idle()
        self._retract()
        registry.run_queue.update_high_water()
        return self._has_work() or not closed

    def _sleep_idle(self) -> bool:
        """Sleep until somebody takes this worker out of `Idle.workers`; False when `idle_timeout` seconds passed."""
        registry = self.registry
        timeout = registry.idle_timeout
        # Without a GIL those that are woken run at once, and may have destructors to run first, of objects that they
        # made: nobody is relied on then, see `Idle.searching`.
        self.asleep = HAS_GIL
        if timeout is None:
            self._block()
        # A submit that saw this worker idle, and another one searching, may have left its task to the two of them.
        elif not self._block(timeout) and self._retract() and not registry.run_queue.has_entries():
            self.asleep = False
            return False
        self.asleep = False
        if registry.close_reason is not None:
            if not (self._has_work() or self.states.slots):
                return False
            registry.idle.wake_next()  # it may take long until this worker leaves
        registry.idle.arrived(self, self._has_work(), registry.run_queue.entries)
        registry.run_queue.update_high_water()
        return True

    def _has_work(self) -> bool:
        run_queue = self.registry.run_queue
        return bool(run_queue.head or run_queue.tail or self.inbox or self.broadcasts)

    def _retract(self) -> bool:
        """Be idle no more. False when somebody has taken this worker out of `Idle.workers`, and so counts on it."""
        try:
            del self.registry.idle.workers[self]
            self.listed_idle = False  # one step with `del`
        except KeyError:
            self._block()  # not for long: who took it out releases the lock in the same step
            return False
        return True

    def _be_busy(self) -> None:
        """Before what may take long: be idle no more, and pass on a task submitted to the idle worker this seemed."""
        if self.listed_idle and not self._retract():
            self._pass_on()

    def _pass_on(self) -> None:
        """What this worker was woken for is another one's to do, as this one has other things to do first."""
        if self.registry.run_queue.has_entries():
            self.registry.wake()

    # Requests

    def sleep(self, parker: Parker, timeout: float | None) -> bool:
        """`parker.park(timeout)` in a task of this worker. Returns also when a request came in."""
        outer, self.parker = self.parker, parker
        try:
            self.inbox.extend(())  # locks it, see above
            self._answer()
            return parker.park(timeout)
        finally:
            self.parker = outer

    def ask(self, request: Request) -> None:
        """Have `request` answered in this worker's thread; from any thread. A worker that has ended is done with it."""
        self.inbox.append(request)
        self.has_mail = True
        if self.dead:
            try:
                self.inbox.remove(request)
            except ValueError:
                return  # answered after all
            request.done()
            return
        parker = self.parker
        if not self.registry.idle.wake(self) and parker is not None:
            parker.wake()

    def _answer(self) -> None:
        while self.inbox:
            try:
                for request in map(list.pop, repeat(self.inbox), (0,)):  # noqa: B007  # by a loop, see `RunQueue.serve`
                    break
                else:
                    return
            except IndexError:  # whoever asked has found that this worker is dead, and taken it back
                return
            try:
                request.answer(self)
            except BaseException:  # thrown into this thread: it is answered again, when this worker next looks
                self.inbox += (request,)
                self.has_mail = True
                raise
            self.inbox.extend(())  # locks it: the answer may have waited, and set `parker` back since

    def nudge(self) -> None:
        """As `PoolWorker` has it; from any thread."""
        self.has_mail = True
        self.inbox.extend(())  # locks it, see `Workers`
        self.registry.idle.wake(self)

    # Broadcasts

    def take_broadcast(self, task: Future[Any]) -> bool:
        """As `PoolWorker` has it; from any thread."""

        def take() -> bool:
            if self not in self.registry.workers.live or self.leaving or self.registry.close_reason is not None:
                return False
            self.broadcasts.append(task)
            self.has_mail = True
            return True

        taken = locked(self.registry.workers.lock, take)
        if taken:
            self.registry.idle.wake(self)
        return taken

    def forget_broadcast(self, task: Task[Any]) -> None:
        """As `PoolWorker` has it; from any thread."""
        with suppress(ValueError, IndexError):  # it has been taken, or is just being taken
            self.broadcasts.remove(task)  # type: ignore[arg-type]  # a task of a broadcast is a future

    def drop_broadcasts(self) -> None:
        """As `PoolWorker` has it."""
        while not self._stop_broadcasts():
            with suppress(IndexError):  # cancelled meanwhile
                task = self.broadcasts[0]
                task.cancel()
                self.forget_broadcast(task)

    def _stop_broadcasts(self) -> bool:
        """Take no more broadcasts. False when there are some to run first."""

        def stop() -> bool:
            self.leaving = not self.broadcasts
            return self.leaving

        return locked(self.registry.workers.lock, stop)

    # Cut off

    def _be_awake(self) -> None:
        """After an exception was thrown into this thread, wherever it was: be idle no more, and relied on by nobody."""
        if self.listed_idle:
            self._retract()
        self.asleep = False
        if self.searching:  # written by who took this worker out, before the release for which `_retract` has waited
            self.searching = False
            self.registry.idle.searching = False
