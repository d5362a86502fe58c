"""One thread of the pool, from its start to its end. Holds the registry, never the pool."""

from __future__ import annotations

import logging

from ._binding import Binding
from ._current import current
from ._naming import tell
from ._registry import Registry
from ._runner import Runner
from ._startup import Startup

logger = logging.getLogger("concurrent.futures")


class Worker(Runner):
    """A thread's whole life in the pool: make the own state, serve, tear down, leave. Strictly private.

    What is shared is in its bases, which say what guards it: `PoolThread` (start and end), `Parked` and `Mailbox`
    (asleep, and asked), `Runner` (tasks). SIGINT is for the main thread: nothing here is interrupted.
    """

    def __init__(self, registry: Registry, binding: Binding | None) -> None:
        super().__init__(registry)
        self._startup = Startup(self, registry, binding)

    def _run_worker(self) -> None:
        current.worker = self
        try:
            self._work()
        except BaseException:
            tell(logger.critical, "a bug in stateful_executor ended worker %s", self.thread.name)
        finally:
            self._end()

    def _work(self) -> None:
        leaving = False
        while not leaving:
            if self._startup.run():
                self._serve()
            leaving = self._leave()

    # Serving

    def _serve(self) -> None:
        """Run tasks until there will be none, or have been none for `idle_timeout` seconds, or it is one too many."""
        self.registry.run_queue.update_high_water()
        while (ran := self.run()) or self._park():
            if self.has_mail:
                self.has_mail = False  # before the look, so that what is asked meanwhile is not missed
                self.inbox.extend(())  # locks it, see `Mailbox`
                self.broadcasts.extend(())
            if self.inbox or self.broadcasts:
                if self.listed_idle:
                    self._be_busy()
                elif not ran:  # it may have been woken for a task, and asked for something else before it came to that
                    self._pass_on()
            if self.inbox:
                self._answer()
            if self.broadcasts:
                self._run_broadcasts()
            if self.registry.workers.too_many and self._is_dismissed():
                return

    def _run_broadcasts(self) -> None:
        breakage = self.registry.workers.breakage
        while self.broadcasts:
            try:
                task = self.broadcasts.popleft()
            except IndexError:
                return  # cancelled
            if breakage is None:
                self._be_busy()
                self.run(task)
            else:
                self._startup.fail(task, breakage(), popped=True, silenced=True)
            del task

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
        while not self._stop_broadcasts():
            if registry.workers.breakage is None:
                return False
            self._run_broadcasts()
        self.states.tear_down_all()
        if registry.workers.breakage is not None or registry.workers.retire(self):
            return True
        self._answer()  # a scope that ended meanwhile is not to wait for those tasks
        return False

    def _end(self) -> None:
        if not self.registry.forked:
            self.states.tear_down_all()  # nothing is left to do here, nor in the next two lines, but after a bug
            self.drop_broadcasts()
            self.dead = True
            self.inbox.extend(())  # locks it, see `Mailbox`
            self._answer()
        current.worker = None
