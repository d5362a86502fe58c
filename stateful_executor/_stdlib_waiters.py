"""What `concurrent.futures.wait` and `as_completed` see of a future, without a lock that Ctrl-C could leave held."""

from __future__ import annotations

import logging
import threading
import weakref

from ._current import sleep_until
from ._naming import tell
from ._parker import Parker
from ._phases import CANCELLED_AND_NOTIFIED, FAILED, FINISHED, shown
from ._typing import Any, Protocol

logger = logging.getLogger("concurrent.futures")


class _Watched(Protocol):
    """A future, as far as this module needs one."""

    _phase: str

    def done(self) -> bool: ...


class StdlibWaiterAdapter:
    """What `concurrent.futures.wait` and `as_completed` take for the condition of a future, and for its waiters.

    They acquire the condition, look at `_state` more than once, append a waiter, and release; the thread that ends the
    task tells the waiters. Nothing is locked here meanwhile. Were it locked, Ctrl-C in their Python code could leave it
    so, and the thread that ends the task, a worker say, would wait for ever. Instead a thread that has acquired goes on
    seeing the state of that moment, and a waiter that it appends is told of an end that came since.

    `_seen`
        a stack of states for each thread, which touches no other.
    `_claims`
        for each waiter a list with one item: the right to tell it, taken by who does. Guarded by the dict's own lock.

    No waiter is missed: who appends enters the waiter in `_claims`, then looks at the phase; who ends the task writes
    the phase, then looks at `_claims`. Whoever comes second finds what the other has written.
    """

    def __init__(self, future: _Watched) -> None:
        self._seen: dict[int, list[str]] = {}
        self._claims: dict[Any, list[None]] = {}
        self._future = weakref.ref(future)  # no cycle: a future goes when its last user lets it go

    # As a condition

    def acquire(self, *_: object) -> bool:
        """Let this thread see the state as it is now, until it releases."""
        future = self._future()
        if future is not None:  # it is not: the caller has it
            self._seen.setdefault(threading.get_ident(), []).append(shown(future._phase))
        return True

    def release(self) -> None:
        """After Ctrl-C before this, what was seen is left: the next one that acquires sees anew."""
        me = threading.get_ident()
        states = self._seen.get(me)
        if states is not None:
            states.pop()
            if not states:
                del self._seen[me]

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def seen(self, phase: str) -> str:
        """The state when this thread acquired, or `phase`."""
        states = self._seen.get(threading.get_ident())
        return states[-1] if states else phase

    # As a list of waiters

    def __len__(self) -> int:
        return len(self._claims)

    def append(self, waiter: Any) -> None:
        """Tell `waiter`, once, when the task ends, or has ended without this thread having seen that."""
        future = self._future()
        if future is None:
            return
        if type(getattr(waiter, "event", None)) is threading.Event:
            waiter.event = _Event()
        told_by_its_state = self.seen(shown(future._phase)) in (FINISHED, CANCELLED_AND_NOTIFIED)
        self._claims[waiter] = [] if told_by_its_state else [None]
        if future.done():
            self.wake()

    def remove(self, waiter: Any) -> None:
        """Forget a waiter."""
        del self._claims[waiter]

    def wake(self, _: object = None) -> None:
        """The task has ended: tell who waits. May be called again, also after it was interrupted."""
        future = self._future()
        if future is None:
            return
        for waiter, claim in self._claims.copy().items():
            try:
                del claim[0]
            except IndexError:
                continue
            try:
                if future._phase == CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(future)
                elif future._phase == FAILED:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
            except _BROKEN:  # Ctrl-C has ended that wait, and left it so: nobody waits there any more
                tell(logger.debug, "who waited for %r can't be told of its end", future)


# What the waiters of the standard library raise then.
_BROKEN = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Event:
    """In place of the `threading.Event` on which `wait` and `as_completed` sleep, in the thread that made it.

    Ctrl-C in the Python code of that one can leave its lock held, and then who ends the task would wait for ever.
    """

    def __init__(self) -> None:
        self._parker: Parker = Parker()
        self._is_set: bool = False

    def set(self) -> None:
        """From any thread."""
        self._is_set = True
        self._parker.wake()

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set before `timeout` seconds had passed."""
        return sleep_until(self.is_set, self._parker, timeout)
