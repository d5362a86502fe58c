"""A timeline as JSON in the Trace Event Format, which Perfetto and chrome://tracing open.

The format: "Trace Event Format", Google, linked from https://chromium.googlesource.com/catapult (docs). Used of it:
complete events (`X`) for tasks and states, in one thread for each worker, where they nest; nestable async events (`b`,
`e`) for scopes and blocked submitters, which may overlap; instants (`i`) for discarded states; counters (`C`); metadata
(`M`) for names and order. Times are in microseconds, with nanoseconds as decimals.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._timeline import OF_STATES, Lane, Span, Steps, Timeline, thinned

Json = dict[str, Any]

STEPS = 20_000  # of each counter, about


def write(timeline: Timeline, path: Path) -> None:
    """Write `timeline` to `path`, compressed when that ends with .gz."""
    compressed = path.suffix == ".gz"
    with gzip.open(path, "wt", encoding="utf-8") if compressed else path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        separator = ""
        for event in events(timeline):
            file.write(separator + json.dumps(event, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]}\n")


def events(timeline: Timeline) -> Iterator[Json]:
    """What the file has in its `traceEvents`."""
    process = os.getpid()
    yield _named("process_name", process, 0, timeline.title)
    for number, lane in enumerate(timeline.lanes, 1):
        yield _named("thread_name", process, number, lane.name)
        yield {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": number, "args": {"sort_index": number}}
        yield from _of_worker(lane, process, number)
    for number, span in enumerate(timeline.others):
        if span.kind != "queued":
            yield from _async(span, process, number)
    resolution = timeline.end / STEPS
    yield from _counter("backlog", "tasks", timeline.backlog(), process, resolution)
    yield from _counter("busy workers", "workers", timeline.running(), process, resolution)
    yield from _counter("blocked submitters", "submitters", timeline.blocked(), process, resolution)


def _named(name: str, process: int, thread: int, value: str) -> Json:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": {"name": value}}


def _of_worker(lane: Lane, process: int, thread: int) -> Iterator[Json]:
    for span in lane.spans:
        where: Json = {"pid": process, "tid": thread, "ts": _micros(span.begin)}
        if span.kind == "discard":
            yield {"ph": "i", "name": f"discard {span.name}", "cat": "state", "s": "t", **where}
            continue
        of_state = span.kind in OF_STATES
        args: Json = {"failed": True} if span.failed else {}
        if not of_state:
            args |= {"waited_us": _micros(span.begin - span.submitted), "in_place": span.depth > 0}
        if span.open:
            args["has_not_ended"] = True
        yield {
            "ph": "X",
            "name": f"{span.kind} {span.name}" if of_state else span.name,
            "cat": "state" if of_state else "task",
            "dur": round(_micros(span.end) - _micros(span.begin), 3),
            **where,
            "args": args,
        }


def _async(span: Span, process: int, number: int) -> Iterator[Json]:
    common: Json = {
        "name": "submit blocked" if span.kind == "blocked" else "scope",
        "cat": span.kind,
        "id": hex(number + 1),
        "pid": process,
        "tid": 0,
    }
    args = {"thread": span.name} | ({"failed": True} if span.failed else {})
    yield {"ph": "b", **common, "ts": _micros(span.begin), "args": args}
    yield {"ph": "e", **common, "ts": _micros(span.end)}


def _counter(name: str, unit: str, steps: Steps, process: int, resolution: float) -> Iterator[Json]:
    for time, number in thinned(steps, resolution):
        yield {"ph": "C", "name": name, "pid": process, "tid": 0, "ts": _micros(time), "args": {unit: number}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 3)
