"""SIGINT at random moments of one kind of use, in an interpreter of its own: tests/helpers/storm.py scope_end 3000.

Each round is a fresh pool, one scenario in the main thread, one interrupt somewhere in it, and an account of what is
left. The interrupts are those of a timer, to which Python's handler of SIGINT answers.
With --once the scenario is repeated until a SIGINT from outside ends the process; `test_signals` sends that.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it stands in the folder of `inside` itself

from inside import inside

import stateful_executor
from stateful_executor import Scope, StatefulThreadPoolExecutor

PACKAGE = str(Path(stateful_executor.__file__).parent)
PATIENCE = 10  # seconds
HELD = 0.0005  # seconds that a task takes where the main thread is to wait for it


class Round:
    """One pool, and what has become of its tasks and states."""

    def __init__(self, **options: Any) -> None:
        self.made: list[int] = []
        self.torn_down: list[int] = []
        self.begun: list[None] = []
        self.ended: list[None] = []
        self.futures: list[Future[Any]] = []
        self.scope: Scope[Any] | None = None
        self.pool: StatefulThreadPoolExecutor[int] = StatefulThreadPoolExecutor(
            2, "storm", self.make, finalizer=self.tear_down, **options
        )

    def make(self) -> int:
        thread = threading.get_ident()
        self.made.append(thread)
        return thread

    def tear_down(self, thread: int) -> None:
        assert thread == threading.get_ident()
        self.torn_down.append(thread)

    def task(self, seconds: float = 0.0) -> None:
        """Take some time."""
        self.begun.append(None)
        time.sleep(seconds)
        self.ended.append(None)


# What the main thread does


def submitting(run: Round) -> None:
    """Submit, with places enough."""
    for _ in range(20):
        run.futures.append(run.pool.submit(run.task))


def blocked(run: Round) -> None:
    """Submit to a full backlog."""
    for _ in range(6):
        run.futures.append(run.pool.submit(run.task, HELD))


def results(run: Round) -> None:
    """Wait for results."""
    for _ in range(4):
        run.futures.append(run.pool.submit(run.task, HELD))
        run.futures[-1].result()


def scope_body(run: Round) -> None:
    """Submit in a scope, also for a state of the scope's own."""
    with run.pool.scope() as run.scope:
        view = run.scope.with_state(run.make, finalizer=run.tear_down)
        for _ in range(5):
            run.scope.submit(run.task)
            view.submit(lambda _: run.task())


def scope_end(run: Round) -> None:
    """Wait at the end of a scope."""
    with run.pool.scope() as run.scope:
        for _ in range(4):
            run.scope.submit(run.task, HELD)


def mapping(run: Round) -> None:
    """Take the results of maps, ordered and not."""
    for _ in run.pool.map(run.task, [HELD / 4] * 8, buffersize=3):
        pass
    for _ in run.pool.map_unordered(run.task, [HELD / 4] * 8, chunksize=2):
        pass


def shutting_down(run: Round) -> None:
    """Wait at the end of a `with` block of the pool."""
    with run.pool:
        for _ in range(4):
            run.futures.append(run.pool.submit(run.task, HELD))


def initializing(run: Round) -> None:
    """Wait for a worker that makes its state."""
    run.pool.with_state(lambda: time.sleep(2 * HELD)).submit(lambda _: run.task()).result()


BOUNDS = {submitting: 30, blocked: 1, scope_end: 1}
SCENARIOS = {
    fn.__name__: fn
    for fn in (submitting, blocked, results, scope_body, scope_end, mapping, shutting_down, initializing)
}


class Storm:
    """Rounds of one scenario, each with a SIGINT at a moment drawn from the time that it takes."""

    def __init__(self, scenario: Callable[[Round], None], interrupts: int, seed: int) -> None:
        self.scenario = scenario
        self.interrupts = interrupts
        self.dice = random.Random(seed)  # noqa: S311
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lines: set[tuple[CodeType, int]] = set()

    def run(self) -> None:
        """All rounds."""
        # By the system's timer: a thread that sends SIGINT runs when the main thread sleeps, and so meets it there.
        signal.signal(signal.SIGALRM, self.on_sigint)
        length = min(self.measured() for _ in range(5))
        while self.counts["interrupts"] < self.interrupts and not self.faults:
            run = Round(max_backlog=BOUNDS.get(self.scenario))
            signal.setitimer(signal.ITIMER_REAL, max(self.dice.random() * length * 1.1, 1e-6))
            error = self.attempt(run)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.check(run, error)
        self.counts["lines met"] = len(self.lines)

    def measured(self) -> float:
        """The seconds that the scenario takes."""
        run = Round(max_backlog=BOUNDS.get(self.scenario))
        start = time.perf_counter()
        self.scenario(run)
        length = time.perf_counter() - start
        run.pool.shutdown()
        return length

    def on_sigint(self, _: int, frame: FrameType | None) -> None:
        """Interrupt the scenario, and nothing else."""
        while frame is not None and frame.f_code is not self.scenario.__code__:
            frame = frame.f_back
        if frame is not None:
            raise KeyboardInterrupt

    def attempt(self, run: Round) -> KeyboardInterrupt | None:
        try:
            self.scenario(run)
        except KeyboardInterrupt as exc:
            self.counts["interrupts"] += 1
            return exc
        return None

    def check(self, run: Round, error: KeyboardInterrupt | None) -> None:
        """What the interrupt has left."""
        where = [frame for frame in walk(error) if frame[0].co_filename.startswith(PACKAGE)]
        self.counts["in the library"] += bool(where)
        self.lines.update(where[-1:])
        scope, registry = run.scope, inside(run.pool)
        begun = None
        if scope is not None and inside(scope).entered and not inside(scope).closed:
            self.counts["in Python's own window"] += 1  # see `Scope`
            code, line = where[-1] if where else (None, None)
            at_a_border = code is None or "_enter" in code.co_name or line == code.co_firstlineno
            self.expect(at_a_border, f"the scope is left without a join, by an interrupt in {code}, line {line}")
        elif scope is not None:
            begun = len(run.begun)
            self.expect(not inside(scope).pending, "the scope has ended before its tasks")
            self.expect(len(run.ended) == begun, "a task of the scope runs after its block")
        if registry.close_reason is None:
            self.expect(run.pool.submit(int).result(PATIENCE) == 0, "the pool works no more")
        run.pool.shutdown(timeout=PATIENCE)
        self.expect(begun is None or len(run.begun) == begun, "a task of the scope began after its block")
        self.expect(all(future.done() for future in run.futures), "a task is stranded")
        stats = run.pool.stats()
        self.expect(stats.submitted == stats.completed + stats.cancelled, f"not all is accounted for: {stats}")
        self.expect(sorted(run.made) == sorted(run.torn_down), "a state is left")
        if registry.free_permits is not None:
            self.expect(registry.permits_left() == registry.max_backlog, "a permit is lost")

    def expect(self, fact: bool, otherwise: str) -> None:
        if not fact:
            self.faults.append(f"round {self.counts['interrupts']}: {otherwise}")


def walk(error: BaseException | None) -> Iterator[tuple[CodeType, int]]:
    """The functions and lines of the traceback, outermost first."""
    traceback = error and error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def once(scenario: Callable[[Round], None]) -> None:
    """Repeat the scenario until SIGINT ends this process; at its very end, say what is left."""
    runs: list[Round] = []

    def account() -> None:
        made, torn_down, late = [], [], 0
        for run in runs:
            made += run.made
            torn_down += run.torn_down
            late += len(run.begun) - len(run.ended)
        print(json.dumps({"states left": len(made) - len(torn_down), "tasks cut off": late}), flush=True)

    atexit.register(account)
    print("ready", flush=True)
    while True:
        run = Round(max_backlog=BOUNDS.get(scenario))
        runs.append(run)
        scenario(run)
        run.pool.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("interrupts", type=int, nargs="?", default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(600, exit=True)
    if options.once:
        with suppress(AttributeError):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        once(SCENARIOS[options.scenario])
    storm = Storm(SCENARIOS[options.scenario], options.interrupts, options.seed)
    storm.run()
    print(json.dumps({"faults": storm.faults, **storm.counts}), flush=True)


if __name__ == "__main__":
    main()
