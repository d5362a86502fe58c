"""A timeline as one page of HTML, by bokeh."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ._palette import BACKLOG, BLOCKED, FAILED, IDLE, KINDS, OF_KIND, OF_LIMIT, SCOPE, colour_of, colours_of, height_of
from ._timeline import (
    LIMITS,
    Block,
    Load,
    Steps,
    Timeline,
    duration,
    levels,
    limits,
    loads,
    merged,
    short,
    thinned,
    verdict,
)

try:
    import numpy as np  # pyright: ignore[reportMissingImports]
    from bokeh.embed import file_html  # pyright: ignore[reportMissingImports]
    from bokeh.layouts import column  # pyright: ignore[reportMissingImports]
    from bokeh.models import BasicTicker, ColumnDataSource, CustomJS, Div, HoverTool, Range1d  # pyright: ignore[reportMissingImports]
    from bokeh.plotting import figure  # pyright: ignore[reportMissingImports]
    from bokeh.resources import INLINE  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as missing:
    raise ImportError("a page needs bokeh: pip install 'stateful-executor[page]'") from missing

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure  # noqa: N812  # pyright: ignore[reportMissingImports]

AT_ONCE = 20_000  # bars that a browser draws in no time
RESOLUTION = 2000  # where there are more, what is shorter than this part of the whole is drawn together
PARTS = 300
CLOSEST = 0.005  # ms, from the left to the right
ROW, LEAST, MOST = 34, 120, 1400  # pixels

HOVER = """
<div style="padding: 2px 4px">
  <b>@name</b> @note<br>ran @took, waited @waited<br><span style="color: #777">@lane, at @at</span>
</div>
"""

# The bars one by one as soon as there are few enough of them in view. `begins` is sorted, so two searches count them.
ZOOMED = """
const begins = all.data_source.data.left;
function before(time) {
    let low = 0, high = begins.length;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (begins[middle] < time) low = middle + 1; else high = middle;
    }
    return low;
}
const few = before(range.end) - before(range.start) <= at_once;
all.visible = few;
merged.visible = !few;
"""


def page(timeline: Timeline) -> str:
    """The whole page: it asks for nothing from a network."""
    end = timeline.end or 1e-6
    scopes = levels(timeline.of_kind("scope"))
    rows = len(timeline.lanes) + len(scopes)
    x_range = Range1d(start=0, end=end * 1e3, bounds=(-end * 50, end * 1050), min_interval=min(CLOSEST, end * 1e3))
    tools = "xwheel_zoom,xpan,xbox_zoom,reset,save"
    options: dict[str, Any] = {
        "x_range": x_range,
        "tools": tools,
        "sizing_mode": "stretch_width",
        "min_border_left": 110,
        "lod_threshold": None,  # else it draws in grey, and less, while one zooms
    }
    height = min(MOST, max(LEAST, ROW * rows) + 60)
    workers = figure(height=height, y_range=Range1d(start=rows - 0.4, end=-0.6), active_scroll="xwheel_zoom", **options)
    _workers(workers, timeline, x_range)
    for number, row in enumerate(scopes, len(timeline.lanes)):
        workers.hbar(
            y=number, left=[s.begin * 1e3 for s in row], right=[s.end * 1e3 for s in row], height=0.4, color=SCOPE
        )
    names = [lane.name for lane in timeline.lanes] + ["scopes" for _ in scopes]
    workers.yaxis.ticker = list(range(rows))
    workers.yaxis.major_label_overrides = dict(enumerate(names))
    workers.ygrid.visible = False
    workers.xaxis.major_label_text_font_size = "0px"
    plots = [workers, _counts("backlog", timeline.backlog(), end, BACKLOG, options)]
    if timeline.bound is not None:
        plots[-1].line(x=[0, end * 1e3], y=[timeline.bound] * 2, color="black", line_dash="dashed")
    blocked = timeline.blocked()
    if len(blocked) > 1:
        plots.append(_counts("blocked", blocked, end, BLOCKED, options))
    load = loads(timeline, PARTS)
    plots.append(_limits(load, options))
    lines = "<br>".join(escape(line, quote=False) for line in verdict(timeline, load))
    head = Div(
        text=f"<b>{escape(timeline.title, quote=False)}</b>: {lines}{_legend(timeline)}", sizing_mode="stretch_width"
    )
    title = f"{timeline.title}: what each worker did"
    text: str = file_html(column(head, *plots, sizing_mode="stretch_width"), INLINE, title)
    return text


def _workers(plot: Figure, timeline: Timeline, x_range: Range1d) -> None:
    for number, lane in enumerate(timeline.lanes):
        begins, ends = zip(*lane.alive, strict=True)
        plot.hbar(y=number, left=np.array(begins) * 1e3, right=np.array(ends) * 1e3, height=0.84, color=IDLE)
    number = sum(len(lane.spans) for lane in timeline.lanes)
    one_by_one = _bars(plot, timeline, 0)
    shown = [one_by_one]
    if number > AT_ONCE:
        together = _bars(plot, timeline, timeline.end / RESOLUTION)
        one_by_one.visible = False
        shown.append(together)
        arguments = {"all": one_by_one, "merged": together, "range": x_range, "at_once": AT_ONCE}
        zoomed = CustomJS(args=arguments, code=ZOOMED)
        x_range.js_on_change("start", zoomed)
        x_range.js_on_change("end", zoomed)
    plot.add_tools(HoverTool(renderers=shown, tooltips=HOVER, point_policy="follow_mouse"))


def _bars(plot: Figure, timeline: Timeline, resolution: float) -> Any:
    of_names = colours_of(timeline)
    found = [
        (number, lane, block) for number, lane in enumerate(timeline.lanes) for block in merged(lane.spans, resolution)
    ]
    found.sort(key=lambda one: one[2].begin)
    blocks = [block for _, _, block in found]
    heights = np.array([0.12 if block.kind == "discard" else height_of(block.depth) for block in blocks], "f4")
    data = {
        "y": np.array([number for number, _, _ in found], "f4"),
        "height": heights,
        "left": np.array([block.begin for block in blocks]) * 1e3,
        "right": np.array([block.end for block in blocks]) * 1e3,
        "colour": [FAILED if block.failed and block.spans == 1 else colour_of(block, of_names) for block in blocks],
        "name": [
            short(block.name) if block.kind == "task" else f"{block.kind} {short(block.name)}" for block in blocks
        ],
        "note": [_note(block) for block in blocks],
        "took": [duration(block.busy) for block in blocks],
        "waited": [duration(block.waited) for block in blocks],
        "lane": [lane.name for _, lane, _ in found],
        "at": [duration(block.begin) for block in blocks],
    }
    return plot.hbar(
        y="y", height="height", left="left", right="right", fill_color="colour", line_color="colour",
        line_width=0.5, source=ColumnDataSource(data),
    )  # fmt: skip


def _note(block: Block) -> str:
    notes = []
    if block.spans > 1:
        share = block.busy / (block.end - block.begin) if block.end > block.begin else 1.0
        notes.append(f"and the like: {block.spans:,}, busy {min(share, 1):.0%}; zoom in to see each")
    elif block.kind == "task" and block.depth:
        notes.append("in place")
    if block.failed:
        notes.append("failed" if block.spans == 1 else f"{block.failed:,} failed")
    return f"({', '.join(notes)})" if notes else ""


def _counts(label: str, steps: Steps, end: float, colour: str, options: dict[str, Any]) -> Figure:
    kept = thinned(steps, end / RESOLUTION / 4)
    times = np.array([time for time, _ in kept] + [end]) * 1e3
    numbers = np.array([number for _, number in kept] + [kept[-1][1]], "f4")
    plot = figure(height=110, **options)
    plot.varea_step(x=times, y1=numbers * 0, y2=numbers, step_mode="after", fill_color=colour, fill_alpha=0.5)
    plot.yaxis.axis_label = label
    plot.yaxis.ticker = BasicTicker(min_interval=1, desired_num_ticks=3, num_minor_ticks=0)
    plot.xaxis.major_label_text_font_size = "0px"  # that of the last plot is for all
    return plot


def _limits(load: list[Load], options: dict[str, Any]) -> Figure:
    plot = figure(height=85, y_range=Range1d(start=0, end=1), **options)
    found = limits(load)
    data = {
        "left": [part.begin * 1e3 for part in load],
        "right": [part.end * 1e3 for part in load],
        "colour": [OF_LIMIT[limit] for limit in found],
        "limit": [LIMITS.get(limit, "no worker") for limit in found],
    }
    drawn = plot.hbar(y=0.5, left="left", right="right", height=1, color="colour", source=ColumnDataSource(data))
    plot.add_tools(HoverTool(renderers=[drawn], tooltips="@limit", point_policy="follow_mouse"))
    plot.yaxis.ticker = []
    plot.yaxis.axis_label = "limit"
    plot.xaxis.axis_label = "ms since the recording began"
    return plot


def _legend(timeline: Timeline) -> str:
    kinds = {span.kind for span in timeline.spans()}
    shown = [(short(name), colour) for name, colour in colours_of(timeline).items()]
    shown += [(label, OF_KIND[kind]) for kind, label in KINDS.items() if kind in kinds]
    shown += [("failed", FAILED)] if any(span.failed for span in timeline.spans()) else []
    shown += [("worker idle", IDLE)]
    boxes = "".join(
        f'<span style="background: {colour}; display: inline-block; width: 1em; height: 0.8em; margin: 0 0.3em 0 1em">'
        f"</span>{escape(name, quote=False)}"
        for name, colour in shown
    )
    return f'<div style="margin-top: 0.4em">{boxes}</div>'
