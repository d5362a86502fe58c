"""Rounds in which several things are measured in turn, and what their figures say about each other."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, NamedTuple, TypeVar

WORKERS = (1, 4, 16, 64)
MAX_BACKLOG = 1000

T = TypeVar("T")
Measure = Callable[[], float]  # one round: seconds, or bytes; less is better
Unit = Callable[[float], str]  # a figure for a person
Submit = Callable[..., Any]


def noop() -> None:
    pass


def noop_with(state: object) -> None:
    pass


def noop_with_two(state: object, item: object) -> None:
    pass


def burst(
    submit: Submit, fn: Callable[..., object], tasks: int, result: Callable[[Any], object] = methodcaller("result")
) -> None:
    """Submit them all, then take the result of each."""
    handles = [submit(fn) for _ in range(tasks)]
    for handle in handles:
        result(handle)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes, started with no garbage about."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(measures: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """The outcomes of each measure, one for each round: every other round runs them in reverse order."""
    outcomes: list[list[T]] = [[] for _ in measures]
    for number in range(rounds):
        pairs = list(zip(measures, outcomes, strict=True))
        for measure, outcome in reversed(pairs) if number % 2 else pairs:
            outcome.append(measure())
    return outcomes


class Spread(NamedTuple):
    """The middle half of some figures."""

    low: float
    median: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    return Spread(*statistics.quantiles(figures, n=4, method="inclusive"))


def compare(label: str, ours: Measure, theirs: Measure, *, rounds: int, each: Unit, bar: float = 0) -> bool:
    """Run `rounds` pairs after one that doesn't count, and print the ratios of `theirs` to `ours`, pair by pair.

    Whether their median reaches the bar.
    """
    in_turn([ours, theirs], 1)
    mine, others = in_turn([ours, theirs], rounds)
    low, median, high = spread([other / own for own, other in zip(mine, others, strict=True)])
    figures = f"{each(statistics.median(mine))} against {each(statistics.median(others))}"
    verdict = bar and f"  bar {bar:g} {'reached' if median >= bar else 'MISSED'}"
    print(f"{label:<44}{median:7.2f}  ({low:.2f} to {high:.2f})  {figures}{verdict or ''}", flush=True)
    return median >= bar


def ask(about: str | None, questions: dict[str, Callable[[int, int], bool]]) -> int:
    """What a script does that asks `questions`, each with a number of rounds and of tasks: the exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of rounds")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks in a round")
    parser.add_argument("--only", default=",".join(questions), help=f"some of {', '.join(questions)}")
    parser.add_argument("--check", action="store_true", help="fail when a bar is missed")
    options = parser.parse_args()
    good = [questions[name](options.rounds, options.tasks) for name in options.only.split(",")]
    return int(options.check and not all(good))


def workers_of(number: int) -> str:
    return f"{number} worker{'s' * (number != 1)}"


def micros(tasks: int) -> Unit:
    """Seconds for that many tasks, as microseconds for one."""
    return lambda total: f"{total / tasks * 1e6:.2f} µs"
