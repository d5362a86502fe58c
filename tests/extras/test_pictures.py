"""The picture and the page: drawn of all that there can be, and of many tasks; and what their figures say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recordings import everything, many

from stateful_executor.trace._timeline import Span, Timeline, duration, levels, limits, loads, merged, thinned, timeline


def task(begin: float, end: float, lane: str = "w_0", **fields: object) -> Span:
    span = Span("task", "fn", lane, begin, begin, end, 0, False)
    return span._replace(**fields)  # type: ignore[arg-type]


def drawn_of(spans: list[Span], end: float) -> Timeline:
    return timeline("pool", end, None, spans, False)


# What the figures say


def test_neighbours_too_short_to_be_seen_are_one_block() -> None:
    spans = [task(n / 1000, n / 1000 + 0.0005) for n in range(1000)] + [task(1, 2), task(2, 2.0001, failed=True)]
    blocks = merged(spans, 0.01)
    assert 20 < len(blocks) < 60
    assert sum(block.spans for block in blocks) == 1002
    assert sum(block.failed for block in blocks) == 1
    assert blocks[0].busy == pytest.approx((blocks[0].end - blocks[0].begin) / 2, rel=0.1)
    assert next((block.begin, block.end) for block in blocks if block.spans == 1) == (1, 2)
    assert len(merged(spans, 0)) == 1002


def test_nothing_is_merged_across_depths_and_states() -> None:
    spans = [task(0, 1), task(0, 0.1, depth=1), task(0.1, 0.2, kind="make", depth=1), task(0.2, 0.3, depth=1)]
    assert len(merged(spans, 5)) == 4


@pytest.mark.parametrize(
    ("spans", "bound", "limit"),
    [
        ([task(0, 10), task(0, 10, "w_1")], None, "busy"),
        ([task(0, 10), task(0, 10, "w_1", kind="make")], None, "states"),
        ([task(0, 10), task(9.9, 10, "w_1"), task(0, 0, "w_1")], None, "starved"),
        ([task(0, 10), task(0, 0, "w_1"), task(0, 10, "", kind="blocked")], 1, "backlog"),
        ([task(0, 10), task(0, 0, "w_1"), task(3, 4, "", kind="blocked")], 1, "backlog"),
        ([task(0, 0), *(task(9.99, 10, submitted=0.0) for _ in range(50))], None, "handover"),
    ],
)
def test_what_limits_the_pool(spans: list[Span], bound: int | None, limit: str) -> None:
    assert limits(loads(timeline("pool", 10, bound, spans, False), 10))[5] == limit


def test_counts_over_time() -> None:
    spans = [task(1, 3), task(2, 4, submitted=0.5)]
    drawn = drawn_of(spans, 5)
    assert drawn.running() == [(0, 0), (1, 1), (2, 2), (3, 1), (4, 0)]
    assert drawn.backlog() == [(0, 0), (0.5, 1), (1, 1), (2, 0)]
    steps = [(n / 1000, n % 7) for n in range(1000)]
    assert len(thinned(steps, 0.1)) <= 44
    assert {number for _, number in thinned(steps, 0.1)} >= {0, 6}


def test_rows_of_what_overlaps() -> None:
    spans = [task(0, 2), task(1, 3), task(2, 4)]
    assert [[span.begin for span in row] for row in levels(spans)] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 µs"), (1.5e-6, "1.5 µs"), (0.0123, "12.3 ms"), (1, "1 s"), (12345.6, "12,346 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lanes_are_in_the_order_of_numbers() -> None:
    lanes = drawn_of([task(0, 1, f"w_{n}") for n in (10, 9, 2)], 1).lanes
    assert [lane.name for lane in lanes] == ["w_2", "w_9", "w_10"]


# The picture


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'stateful-executor[plot]'")
    recording = everything()
    figure = recording.plot(tmp_path / f"timeline.{ending}")
    assert (tmp_path / f"timeline.{ending}").stat().st_size > 10_000
    workers, backlog, *_ = figure.axes
    assert [label.get_text() for label in workers.get_yticklabels()][:2] == ["w_0", "w_1"]
    assert backlog.get_ylabel() == "backlog"
    assert len(figure.axes) == 4  # submitters were blocked
    words = figure.legends[0].get_texts()
    assert {"load", "crash", "state made", "failed", "worker idle"} <= {text.get_text() for text in words}
    assert "submitters blocked" in figure.get_suptitle()


def test_the_picture_of_many_tasks_has_few_bars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'stateful-executor[plot]'")
    figure = many(10_000).plot(tmp_path / "timeline.png")
    assert sum(len(bars.get_paths()) for bars in figure.axes[0].collections) < 4 * 1500
    assert (tmp_path / "timeline.png").stat().st_size < 150_000


def test_the_picture_of_nothing() -> None:
    pytest.importorskip("matplotlib", reason="pip install 'stateful-executor[plot]'")
    from stateful_executor import StatefulThreadPoolExecutor, trace

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        pass
    assert len(recording.plot().axes) == 3


# The page


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    pytest.importorskip("bokeh", reason="pip install 'stateful-executor[page]'")
    everything().html(tmp_path / "timeline.html")
    html = (tmp_path / "timeline.html").read_text(encoding="utf-8")
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)\s*=\s*["']?(?:https?:|//)""", html)


def test_the_page_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("bokeh", reason="pip install 'stateful-executor[page]'")
    from stateful_executor import StatefulThreadPoolExecutor, trace

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        pass
    recording.html(tmp_path / "timeline.html")
    assert (tmp_path / "timeline.html").exists()
