"""The figures of a race in lines of text, or as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from _paired import spread
from executors import ADAPTERS
from race import Figure, Result, scaled, short

LABEL, COLUMN = 29, 10
NOTHING = ("-", "")


def text(result: Result, columns: list[str]) -> Iterator[str]:
    """Medians on one line and quartiles on the next."""
    yield result.race.title
    yield " " * LABEL + "".join(name.rjust(COLUMN) for name in columns)
    for row, figure in result.rows():
        cells = [_cell(result, row, name, figure) for name in columns]
        yield _label(row, figure).ljust(LABEL) + "".join(median.rjust(COLUMN) for median, _ in cells)
        if any(quartiles for _, quartiles in cells):
            yield " " * LABEL + "".join(quartiles.rjust(COLUMN) for _, quartiles in cells)


def markdown(result: Result, columns: list[str]) -> Iterator[str]:
    yield f"| {result.race.title} | {' | '.join(columns)} |"
    yield "| --- |" + " ---: |" * len(columns)
    for row, figure in result.rows():
        cells = (_cell(result, row, name, figure) for name in columns)
        shown = (f"{median} ({quartiles})" if quartiles else median for median, quartiles in cells)
        yield f"| {_label(row, figure)} | {' | '.join(shown)} |"


def columns() -> list[str]:
    return list(ADAPTERS)


def _label(row: str, figure: Figure) -> str:
    return f"{row}, {figure.name}" if figure.name else row


def _cell(result: Result, row: str, who: str, figure: Figure) -> tuple[str, str]:
    """The baseline's figure, or its ratio to this one; and the quartiles of either."""
    cell = row, who
    figures = result.figures(cell, figure)
    if figures is None:
        return NOTHING
    if cell == result.baseline(row) or figure.absolute:
        low, median, high = spread(figures)
        scale, unit = scaled(median, figure)
        return f"{short(median / scale)} {unit}", _range(low / scale, high / scale, len(figures))
    ratios = result.ratios(cell, figure)
    if ratios is None:
        return NOTHING
    return short(ratios.median), _range(ratios.low, ratios.high, len(figures))


def _range(low: float, high: float, rounds: int) -> str:
    return "-".join(dict.fromkeys((short(low), short(high)))) if rounds > 1 else ""
