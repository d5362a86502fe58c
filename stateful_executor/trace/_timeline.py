"""What a recording says, as plain data: spans in lanes, counts over time, and what is too small to be drawn merged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

Steps: TypeAlias = "list[tuple[float, int]]"  # a count over time: from when on, how many

OF_STATES = ("make", "check", "reset", "teardown")


class Span(NamedTuple):
    """Something that took time. Times are in seconds since the recording began.

    .. versionadded:: 0.1
    """

    kind: str
    """`task`; `make`, `check`, `reset`, `discard` or `teardown` of a state; `leave` of a worker; `blocked`, a submit
    that waited for a place in the backlog; `scope`; `queued`, a task that waits in the backlog."""
    name: str
    """Of the task's function; of the state's initializer; of the thread that submits, or has the scope."""
    lane: str
    """The name of the worker's thread, or "" for what happens in none."""
    submitted: float
    """When a task was submitted; of all else, when it began."""
    begin: float
    end: float
    """Of what has not ended: when `spans()` was called."""
    depth: int
    """How many tasks of the same worker it runs inside of: above 0, a task runs in place."""
    failed: bool
    """A task, an initializer, a check or a teardown raised; a scope's body, or a task of it whose error nobody took."""
    open: bool = False
    """It has not ended."""


class Block(NamedTuple):
    """Spans of one lane and depth, so short and close together that they are drawn as one."""

    begin: float
    end: float
    name: str  # of most of the time
    kind: str
    depth: int
    spans: int
    failed: int
    busy: float  # seconds that they took together
    waited: float  # seconds in the backlog, on average


class Lane(NamedTuple):
    """One worker, or several that had the same number one after the other."""

    name: str
    spans: list[Span]  # of tasks and states, sorted by when they began
    alive: list[tuple[float, float]]  # when there was such a worker


class Timeline(NamedTuple):
    """A whole recording, made for drawing."""

    title: str
    end: float
    bound: int | None  # of the backlog
    lanes: list[Lane]
    others: list[Span]  # scopes, blocked submitters and tasks in the backlog
    is_cut: bool  # older events were dropped

    def spans(self) -> list[Span]:
        """Those of all lanes, by when they began."""
        return sorted((span for lane in self.lanes for span in lane.spans), key=lambda span: span.begin)

    def tasks(self) -> list[Span]:
        """Those of all lanes, by when they began."""
        return [span for span in self.spans() if span.kind == "task"]

    def of_kind(self, kind: str) -> list[Span]:
        """Among `others`."""
        return [span for span in self.others if span.kind == kind]

    def backlog(self) -> Steps:
        """How many tasks had been submitted and had not begun.

        Never more than the bound: a worker gives back the place of a task before it writes down that this begins, so
        that the next one may be written down as submitted before.
        """
        ends = [(span.submitted, span.begin) for span in self.tasks()]
        steps = _steps([*ends, *((span.begin, self.end) for span in self.of_kind("queued"))])
        return steps if self.bound is None else [(time, min(number, self.bound)) for time, number in steps]

    def running(self) -> Steps:
        """How many workers ran a task."""
        return _steps((span.begin, span.end) for span in self.tasks() if span.depth == 0)

    def blocked(self) -> Steps:
        """How many submitters waited for a place in the backlog."""
        return _steps((span.begin, span.end) for span in self.of_kind("blocked"))


def _steps(intervals: Iterable[tuple[float, float]]) -> Steps:
    changes: Counter[float] = Counter()
    for begin, end in intervals:
        changes[begin] += 1
        changes[end] -= 1
    times = sorted(changes)
    return [(0.0, 0), *zip(times, accumulate(changes[time] for time in times), strict=True)]


def timeline(title: str, end: float, bound: int | None, spans: list[Span], is_cut: bool) -> Timeline:
    """Sort `spans` into lanes, in the order of their numbers."""
    lanes: dict[str, list[Span]] = {}
    for span in spans:
        if span.lane:
            lanes.setdefault(span.lane, []).append(span)
    others = sorted((span for span in spans if not span.lane), key=lambda span: span.begin)
    return Timeline(
        title, end, bound, [_lane(name, lanes[name], end) for name in sorted(lanes, key=_key)], others, is_cut
    )


def nested(spans: list[Span]) -> list[Span]:
    """The spans of one worker, sorted by when they began, with their depths."""
    result: list[Span] = []
    around: list[Span] = []  # the tasks that go on, the outermost first
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        while around and around[-1].end <= span.begin and not (around[-1].end == span.end == span.begin):
            around.pop()
        result.append(span._replace(depth=len(around)) if around else span)
        if span.kind == "task":
            around.append(span)
    return result


def _key(name: str) -> list[str | int]:
    """So that worker 10 comes after worker 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _lane(name: str, spans: list[Span], end: float) -> Lane:
    spans = sorted(spans, key=lambda span: (span.begin, span.depth))
    alive: list[tuple[float, float]] = []
    began: float | None = None
    for span in spans:
        if span.kind == "leave":
            alive.append((span.begin if began is None else began, span.end))
            began = None
        elif began is None:
            began = span.begin
    if began is not None:
        alive.append((began, end))
    return Lane(name, [span for span in spans if span.kind not in ("leave", "there")], alive)


def merged(spans: Sequence[Span], resolution: float) -> list[Block]:
    """`spans` of one lane, sorted by their beginning, with neighbours merged where one is shorter than `resolution`.

    No block of merged ones is longer than four times that, so that what is dense and what is not still differ.
    """
    blocks: list[Block] = []
    groups: dict[int, list[Span]] = {}
    for span in spans:
        group = groups.setdefault(span.depth, [])
        if group and not _joins(group, span, resolution):
            blocks.append(_block(group))
            group.clear()
        group.append(span)
    blocks += [_block(group) for group in groups.values()]
    return sorted(blocks, key=lambda block: (block.depth, block.begin))


def _joins(group: list[Span], span: Span, resolution: float) -> bool:
    first, last = group[0], group[-1]
    return (
        span.end - span.begin < resolution
        and last.end - last.begin < resolution
        and span.begin - last.end < resolution
        and span.end - first.begin < 4 * resolution
        and (span.kind == "task") == (first.kind == "task")
    )


def _block(group: list[Span]) -> Block:
    seconds: Counter[tuple[str, str]] = Counter()
    for span in group:
        seconds[span.name, span.kind] += span.end - span.begin  # type: ignore[assignment]  # a Counter of floats
    (name, kind), _ = seconds.most_common(1)[0]
    begin, end = group[0].begin, max(span.end for span in group)
    waited = sum(span.begin - span.submitted for span in group) / len(group)
    failed = sum(span.failed for span in group)
    busy = sum(span.end - span.begin for span in group)
    return Block(begin, end, name, kind, group[0].depth, len(group), failed, busy, waited)


def thinned(steps: Steps, resolution: float) -> Steps:
    """`steps` with no more than the lowest, the highest and the last one of each `resolution` seconds."""
    kept: Steps = []
    part: Steps = []
    for step in [*steps, (float("inf"), 0)]:
        if part and step[0] - part[0][0] >= resolution:
            extremes = {part[0], part[-1], min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])}
            kept += sorted(extremes, key=lambda one: one[0])
            part = []
        part.append(step)
    return kept


OFTEN = 0.1  # of the time of one part
SOON = 6  # parts


class Load(NamedTuple):
    """What the workers did, on average, in one part of the time. The first four add up to `alive`."""

    begin: float
    end: float
    running: float
    on_states: float
    idle: float
    alive: float
    blocked: float  # submitters that waited for a place in the backlog
    backlog: float


def limits(load: list[Load]) -> list[str]:
    """What kept the pool from doing more in each part of the time: a key of `LIMITS`.

    A backlog is too small when workers become idle soon after submitters had to wait: what these would have submitted
    meanwhile is what the workers lack now.
    """
    result = []
    for number, part in enumerate(load):
        of_late = sum(earlier.blocked for earlier in load[max(0, number - SOON) : number + 1])
        if part.alive == 0:
            result.append("none")
        elif part.on_states >= part.alive / 4:
            result.append("states")
        elif part.idle < part.alive / 10:
            result.append("busy")
        elif part.backlog > max(1.0, part.idle):
            result.append("handover")
        else:
            result.append("backlog" if of_late > OFTEN else "starved")
    return result


LIMITS = {
    "busy": "all workers busy",
    "states": "states being made, checked or torn down",
    "backlog": "backlog too small: workers idle as submitters have to wait, or soon after",
    "handover": "tasks so short that handing them over takes longer, or waits for the GIL",
    "starved": "starved: workers idle, nobody has to wait to submit",
}


def loads(timeline: Timeline, parts: int) -> list[Load]:
    """The load in each of `parts` equal parts of the time."""
    end = timeline.end or 1.0
    width = end / parts
    kinds = {
        "running": [(s.begin, s.end) for s in timeline.tasks() if s.depth == 0],
        # Of those inside a task, be it that it makes its state later or waits, that one tells.
        "on_states": [(s.begin, s.end) for s in timeline.spans() if s.kind in OF_STATES and s.depth == 0],
        "alive": [interval for lane in timeline.lanes for interval in lane.alive],
        "blocked": [(s.begin, s.end) for s in timeline.of_kind("blocked")],
        "backlog": [(s.submitted, s.begin) for s in timeline.tasks()],
    }
    average = {kind: _averages(intervals, parts, width) for kind, intervals in kinds.items()}
    result = []
    for part in range(parts):
        alive, running, on_states = (average[kind][part] for kind in ("alive", "running", "on_states"))
        idle = max(0.0, alive - running - on_states)
        begin, blocked, backlog = part * width, average["blocked"][part], average["backlog"][part]
        result.append(Load(begin, begin + width, running, on_states, idle, alive, blocked, backlog))
    return result


def _averages(intervals: list[tuple[float, float]], parts: int, width: float) -> list[float]:
    """How many of `intervals` there were in each part, on average."""
    inside = [0.0] * (parts + 1)
    whole = [0] * (parts + 1)
    for begin, end in intervals:
        first, last = min(int(begin / width), parts - 1), min(int(end / width), parts - 1)
        if first == last:
            inside[first] += (end - begin) / width
        else:
            inside[first] += first + 1 - begin / width
            inside[last] += end / width - last
            whole[first + 1] += 1
            whole[last] -= 1
    return [part + number for part, number in zip(inside[:parts], accumulate(whole), strict=False)]


def levels(spans: Sequence[Span]) -> list[list[Span]]:
    """`spans` in as few rows as hold them without any two that overlap."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.begin):
        for row in rows:
            if row[-1].end <= span.begin:
                row.append(span)
                break
        else:
            rows.append([span])
    return rows


def verdict(timeline: Timeline, load: list[Load]) -> list[str]:
    """What the figures say, for a person: a line or two."""
    alive = sum(part.alive for part in load) or 1.0
    running, on_states, idle = (
        sum(getattr(part, kind) for part in load) / alive for kind in ("running", "on_states", "idle")
    )
    tasks = timeline.tasks()
    waits = sorted(task.begin - task.submitted for task in tasks) or [0.0]
    blocked = sum(span.end - span.begin for span in timeline.of_kind("blocked"))
    failed = sum(task.failed for task in tasks)
    made = [span for lane in timeline.lanes for span in lane.spans if span.kind == "make"]
    first = f"{len(tasks):,} tasks" + (f", {failed:,} failed" if failed else "")
    first += f" in {duration(timeline.end)} on {len(timeline.lanes)} workers: {running:.0%} of their time in tasks, "
    first += f"{on_states:.0%} with states, {idle:.0%} idle"
    second = f"waited in the backlog: median {duration(waits[len(waits) // 2])}, longest {duration(waits[-1])}"
    if blocked:
        second += f"; submitters blocked {duration(blocked)}"
    if made:
        average = sum(span.end - span.begin for span in made) / len(made)
        second += f"; {len(made):,} states made, {duration(average)} each"
    if timeline.is_cut:
        second += "; cut: older events were dropped"
    return [first, second]


def duration(seconds: float) -> str:
    """For a person."""
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    number = seconds * factor
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


def short(name: str) -> str:
    """Without the functions around it."""
    return name.rpartition("<locals>.")[2]


def names_by_time(timeline: Timeline) -> list[str]:
    """The functions of the tasks, those that took longest first."""
    seconds: dict[str, float] = {}
    for task in timeline.tasks():
        seconds[task.name] = seconds.get(task.name, 0.0) + task.end - task.begin
    return sorted(seconds, key=lambda name: -seconds[name])
