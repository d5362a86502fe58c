"""A timeline as a picture, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._palette import (
    BACKLOG,
    BLOCKED,
    FAILED,
    IDLE,
    KINDS,
    OF_KIND,
    OF_LIMIT,
    OTHER_TASKS,
    SCOPE,
    colour_of,
    colours_of,
    height_of,
)
from ._timeline import (
    LIMITS,
    Lane,
    Load,
    Steps,
    Timeline,
    levels,
    limits,
    loads,
    merged,
    names_by_time,
    short,
    thinned,
    verdict,
)

try:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    from matplotlib.patches import Patch  # pyright: ignore[reportMissingImports]
    from matplotlib.ticker import MaxNLocator  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as missing:
    raise ImportError("a picture needs matplotlib: pip install 'stateful-executor[plot]'") from missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # pyright: ignore[reportMissingImports]

RESOLUTION = 1500  # what is shorter than this part of the whole is drawn together with its neighbours
PARTS = 300  # of the time, in the strip that says what limits the pool
SCOPE_ROWS = 4
LANE, LEAST, MOST = 0.3, 0.9, 14.0  # inches


def figure(timeline: Timeline) -> Figure:
    """Draw `timeline`."""
    unit, factor = ("s", 1.0) if timeline.end >= 2 else ("ms", 1e3)
    blocked = timeline.blocked()
    scopes = levels(timeline.of_kind("scope"))[:SCOPE_ROWS]
    rows = len(timeline.lanes) + 0.7 * len(scopes)
    heights = [min(MOST, max(LEAST, LANE * rows)), 1.1, *([0.6] if len(blocked) > 1 else []), 0.22]
    drawn = Figure(figsize=(12, sum(heights) + 1.6), layout="constrained", dpi=100)
    axes = drawn.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    load = loads(timeline, PARTS)
    first, second = verdict(timeline, load)
    drawn.suptitle(f"{timeline.title}: {first}\n{second}", fontsize=9, x=0.01, ha="left")
    _workers(axes[0], timeline, [[(span.begin, span.end) for span in row] for row in scopes], factor)
    _backlog(axes[1], timeline, factor)
    if len(blocked) > 1:
        _area(axes[2], blocked, timeline.end, factor, BLOCKED)
        axes[2].set_ylabel("submitters\nblocked", rotation=0, ha="right", va="center", fontsize=8)
    _limits(axes[-1], load, factor)
    axes[-1].set_xlabel(f"{unit} since the recording began", fontsize=8)
    axes[-1].set_xlim(0, (timeline.end or 1e-6) * factor)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    drawn.legend(handles=_legend(timeline, load), loc="outside right upper", fontsize=7, frameon=False)
    return drawn


def _workers(axis: Axes, timeline: Timeline, scopes: list[list[tuple[float, float]]], factor: float) -> None:
    of_names = colours_of(timeline)
    resolution = timeline.end / RESOLUTION
    for number, lane in enumerate(timeline.lanes):
        _lane(axis, number, lane, resolution, factor, of_names)
    for number, row in enumerate(scopes):
        middle = -0.8 - 0.7 * number
        axis.broken_barh(_scaled(row, factor), (middle - 0.2, 0.4), facecolors=SCOPE, linewidth=0)
    few = len(timeline.lanes) <= 40
    shown = range(len(timeline.lanes)) if few else range(0, len(timeline.lanes), 1 + len(timeline.lanes) // 40)
    ticks = [*shown, *(-0.8 - 0.7 * number for number in range(len(scopes)))]
    axis.set_yticks(
        ticks,
        [
            *(timeline.lanes[number].name for number in shown),
            *("scopes" for _ in scopes[:1]),
            *("" for _ in scopes[1:]),
        ],
    )
    axis.set_ylim(max(len(timeline.lanes), 1) - 0.5, -0.6 - 0.7 * len(scopes))


def _lane(axis: Axes, number: int, lane: Lane, resolution: float, factor: float, of_names: dict[str, str]) -> None:
    axis.broken_barh(_scaled(lane.alive, factor), (number - 0.42, 0.84), facecolors=IDLE, linewidth=0)
    spans = [span for span in lane.spans if span.kind != "discard"]
    blocks = merged(spans, resolution)
    for depth in sorted({block.depth for block in blocks}):
        level = [block for block in blocks if block.depth == depth]
        height = height_of(depth)
        axis.broken_barh(
            _scaled([(block.begin, max(block.end, block.begin + resolution / 4)) for block in level], factor),
            (number - height / 2, height),
            facecolors=[colour_of(block, of_names) for block in level],
            edgecolors="white",
            linewidth=0.3 if len(blocks) < 200 else 0,
        )
        failed = [(block.begin, max(block.end, block.begin + resolution)) for block in level if block.failed]
        axis.broken_barh(_scaled(failed, factor), (number + height / 2 - 0.16, 0.16), facecolors=FAILED, linewidth=0)
    discards = [span.begin * factor for span in lane.spans if span.kind == "discard"]
    axis.plot(discards, [number] * len(discards), "x", color="black", markersize=4, markeredgewidth=0.8)


def _scaled(intervals: list[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    """As `broken_barh` has them: where each begins, and how long it is."""
    return [(begin * factor, (end - begin) * factor) for begin, end in intervals]


def _backlog(axis: Axes, timeline: Timeline, factor: float) -> None:
    steps = timeline.backlog()
    _area(axis, steps, timeline.end, factor, BACKLOG)
    if timeline.bound is not None:
        axis.axhline(timeline.bound, color="black", linestyle="--", linewidth=0.8)
        axis.annotate(
            f"max_backlog={timeline.bound:,}",
            (0.002, timeline.bound),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=7,
        )
        axis.set_ylim(0, timeline.bound * 1.25)
    axis.set_ylabel("backlog", rotation=0, ha="right", va="center", fontsize=8)


def _area(axis: Axes, steps: Steps, end: float, factor: float, colour: str) -> None:
    kept = thinned(steps, end / RESOLUTION)
    times = [time * factor for time, _ in kept] + [end * factor]
    numbers = [number for _, number in kept] + [kept[-1][1]]
    axis.fill_between(times, numbers, step="post", color=colour, alpha=0.55, linewidth=0)
    axis.step(times, numbers, where="post", color=colour, linewidth=0.6)
    axis.set_ylim(0, max([*numbers, 1]) * 1.15)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))


def _limits(axis: Axes, load: list[Load], factor: float) -> None:
    intervals = [(part.begin, part.end) for part in load]
    axis.broken_barh(
        _scaled(intervals, factor), (0, 1), facecolors=[OF_LIMIT[limit] for limit in limits(load)], linewidth=0
    )
    axis.set_yticks([])
    axis.set_ylim(0, 1)
    axis.set_ylabel("limited by", rotation=0, ha="right", va="center", fontsize=8)


def _legend(timeline: Timeline, load: list[Load]) -> list[Patch]:
    of_names = colours_of(timeline)
    kinds = {span.kind for span in timeline.spans()}
    kinds |= {"check"} if "reset" in kinds else set()
    shown = [Patch(color=colour, label=_lines(short(name))) for name, colour in of_names.items()]
    if len(names_by_time(timeline)) > len(of_names):
        shown.append(Patch(color=OTHER_TASKS, label="other tasks"))
    shown += [Patch(color=OF_KIND[kind], label=label) for kind, label in KINDS.items() if kind in kinds]
    if "discard" in kinds:
        shown.append(Patch(color="none", label="x  state discarded"))
    if any(span.failed for span in timeline.spans()):
        shown.append(Patch(color=FAILED, label="failed"))
    shown += [
        Patch(color=IDLE, label="worker idle"),
        Patch(color="none", label=" "),
        Patch(color="none", label="limited by"),
    ]
    found = set(limits(load))
    return shown + [Patch(color=OF_LIMIT[key], label=_lines(label)) for key, label in LIMITS.items() if key in found]


def _lines(text: str) -> str:
    """Broken into lines that leave room for the picture."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= 26:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(line if len(line) <= 32 else line[:31] + "…" for line in lines)
