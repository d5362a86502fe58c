"""How does what a task costs grow: with workers, backlog, bindings, nesting, open scopes and submitting threads?

Every figure is microseconds for one task that does nothing, the median (and quartiles) of rounds in which all sizes,
ours and `ThreadPoolExecutor`'s, come in turn. The exponent is that of a power of the size fitted to the medians: 0 is
flat, 1 linear. No cost is a pure power, so the exponent from the last size but one to the last stands beside it.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import random
import statistics
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, islice, product
from threading import Barrier, Event, Thread
from time import perf_counter
from typing import Any, NamedTuple

from _paired import burst, in_turn, noop, noop_with, seconds, spread

from stateful_executor import StatefulThreadPoolExecutor

WORKERS = 4  # where their number is not what is asked about
FLAT, FLAT_END = 0.1, 0.3  # exponents up to these, of the whole curve and of its last step, are noise
OURS, STATEFUL, ANEW = "ours", "ours, with state", "ours, with_state(...) for each task"
THEIRS = "ThreadPoolExecutor"
COLOURS = {OURS: "tab:blue", STATEFUL: "tab:green", ANEW: "tab:green", THEIRS: "tab:orange"}

Pool = type[ThreadPoolExecutor]
Measure = Callable[[int], float]  # seconds for one task, at a size
Costs = dict[str, list[list[float]]]  # for each line and size, those of all rounds


class Question(NamedTuple):
    text: str
    each: str  # what one cost is of
    size: str
    sizes: Sequence[int]
    lines: dict[str, Measure]


def finish(futures: list[Future[Any]]) -> None:
    for future in futures:
        future.result()


def start_all(pool: ThreadPoolExecutor, workers: int) -> None:
    barrier = Barrier(workers)
    burst(pool.submit, barrier.wait, workers)


@contextmanager
def held(pool: ThreadPoolExecutor) -> Generator[None]:
    """Keep the only worker of `pool` from its backlog."""
    go = Event()
    pool.submit(go.wait)
    try:
        yield
    finally:
        go.set()


# What is measured, at the size that comes last


def by_workers(new: Pool, tasks: int, workers: int) -> float:
    with new(workers) as pool:
        start_all(pool, workers)
        return seconds(partial(burst, pool.submit, noop, tasks)) / tasks


def by_workers_with_state(tasks: int, workers: int) -> float:
    with StatefulThreadPoolExecutor(workers, initializer=object) as pool:
        start_all(pool, workers)
        return seconds(partial(burst, pool.with_state().submit, noop_with, tasks)) / tasks


def submit_and_take(new: Pool, tasks: int, length: int) -> float:
    """Each task that the worker takes from the backlog submits another one, so that its length stays."""
    times: list[float] = []
    left, ended = iter(range(tasks)), Event()

    def step() -> None:
        if next(left, None) is not None:
            pool.submit(step)
        else:
            times.append(perf_counter())
            ended.set()

    with new(1) as pool:
        with held(pool):
            pool.submit(lambda: times.append(perf_counter()))
            for _ in range(length):
                pool.submit(step)
            gc.collect()
        ended.wait()
    return (times[1] - times[0]) / tasks


def cancel(new: Pool, tasks: int, length: int) -> float:
    """All of a backlog in random order, and as many backlogs as make up the tasks: a few cancels would hide upkeep."""
    times = max(tasks // length, 1)
    total = 0.0
    with new(1) as pool, held(pool):
        for _ in range(times):
            futures = [pool.submit(noop) for _ in range(length)]
            random.Random(1).shuffle(futures)  # noqa: S311  # no secret
            start = perf_counter()
            for future in futures:
                future.cancel()
            total += perf_counter() - start
    return total / (times * length)


def by_bindings(anew: bool, tasks: int, number: int) -> float:
    """`anew`: with a view made for each task, as a request handler does."""
    with StatefulThreadPoolExecutor(1) as pool:
        initializers = [partial(object) for _ in range(number)]
        views = [pool.with_state(initializer) for initializer in initializers]
        for view in views:
            view.submit(noop_with).result()

        def kept_views() -> None:
            finish([view.submit(noop_with) for view in islice(cycle(views), tasks)])

        def new_views() -> None:
            finish([pool.with_state(each).submit(noop_with) for each in islice(cycle(initializers), tasks)])

        return seconds(new_views if anew else kept_views) / tasks


def nest(new: Pool, tasks: int, depth: int) -> float:
    """In one worker; a `ThreadPoolExecutor` needs one for each level."""

    def descend(levels: int) -> None:
        if levels:
            pool.submit(descend, levels - 1).result()

    def repeat() -> None:
        for _ in range(times):
            descend(depth)

    times = max(tasks // depth, 1)
    with new(1 if new is StatefulThreadPoolExecutor else depth + 1) as pool:
        return pool.submit(seconds, repeat).result() / (times * depth)


def by_open_scopes(tasks: int, number: int) -> float:
    with StatefulThreadPoolExecutor(WORKERS) as pool, ExitStack() as stack:
        scopes = [stack.enter_context(pool.scope()) for _ in range(number)]
        return seconds(partial(burst, scopes[number // 2].submit, noop, tasks)) / tasks


def open_and_end(tasks: int, number: int) -> float:
    def empty_scopes() -> None:
        for _ in range(tasks):
            with pool.scope():
                pass

    with StatefulThreadPoolExecutor(WORKERS) as pool, ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(pool.scope())
        return seconds(empty_scopes) / tasks


def by_threads(new: Pool, tasks: int, number: int) -> float:
    barrier = Barrier(number + 1)

    def submitter() -> None:
        barrier.wait()
        burst(pool.submit, noop, tasks // number)

    def all_threads() -> None:
        barrier.wait()
        for thread in threads:
            thread.join()

    with new(WORKERS) as pool:
        start_all(pool, WORKERS)
        threads = [Thread(target=submitter) for _ in range(number)]
        for thread in threads:
            thread.start()
        return seconds(all_threads) / (tasks // number * number)


def questions(tasks: int, longest: int) -> list[Question]:
    def both(measure: Callable[[Pool, int, int], float], count: int = tasks) -> dict[str, Measure]:
        return {
            OURS: partial(measure, StatefulThreadPoolExecutor, count),
            THEIRS: partial(measure, ThreadPoolExecutor, count),
        }

    lengths = [length for length in (10, 100, 1_000, 10_000, 100_000) if length <= longest]
    thousand = (1, 10, 100, 1_000)
    few = tasks // 5
    return [
        Question(
            "Do more workers make a task dearer?",
            "task",
            "workers",
            (1, 2, 4, 8, 16, 32, 64, 128),
            {**both(by_workers), STATEFUL: partial(by_workers_with_state, tasks)},
        ),
        Question(
            "Does a long backlog make submit and take dearer?",
            "task submitted and taken",
            "tasks in the backlog",
            lengths,
            both(submit_and_take),
        ),
        Question(
            "Does a long backlog make cancelling it dearer?",
            "task cancelled",
            "tasks in the backlog",
            lengths,
            both(cancel, few),
        ),
        Question(
            "Do more bindings make a task with state dearer?",
            "task",
            "initializers, used in turn",
            thousand,
            {OURS: partial(by_bindings, False, tasks), ANEW: partial(by_bindings, True, tasks)},
        ),
        Question(
            "Does deeper nesting make a level dearer?",
            "level",
            "levels, each submits the next and waits",
            (1, 10, 50, 100, 150),
            both(nest, few),
        ),
        Question(
            "Do other open scopes make a scope's task dearer?",
            "task",
            "open scopes",
            thousand,
            {OURS: partial(by_open_scopes, tasks)},
        ),
        Question(
            "Do other open scopes make an empty scope dearer?",
            "scope opened and ended",
            "open scopes",
            thousand,
            {OURS: partial(open_and_end, tasks)},
        ),
        Question(
            "Do more submitting threads make a task dearer?",
            "task",
            "submitting threads",
            (1, 2, 4, 8, 16),
            both(by_threads),
        ),
    ]


# What is made of it


def ask(question: Question, rounds: int) -> Costs:
    """After a round that doesn't count."""
    turns = list(product(question.sizes, question.lines))
    outcomes = in_turn([partial(question.lines[line], size) for size, line in turns], rounds + 1)
    costs: Costs = {line: [] for line in question.lines}
    for (_, line), outcome in zip(turns, outcomes, strict=True):
        costs[line].append([cost * 1e6 for cost in outcome[1:]])
    return costs


def verdict(sizes: Sequence[int], costs: Sequence[float]) -> str:
    """Of the whole curve, and of its last step: what is linear in the end is hidden for long by a fixed cost."""
    logs = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    slope = statistics.linear_regression(*logs).slope
    end = statistics.linear_regression(*(each[-2:] for each in logs)).slope
    if abs(slope - 1) <= FLAT:
        word = "linear"
    elif slope > FLAT or end > FLAT_END:
        word = "grows"
    else:
        word = "falls" if slope < -FLAT else "flat"
    return f"{word} ({slope:.2f}, last step {end:.2f})"


def tell(question: Question, costs: Costs) -> None:
    print(f"\n{question.text} (µs per {question.each}, by {question.size})")
    for line, each in costs.items():
        spreads = [spread(figures) for figures in each]
        medians = [median for _, median, _ in spreads]
        print(f"  {line}: {verdict(question.sizes, medians)}, last / first {medians[-1] / medians[0]:.2f}")
        for size, (low, median, high) in zip(question.sizes, spreads, strict=True):
            print(f"  {size:>12,}{median:10.2f}  ({low:.2f} to {high:.2f})", flush=True)


def plot(results: list[tuple[Question, Costs]], file: str, caption: str) -> None:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(2, 4, figsize=(20, 10), layout="constrained")
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    for axis, (question, costs) in zip(axes.flat, results, strict=True):
        for line, each in costs.items():
            lows, medians, highs = zip(*map(spread, each), strict=True)
            label = f"{line}: {verdict(question.sizes, medians)}"
            axis.plot(question.sizes, medians, marker="o", color=COLOURS[line], label=label)
            axis.fill_between(question.sizes, lows, highs, color=COLOURS[line], alpha=0.2)
        axis.set(
            title=question.text, xlabel=question.size, ylabel=f"µs per {question.each}", xscale="log", yscale="log"
        )
        low, high = axis.get_ylim()
        middle = math.sqrt(low * high)
        axis.set_ylim(min(low, middle / 10), max(high, middle * 10))  # two decades: flat is to look flat
        axis.set_xticks(question.sizes)
        axis.xaxis.set_major_formatter(plain)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(plain)
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, alpha=0.3)
        axis.legend(loc="upper left", fontsize="small")
    figure.suptitle(f"How does what a task costs grow? Medians and quartiles; in brackets the exponents\n{caption}")
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="of all sizes (default 7, quick 3)")
    parser.add_argument("--tasks", type=int, help="for one figure in a round (default 10,000, quick 4,000)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tasks, backlogs up to 10,000")
    parser.add_argument("--plot", metavar="FILE", help="draw all of it, as .png, .svg or .pdf")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    tasks = options.tasks or (4_000 if options.quick else 10_000)
    if options.plot:
        try:
            import matplotlib as mpl
        except ImportError as error:
            sys.exit(f"{error.name} is missing, for --plot: pip install 'stateful-executor[bench]'")
        mpl.use("agg")
    sys.setrecursionlimit(10_000)  # for 150 levels of nesting; the default allows about 130
    caption = f"{platform.python_implementation()} {platform.python_version()}, {rounds} rounds of {tasks:,} tasks"
    print(f"{caption}; medians (and quartiles)")
    results = []
    for question in questions(tasks, 10_000 if options.quick else 100_000):
        costs = ask(question, rounds)
        tell(question, costs)
        results.append((question, costs))
    if options.plot:
        plot(results, options.plot, caption)


if __name__ == "__main__":
    main()
