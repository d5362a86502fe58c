"""What does it cost a task to be recorded by `stateful_executor.trace`, and what does it cost one that is not?

Microseconds of CPU time, which other programs of a shared machine change least, for one task that does nothing,
in bursts of 1,000. `off` comes twice, of a pool that was never recorded and of one
that was, before; `on` is recorded. Each pool does the same work in the same rounds, in turn; what is printed are the
differences, pair by pair: their median, and the quartiles.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from _paired import burst, in_turn, noop, noop_with, spread

from stateful_executor import StatefulThreadPoolExecutor, trace

BAR = 1.5  # µs
WORKERS = 4
BURST = 1000

Submit = Callable[[StatefulThreadPoolExecutor[Any]], Callable[..., Any]]

CASES: dict[str, tuple[dict[str, Any], Submit, Callable[..., object]]] = {
    "no-op": ({}, lambda pool: pool.submit, noop),
    "with a state": ({"initializer": list}, lambda pool: pool.with_state().submit, noop_with),
    "with a backlog of 1,000": ({"max_backlog": 1000}, lambda pool: pool.submit, noop),
    "a keyword": ({}, lambda pool: lambda fn: pool.submit(fn, end=""), print_nothing := lambda end: None),
    "copy_context": ({"copy_context": True}, lambda pool: pool.submit, noop),
}


def bursts(submit: Callable[..., Any], fn: Callable[..., object], tasks: int) -> None:
    for _ in range(tasks // BURST):
        burst(submit, fn, BURST)


def cpu_micros(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e6


def check(
    options: dict[str, Any], submit_of: Submit, fn: Callable[..., object], tasks: int, rounds: int
) -> list[float]:
    """The costs of one round after the other, in µs: of `off` again, and of `on`."""
    with ExitStack() as stack:
        never, before, recorded = (
            stack.enter_context(StatefulThreadPoolExecutor(WORKERS, **options)) for _ in range(3)
        )
        with trace.record(before):
            bursts(submit_of(before), fn, tasks)
        stack.enter_context(trace.record(recorded, limit=tasks * 2))
        measures = [
            lambda pool=pool: cpu_micros(lambda: bursts(submit_of(pool), fn, tasks)) / tasks
            for pool in (never, before, recorded)
        ]
        in_turn(measures, 1)
        off, again, on = in_turn(measures, rounds)
    print(f"  {'off':<24}{statistics.median(off):7.2f} µs", flush=True)
    for label, figures in ("off, recorded before", again), ("on", on):
        low, median, high = spread([one - other for one, other in zip(figures, off, strict=True)])
        print(f"  {label:<24}{median:+7.2f} µs  ({low:+.2f} to {high:+.2f})", flush=True)
    return [statistics.median(one - other for one, other in zip(on, off, strict=True))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument(
        "--check", action="store_true", help=f"exit code 1 when to be recorded costs more than {BAR} µs"
    )
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, {WORKERS} workers, {options.rounds} rounds of {options.tasks} tasks")
    missed = False
    for name, (arguments, submit_of, fn) in CASES.items():
        print(name)
        (cost,) = check(arguments, submit_of, fn, options.tasks, options.rounds)
        missed |= cost > BAR
    print("bar of", BAR, "µs", "MISSED" if missed else "kept")
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
