"""A picture for a README: how many no-op tasks go through in the same time, by executor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from executors import ALL_THREE, PLAIN
from race import OURS, STDLIB, TIME, Result, short

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    sys.exit("--plot needs matplotlib: pip install 'stateful-executor[bench]'")

RACE = "no-op burst, 4 workers"
NAMES = {
    STDLIB: "concurrent.futures.ThreadPoolExecutor",
    "mp.pool": "multiprocessing.pool.ThreadPool",
    "pebble": "pebble.ThreadPool",
    "mpire": "mpire.WorkerPool, threading",
    "joblib": "joblib.Parallel, threading",
    "more-ex": "more-executors, throttled and blocking",
    "bounded": "bounded-pool-executor",
}
WITH = {
    PLAIN: "StatefulThreadPoolExecutor",
    "state": "… with a state",
    "backlog": "… with max_backlog",
    "scope": "… in a scope",
    ALL_THREE: "… with all three",
}
OURS_COLOUR, OTHERS, STDLIB_COLOUR = "#1a7f5a", "#b8bec6", "#6b7480"


def draw(results: Sequence[Result], path: Path, caption: str) -> None:
    """Without the floor, which is no executor."""
    result = next(result for result in results if result.race.title == RACE)
    bars = list(_bars(result))
    mpl.rcParams.update({"font.size": 11, "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(9, 0.42 * len(bars) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, (name, ratio, low, high, colour) in enumerate(bars):
        axes.barh(place, ratio, 0.7, color=colour)
        axes.plot([low, high], [place, place], color="black", linewidth=1, alpha=0.5)  # the quartiles
        axes.text(max(ratio, high) + 0.08, place, f"{short(ratio)} ×", va="center", fontweight="bold")  # noqa: RUF001
        axes.text(-0.1, place, name, va="center", ha="right")
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, max(bar[3] for bar in bars) * 1.12)
    axes.set_axis_off()
    figure.suptitle("Tasks per second that do nothing, 4 workers (ThreadPoolExecutor = 1)", fontweight="bold")
    figure.supxlabel(f"{caption}. Medians; thin lines: quartiles.", fontsize=8, color=STDLIB_COLOUR)
    figure.savefig(path, dpi=160, facecolor="white")


def _bars(result: Result) -> Iterator[tuple[str, float, float, float, str]]:
    """Ours in the order of the table, then others from fast to slow."""
    for row, name in WITH.items():
        if ratios := result.ratios((row, OURS), TIME):
            yield name, ratios.median, ratios.low, ratios.high, OURS_COLOUR
    others = [(who, ratios) for who in NAMES if (ratios := result.ratios((PLAIN, who), TIME))]
    for who, ratios in sorted(others, key=lambda found: -found[1].median):
        colour = STDLIB_COLOUR if who == STDLIB else OTHERS
        yield NAMES[who], ratios.median, ratios.low, ratios.high, colour
