"""The questions: each yields its races, one after the other."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from _paired import MAX_BACKLOG, WORKERS, seconds, workers_of
from child import import_seconds, in_child
from executors import ALL_THREE, OPTIONS, PLAIN, VARIANTS, Adapter, Floor, Make, Ours, Stdlib, rivals
from latency import LATE, P99, task_seconds, under_load
from race import BYTES, FLOOR, GROWTH, OURS, STDLIB, TIME, Bar, Ceiling, Entry, Figures, Race
from short_lived import lives, many, short_lived

WARM_UP = 256  # tasks, for a pool that has just been made
MAPPED = {1: 2, 100: 10}  # items for each task of a burst, by chunks: so many that waking the workers matters little
PINNED = hasattr(os, "sched_setaffinity")
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
HAS_PEAK = find_spec("resource") is not None  # not on Windows

Work = Callable[[Any, int], object]
Measured = Callable[[Make, int], Figures]  # of an executor, with so many tasks
Bars = Mapping[str, tuple[Bar | Ceiling, ...]]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    tasks: int
    streamed: int
    crowd: int
    load_seconds: float


def timed(workers: int, work: Work) -> Measured:
    """The time of one task, in a pool of its own: no idle one disturbs."""

    def measured(make: Make, tasks: int) -> Figures:
        with closing(make(workers)) as adapter:
            adapter.start(workers)
            work(adapter, min(tasks, WARM_UP))
            return {TIME: seconds(partial(work, adapter, tasks)) / tasks}

    return measured


def entries(
    question: str,
    measured: Measured,
    tasks: int,
    variants: Mapping[str, Make],
    bars: Bars | None = None,
    workers: int = 4,
) -> list[Entry]:
    """Rivals first and ours last, so that those with bars are next to the standard library."""
    others: list[type[Adapter]] = [*rivals(question, workers), Stdlib]
    return [
        Entry(PLAIN, other.name, partial(measured, other, max(int(tasks * other.share), 1))) for other in others
    ] + [
        Entry(name, OURS, partial(measured, make, tasks), (bars or {}).get(name, ())) for name, make in variants.items()
    ]


def of(*names: str) -> dict[str, Make]:
    return {name: VARIANTS[name] for name in names}


EACH = {name: make for name, make in VARIANTS.items() if name != "scope and backlog"}


def short(plan: Plan) -> Iterator[Race]:
    yield short_lived()
    yield many(plan.crowd)


def burst(plan: Plan) -> Iterator[Race]:
    """Submit them all, then take each result."""
    bars: Bars = {
        PLAIN: (Bar(8 if HAS_GIL else 5), Bar(1 / 3, against=(PLAIN, FLOOR))),
        "state": (Bar(6.5 if HAS_GIL else 5),),
        "backlog": (Bar(6.5 if HAS_GIL else 4.5),),
        "scope": (Bar(6 if HAS_GIL else 4.5),),
        ALL_THREE: (Bar(5 if HAS_GIL else 3.5),),
        "copy_context": (Bar(5),) if HAS_GIL else (),
    }
    for workers in WORKERS:
        measured = timed(workers, _burst)
        yield Race(
            "burst",
            f"no-op burst, {workers_of(workers)}",
            entries("burst", measured, plan.tasks, EACH, bars, workers),
        )
    yield Race("burst", "no-op burst, 64 workers against 4", list(_crowded(plan.tasks)))


def _burst(adapter: Adapter, tasks: int) -> None:
    adapter.burst(tasks)


def _crowded(tasks: int) -> Iterator[Entry]:
    few, many = (workers_of(workers) for workers in (4, 64))
    for adapter in (Floor, Stdlib, Ours):
        yield Entry(few, adapter.name, partial(timed(4, _burst), adapter, tasks))
        bars = (Bar(1 / 1.3, against=(few, OURS)),) if adapter is Ours else ()
        yield Entry(many, adapter.name, partial(timed(64, _burst), adapter, tasks), bars)


def round_trip(plan: Plan) -> Iterator[Race]:
    """Submit one and wait for it before the next."""
    for pinned in (True, False) if PINNED else (False,):
        for workers in (1, 4):
            measured = timed(workers, lambda adapter, tasks: adapter.round_trips(tasks))
            yield Race(
                "round-trip",
                f"round trip, {workers_of(workers)}, {'pinned to one core' if pinned else 'not pinned'}",
                entries(
                    "round-trip",
                    on_one_core(measured) if pinned else measured,
                    plan.tasks // 5,
                    EACH,
                    {PLAIN: (Bar(1 / 0.85 if pinned else 1.2),)},
                    workers,
                ),
                effort=2,
            )


def on_one_core(measured: Measured) -> Measured:
    """With the thread that measures and those that it starts."""

    def pinned(make: Make, tasks: int) -> Figures:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            return measured(make, tasks)
        finally:
            os.sched_setaffinity(0, cores)

    return pinned


def producers(plan: Plan) -> Iterator[Race]:
    """Threads that submit and take the results of what they have submitted."""
    measured = timed(4, _produced)
    yield Race("producers", "4 submitting threads, 4 workers", entries("producers", measured, plan.tasks, EACH))


def _produced(adapter: Adapter, tasks: int) -> None:
    threads = [threading.Thread(target=adapter.burst, args=(tasks // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fan_out(plan: Plan) -> Iterator[Race]:
    measured = timed(4, lambda adapter, tasks: adapter.fan_out(tasks))
    title = "fan-out: tasks that submit 100 tasks each, 4 workers"
    yield Race("fan-out", title, entries("fan-out", measured, plan.tasks, EACH))


def mapped(plan: Plan) -> Iterator[Race]:
    for chunksize, share in MAPPED.items():
        items = plan.tasks * share
        measured = timed(4, partial(_mapped, chunksize))
        title = f"map over {items:,} items, {'no chunks' if chunksize == 1 else f'chunks of {chunksize}'}, 4 workers"
        bars = {PLAIN: (Bar(1, against=(PLAIN, "mp.pool")) if chunksize > 1 else Bar(5.5),)}
        yield Race("map", title, entries("map", measured, items, EACH, bars))


def _mapped(chunksize: int, adapter: Adapter, tasks: int) -> None:
    deque(adapter.map(range(tasks), chunksize), maxlen=0)


def stream(plan: Plan) -> Iterator[Race]:
    """Tasks without end, in bounded memory."""
    works: dict[str, Work] = {
        "stream": lambda adapter, tasks: adapter.stream(tasks),
        "stream in order": lambda adapter, tasks: deque(adapter.stream_in_order(range(tasks)), maxlen=0),
    }
    tasks = plan.tasks * 2
    title = f"a stream of tasks, at most {MAX_BACKLOG:,} queued, results dropped or in order, 4 workers"
    yield Race("stream", title, list(_streams(lambda name: timed(4, works[name]), tasks, ())))
    if HAS_PEAK:
        title = f"a stream of {plan.streamed:,} tasks (others a tenth), memory at its peak, in a process of its own"
        bars = (Ceiling(5e6, GROWTH),)
        children = list(_streams(lambda name: partial(_in_child, name), plan.streamed, bars, rivals_share=0.1))
        yield Race("stream", title, children, effort=0.15, rehearsed=False)


def _streams(
    measured: Callable[[str], Measured], tasks: int, bars: tuple[Ceiling, ...], rivals_share: float = 1
) -> Iterator[Entry]:
    for row, name, ours in [
        ("dropped", "stream", VARIANTS["scope and backlog"]),
        ("in order", "stream in order", VARIANTS[PLAIN]),
    ]:
        others: list[type[Adapter]] = [*rivals(name), *([] if name in Stdlib.cannot else [Stdlib])]
        for other in others:
            yield Entry(row, other.name, partial(measured(name), other, int(tasks * other.share * rivals_share)))
        yield Entry(row, OURS, partial(measured(name), ours, tasks), bars)


def _in_child(work: str, make: Make, number: int) -> Figures:
    who = getattr(make, "name", OURS)
    variant = next((name for name, variant in VARIANTS.items() if variant is make), PLAIN)
    return in_child(work, who, variant, number)


def memory(plan: Plan) -> Iterator[Race]:
    """Bytes that a queued task takes, with its future and what the pool keeps for it."""
    bars = dict.fromkeys((PLAIN, "state", "backlog", "scope", ALL_THREE), (Bar(5, BYTES),))  # a context is the user's
    tasks = min(plan.tasks, MAX_BACKLOG - 10)
    for args in ("no", "two"):
        title = f"bytes of a queued task, {args} arguments, each in a process of its own"
        measured = partial(_in_child, f"{args} arguments")
        yield Race("memory", title, entries("memory", measured, tasks, EACH, bars), effort=0.4, rehearsed=False)


def start(plan: Plan) -> Iterator[Race]:
    title = "a pool of 4 workers that runs one task, from its making to its end"
    yield Race("start", title, entries("start", lambda make, _: _lives(make), 1, EACH))
    modules = entries("import", lambda make, _: import_seconds(getattr(make, "module", Ours.module)), 1, of(PLAIN))
    yield Race("start", "import, each in a process of its own", modules)


def _lives(make: Make) -> Figures:
    def live() -> None:
        with closing(make(4)) as adapter:
            adapter.burst(1)

    return lives(live)


def crowd(plan: Plan) -> Iterator[Race]:
    if HAS_PEAK:
        title = f"{plan.crowd:,} workers, all asleep in a task at once, in a process of their own"
        measured = partial(_in_child, "crowd")
        found = entries("crowd", lambda make, _: measured(make, plan.crowd), 1, EACH)
        yield Race("crowd", title, found, effort=0.4, rehearsed=False)


def latency(plan: Plan) -> Iterator[Race]:
    """From submit to begin, of tasks that sleep for a millisecond and come at their own rate."""
    each = task_seconds(4)
    for load in (0.5, 0.9):
        rate = load * 4 / each
        found = [
            Entry(name, who, partial(_latency, name, make, rate, int(rate * plan.load_seconds)), bars)
            for name, who, make, bars in [
                (PLAIN, FLOOR, Floor, ()),
                (PLAIN, STDLIB, Stdlib, ()),
                *((name, OURS, make, (Bar(1, P99, noisy=True),)) for name, make in EACH.items()),
            ]
        ]
        title = f"submit to begin, tasks of 1 ms, {load:.0%} load ({rate:,.0f} a second), 4 workers"
        yield Race("latency", title, found, effort=0.7, rehearsed=False)


def _latency(row: str, make: Make, rate: float, tasks: int) -> Figures:
    with closing(make(4)) as adapter:
        adapter.start(4)
        adapter.burst(WARM_UP)
        gc.collect()
        figures = under_load(adapter, rate, tasks)
    if row != PLAIN:
        del figures[LATE]  # the same thread submits for all
    return figures


def options(plan: Plan) -> Iterator[Race]:
    bars: Bars = {"policy, all of it": (Bar(4),), "bind": (Bar(4.5),), "map_unordered": (Bar(3.5),)}
    found = entries("", timed(4, _burst), plan.tasks, OPTIONS, bars)[-6:]
    yield Race("options", "our other options, no-op burst, 4 workers", found)


QUESTIONS: dict[str, Callable[[Plan], Iterator[Race]]] = {
    "short": short,
    "burst": burst,
    "options": options,
    "round-trip": round_trip,
    "producers": producers,
    "fan-out": fan_out,
    "map": mapped,
    "stream": stream,
    "memory": memory,
    "start": start,
    "crowd": crowd,
    "latency": latency,
}
