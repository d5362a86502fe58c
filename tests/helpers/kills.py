"""Workers killed at random while tasks run, and what has to hold then; for seconds in a test, for longer by hand."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinds import Notes, State, begin
from threads import PATIENCE

from stateful_executor import InitializerError, WorkerLost

dice = random.Random()  # noqa: S311  # for no secret


@dataclass
class Report:
    """What came of it."""

    kills: int
    tasks: int
    lost: int
    unmade: int  # killed while it made the state

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.kills} kills, {self.lost} tasks lost, {self.unmade} states not made"


def count(state: State | None, notes: Notes, number: int, seconds: float) -> int:
    """A task: it notes that it has begun."""
    if state is not None:
        state.tasks.append(number)
    notes.add(number)
    if seconds:
        time.sleep(seconds)
    return number


def kill_a_child() -> int:
    """Kill one of the child processes, if there are any; how many."""
    children = multiprocessing.active_children()
    try:
        return int(bool(children) and kill(dice.choice(children).pid))
    except ValueError:  # its worker has just closed the process object
        return 0


def kill(pid: int | None) -> bool:
    """False when there is no such process any more."""
    assert pid
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def storm(
    make: Callable[..., Any],
    folder: Path,
    seconds: float,
    pause: float = 0.15,
    strike: Callable[[], int] = kill_a_child,
) -> Report:
    """Submit tasks for `seconds`, `strike` a worker now and then, and check what each task came to.

    `strike` returns how many workers it has hit at most.
    """
    notes = Notes(folder / "begun")
    over = threading.Event()
    kills: list[int] = []
    killer = threading.Thread(target=_strike_at_random, args=(over, kills, pause, strike))
    futures: deque[Future[int]] = deque()
    numbers = iter(range(1 << 60))
    with make(3, initializer=begin, max_backlog=20) as pool:
        assert pool.submit(os.getpid).result(PATIENCE)  # else a kill may break it
        views = [pool.with_state(), pool.with_state(begin, (None, "other"))]
        killer.start()
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                number = next(numbers)
                if number % 3 == 2:
                    futures.append(pool.submit(count, None, notes, number, dice.choice([0, 0, 0.003])))
                else:
                    futures.append(views[number % 3].submit(count, notes, number, dice.choice([0, 0, 0.003])))
        finally:
            over.set()
            killer.join()
        errors = [(number, future.exception(PATIENCE)) for number, future in enumerate(futures)]
        assert pool.submit(os.getpid).result(PATIENCE)
    return _checked(errors, [future for future in futures if future.exception() is None], notes, sum(kills))


def _strike_at_random(over: threading.Event, kills: list[int], pause: float, strike: Callable[[], int]) -> None:
    while not over.wait(dice.uniform(0, 2 * pause)):
        kills.append(strike())


def _checked(
    errors: list[tuple[int, BaseException | None]], right: list[Future[int]], notes: Notes, kills: int
) -> Report:
    begun = Counter(map(int, notes.lines()))
    assert not [number for number, times in begun.items() if times > 1], "a task ran twice"
    assert all(begun[future.result()] == 1 for future in right)
    kinds = Counter(type(error) for _, error in errors)
    lost, unmade = kinds.pop(WorkerLost, 0), kinds.pop(InitializerError, 0)
    kinds.pop(type(None), None)
    assert not kinds, kinds
    assert lost + unmade <= kills
    return Report(kills=kills, tasks=len(errors), lost=lost, unmade=unmade)
