"""One thread of the pool, from its start to its end. Holds the registry, never the pool."""

from __future__ import annotations

import _thread
import logging
from collections.abc import Callable
from contextlib import suppress

from ._coming import never_came, start_next
from ._current import current
from ._interrupts import in_new_thread
from ._naming import tell
from ._registry import Registry
from ._runner import Runner
from ._startup import Startup, fail, fail_all

logger = logging.getLogger("concurrent.futures")


class Worker(Runner):
    """A thread's whole life in the pool: make the own state, serve, tear down, leave. Strictly private.

    What is shared is in its bases, which say what guards it: `PoolThread` (start and end), `Parked` and `Mailbox`
    (asleep, and asked), `Runner` (tasks). SIGINT is for the main thread (of which this is a greenlet under gevent); but
    other threads may throw an exception into this one, see `_interrupts`. Wherever that comes, outside of a task: the
    task that the worker had fails with it, its states are torn down, and the worker leaves the pool, or begins anew
    when there are tasks. Whoever relied on it to take a task, or to wake others, is made good by `_recover`. Every step
    from there on may be begun again.
    """

    def __init__(self, registry: Registry, startup: Startup) -> None:
        super().__init__(registry)
        self._startup = startup
        self._failed: bool = False  # something was raised outside of a task
        self._over: bool = False

    def _run_worker(self) -> None:
        while True:
            try:  # twice, as in `Scope.__exit__`
                while True:
                    try:
                        if self._over:
                            return
                        self._work()
                    except BaseException as exc:
                        self._failed = True
                        # In another thread: were this one cut off again in there, a lock of `logging` would stay held.
                        _thread.start_new_thread(in_new_thread, (_say_failed, self.thread.name, exc))
            except BaseException:
                self._failed = True

    def _work(self) -> None:
        current.worker = self
        if self in self.registry.workers.coming:
            start_next(self.registry, self)
        leaving = self._failed and self._recover()
        while not leaving:
            if self._startup.run(self):
                self._serve()
            else:
                self.registry.workers.serves(self)
            leaving = self._leave()
        self._end()

    def _recover(self) -> bool:
        """Leave nothing half done. True when the worker is to leave."""
        if self.registry.forked:
            return True
        self._be_awake()
        self.registry.workers.has_come(self)  # it may have been cut off in there
        self.registry.workers.serves(self)
        if self.registry.close_reason is not None:
            self.registry.idle.wake_next()  # as in `Mailbox._sleep_idle`, in which this worker may have been
        self.states.tear_down_all()
        self._end_cut_off()
        self._failed = False
        self.registry.notify_if_work_pending()
        return self._leave()

    # Serving

    def _serve(self) -> None:
        """Run tasks until there will be none, or have been none for `idle_timeout` seconds, or it is one too many."""
        self.registry.workers.serves(self)
        self.registry.run_queue.update_high_water()
        while (ran := self.run()) or self._park():
            if self.has_mail:
                self.has_mail = False  # before the look, so that what is asked meanwhile is not missed
                self.inbox.extend(())  # locks it, see `Mailbox`
                self.broadcasts.extend(())
                if self._cut_off:  # in a task that ran inside another one, which went on
                    self._end_cut_off()
            if self.inbox or self.broadcasts:
                self._see_to_mail(ran)
            dismissed = self.registry.workers.too_many and self._is_dismissed()
            if dismissed or (self._startup.may_lose_state and self._has_lost_state()):
                return

    def _see_to_mail(self, ran: bool) -> None:
        if self.listed_idle:
            self._be_busy()
        elif not ran:  # it may have been woken for a task, and asked for something else before it came to that
            self._pass_on()
        if self.inbox:
            self._answer()
        if self.broadcasts:
            self._run_broadcasts()

    def _has_lost_state(self) -> bool:
        """Whether the own state is lost: another one is made before this worker takes a task, which may take long."""
        if not self._startup.has_lost_state(self):
            return False
        self._be_busy()
        self._pass_on()
        self.states.tear_down_all()  # nobody is to wait for that until then
        self.has_mail = True  # there may be broadcasts
        return True

    def _run_broadcasts(self) -> None:
        while self.broadcasts:
            if self._startup.may_lose_state and self._has_lost_state():
                return
            self._be_busy()
            self.run(queue=self.broadcasts)

    def _fail_broadcasts(self, breakage: Callable[[], Exception]) -> None:
        while not self._stop_broadcasts():
            with suppress(IndexError):  # cancelled
                task = self.broadcasts[0]
                fail(self.registry, task, breakage(), silenced=True)
                self.forget_broadcast(task)

    # Ending

    def _is_dismissed(self) -> bool:
        """Whether this worker is to leave, since it is one too many; what it was woken for is another one's to do."""
        if not self.registry.workers.dismiss(self):
            return False
        self._be_busy()
        self._pass_on()
        return True

    def _leave(self) -> bool:
        """Tear down, and leave the pool. False when there are tasks meanwhile, for which this worker starts anew.

        Until it has torn down it counts as one of the pool's workers, and its states as theirs: there are never more
        of either than `max_workers`. So there may have been nobody else for a task that came meanwhile.
        """
        registry = self.registry
        if registry.forked:  # this is a child process, and the states are the parent's
            return True
        breakage = registry.workers.breakage
        if breakage is not None:
            self._fail_broadcasts(breakage)  # for which a teardown may wait
        elif self.states.slots and not self._stop_broadcasts():
            return False
        self.states.tear_down_all()
        if breakage is not None:
            fail_all(registry, breakage)  # it may have been cut off in there
        if breakage is not None or registry.workers.retire(self):
            registry.waits.look()  # this may have been the last one not to wait
            return True
        self._answer()  # a scope that ended meanwhile is not to wait for those tasks
        return False

    def _end(self) -> None:
        if not self.registry.forked:
            self.dead = True
            self.inbox.extend(())  # locks it, see `Mailbox`
            self._answer()
        current.worker = None
        self._over = True

    def has_ended(self) -> None:
        """As `PoolThread` has it."""
        self.registry.workers.has_ended(self)
        if self.registry.close_reason is not None:
            self.registry.idle.wake_next()

    def never_came(self, error: Exception | None) -> None:
        """As `PoolThread` has it."""
        never_came(self.registry, self, error)


def _say_failed(name: str, error: BaseException) -> None:
    tell(
        logger.critical,
        "worker %s met an exception outside of its tasks, thrown into its thread or by a bug in stateful_executor: it "
        "tears down its states, and begins anew if there are tasks",
        name,
        exc_info=error,
    )
