"""What a pool counts."""

from __future__ import annotations

import threading
import time

from ._interrupts import locked
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from ._dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class PoolStats:
    """A snapshot of what a pool does and has done, from `pool.stats()`.

    The first seven fields are of the moment, the others count from the pool's beginning, and never go down. While
    tasks move, figures taken one after the other may miss those that moved meanwhile, but count none twice; of a pool
    at rest they are exact, and then `submitted == completed + failed + cancelled`, and
    `states_made - states_torn_down` is the number of states there are.

    .. versionadded:: 0.1
    """

    workers: int
    """Threads that have started and not ended."""
    idle: int
    """Workers that wait for a task."""
    running: int
    """Tasks begun and not ended; a task that waits for another one in the same worker counts, and so does that one."""
    backlog: int
    """Tasks accepted and not begun."""
    peak_backlog: int
    """The most tasks seen in the backlog: by workers between two tasks, when one is cancelled, and by `stats()`."""
    blocked_submitters: int
    """Calls of `submit` and `asubmit` that wait for a place in the backlog."""
    seconds_blocked: float
    """Seconds that such calls have waited so far, all added up."""
    submitted: int
    """Tasks accepted: the sum of those in the backlog, running and ended, or what an earlier snapshot had seen if that
    was more, as one that is between two of these just then is missed. A task that `submit` is about to refuse may count
    until it has."""
    completed: int
    """Tasks that returned."""
    failed: int
    """Tasks that raised, or could not be run."""
    cancelled: int
    """Tasks cancelled before they began."""
    states_made: int
    """Initializers that succeeded, of the pool, its views and its scopes."""
    seconds_making: float
    """Seconds that initializers took, failed ones too, all added up."""
    states_discarded: int
    """States torn down to be replaced: by a policy, `discard` or `discard_all`."""
    states_torn_down: int
    """States torn down for whatever reason, discarded ones too."""
    teardown_errors: int
    """Teardowns among these that raised."""


class Counts:
    """What one worker has counted. Written by its thread only; the sum of ended workers with `Workers.lock` held."""

    # In the order in which `add` looks: a state is counted as made, then torn down, then discarded.
    __slots__ = ("completed", "discarded", "failed", "teardown_errors", "torn_down", "made", "seconds_making")  # noqa: RUF023

    def __init__(self) -> None:
        self.completed: int = 0
        self.failed: int = 0
        self.made: int = 0
        self.seconds_making: float = 0.0
        self.discarded: int = 0
        self.torn_down: int = 0
        self.teardown_errors: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of `other`."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


ONE: tuple[None] = (None,)
CARRIED: int = 1024


class Tally:
    """A count that any thread adds to with `tally.ones += ONE`: no lock, no call, hence one step with its neighbours.

    `ones` is guarded by its own lock, `_rest` is written by whoever holds the item of `_turn`.
    """

    __slots__ = ("_rest", "_turn", "ones")

    def __init__(self) -> None:
        self.ones: list[None] = []
        self._rest: int = 0
        self._turn: list[None] = [None]

    def carry(self) -> None:
        """Now and then, so that `ones` does not grow without end."""
        if len(self.ones) < CARRIED:
            return
        try:
            del self._turn[0]
        except IndexError:
            return  # another thread is at it
        try:
            number = len(self.ones)
            del self.ones[:number]
            self._rest += number  # one step with `del`
        finally:
            self._turn.append(None)

    def value(self) -> int:
        """How many there are."""
        number = 0
        for _ in range(1000):  # not for ever: a collection in `carry` may have led here, in the same thread
            rest = self._rest
            number = rest + len(self.ones)
            if self._turn and rest == self._rest:
                break
            time.sleep(0)
        return number


class PoolCounts:
    """What is counted elsewhere than in a worker, by tallies that are made when first needed.

    `_tallies`
        those that have been made. Guarded by the dict's own lock: of two made at once the first is everybody's.
    """

    __slots__ = ("_seen", "_tallies", "cancelled", "completed", "failed", "withdrawn")

    cancelled: Tally
    completed: Tally  # by hand, see `Future.set_result`
    failed: Tally
    withdrawn: Tally  # not accepted in the end, though they may have stood in the run queue

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._seen: tuple[int, float] = (0, 0.0)  # of the sums in `stats()`, the highest so far

    def __getattr__(self, name: str) -> Tally:
        if name not in PoolCounts.__slots__:
            raise AttributeError(name)
        tally = self._tallies.setdefault(name, Tally())
        setattr(self, name, tally)
        return tally

    def never_less(self, lock: threading.RLock, submitted: int, withdrawn: int, seconds: float) -> tuple[int, float]:
        """The sums, or what was said before if that is higher: a sum misses what is on its way from part to part.

        A task that is `withdrawn` may have been counted as submitted while it stood in the backlog.
        """

        def keep() -> tuple[int, float]:
            self._seen = max(self._seen[0], submitted + withdrawn), max(self._seen[1], seconds)
            return self._seen[0] - withdrawn, self._seen[1]

        return locked(lock, keep)
