"""Rounds that alternate between ours and theirs, and a line for each question."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence

Measure = Callable[[], float]  # one round: seconds, or bytes; less is better
Unit = Callable[[float], str]  # a figure for a person

_missed: list[str] = []


def noop() -> None:
    pass


def noop_with(state: object) -> None:
    pass


def arguments(question: str | None, *, rounds: int, tasks: int) -> argparse.Namespace:
    """Parse the command line, and say what is being measured where."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--rounds", type=int, default=rounds, help="pairs of ours and theirs (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=tasks, help="tasks in a round (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    gil = ", free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    print(f"{platform.python_implementation()} {platform.python_version()}{gil}, {_cores()} cores; ", end="")
    print(f"{options.rounds} rounds of {options.tasks:,} tasks, ours and ThreadPoolExecutor in turn")
    print("ratio = theirs / ours, median (and quartiles) of the rounds: above 1, ours is faster or smaller")
    return options


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes, started with no garbage about."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(label: str, ours: Measure, theirs: Measure, *, rounds: int, bar: float | None, each: Unit) -> None:
    """Run `rounds` pairs after one that doesn't count, swapping who goes first, and print the ratios."""
    ours(), theirs()
    mine, others = [], []
    for number in range(rounds):
        if number % 2:
            others.append(theirs())
            mine.append(ours())
        else:
            mine.append(ours())
            others.append(theirs())
    report(label, mine, others, bar=bar, each=each)


def report(label: str, ours: Sequence[float], theirs: Sequence[float], *, bar: float | None, each: Unit) -> None:
    """Print the median of the ratios of `theirs` to `ours`, pair by pair; `each` says what a figure is for a person."""
    ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    median = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (median, median, median)
    figures = f"{each(statistics.median(ours))} against {each(statistics.median(theirs))}"
    reached = verdict(label, bar, median)
    print(f"{label:<44}{median:7.2f}  ({low:.2f} to {high:.2f})  {reached:<20}{figures}", flush=True)


def verdict(label: str, bar: float | None, ratio: float) -> str:
    """Whether `ratio` reaches `bar`; `finish` remembers those that don't."""
    if bar is None:
        return "no bar"
    return _verdict(label, f"bar {bar:g}", ratio >= bar)


def verdict_below(label: str, bar: float, figure: float, unit: str) -> str:
    """As `verdict`, where less is better."""
    return _verdict(label, f"bar: below {bar:g} {unit}", figure < bar)


def _verdict(label: str, bar: str, reached: bool) -> str:
    if not reached:
        _missed.append(label)
    return f"{bar} {'reached' if reached else 'MISSED'}"


def finish(options: argparse.Namespace) -> None:
    """Exit: with 1 when a bar was missed and `--check` was given."""
    sys.exit(1 if options.check and _missed else 0)


def workers_of(number: int) -> str:
    return f"{number} worker{'s' * (number != 1)}"


def micros(tasks: int) -> Unit:
    """Seconds for that many tasks, as microseconds for one."""
    return lambda total: f"{total / tasks * 1e6:.2f} µs"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
