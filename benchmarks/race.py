"""A race: what is measured in turn in the same rounds, and the bars that its figures have to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from _paired import Spread, in_turn, spread

STDLIB = "stdlib"
OURS = "ours"
FLOOR = "floor"

DURATION = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
SIZE = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"))


class Figure(NamedTuple):
    """What a measure tells. Less is better. An absolute one is shown as it is, others as ratios to the baseline."""

    name: str
    unit: tuple[tuple[float, str], ...] = DURATION
    absolute: bool = False


TIME = Figure("")  # for one task
BYTES = Figure("", SIZE)
GROWTH = Figure("growth of peak", SIZE, absolute=True)

Figures = dict[Figure, float]
Cell = tuple[str, str]  # row and executor


class Bar(NamedTuple):
    """The least ratio of another cell's figure to this one's: by default of the baseline's."""

    at_least: float
    figure: Figure = TIME
    against: Cell | None = None
    noisy: bool = False  # then it is missed only if the upper quartile is below it, too


class Ceiling(NamedTuple):
    """The largest figure that will do, in any round."""

    at_most: float
    figure: Figure


@dataclass(frozen=True)
class Entry:
    """One executor in one row."""

    row: str
    who: str
    measure: Callable[[], Figures]
    bars: tuple[Bar | Ceiling, ...] = ()

    @property
    def cell(self) -> Cell:
        return self.row, self.who


@dataclass(frozen=True)
class Race:
    """What is compared in the same rounds. The baseline is the standard library's first entry."""

    question: str
    title: str
    entries: Sequence[Entry]
    effort: float = 1  # of the rounds asked for: more for what is quick and noisy, fewer for what is slow
    rehearsed: bool = True  # by a round that doesn't count
    own_baselines: bool = False  # each row has its own: the standard library's entry in that row

    def run(self, rounds: int) -> Result:
        measures = [entry.measure for entry in self.entries]
        if self.rehearsed:
            in_turn(measures, 1)
        outcomes = in_turn(measures, max(round(rounds * self.effort), 1))
        return Result(self, {entry.cell: figures for entry, figures in zip(self.entries, outcomes, strict=True)})


@dataclass(frozen=True)
class Verdict:
    """Whether a bar was reached, in words."""

    reached: bool
    text: str


@dataclass(frozen=True)
class Result:
    """The figures of a race, those of each round."""

    race: Race
    rounds: dict[Cell, list[Figures]]

    def baseline(self, row: str) -> Cell:
        return next(
            entry.cell
            for entry in self.race.entries
            if entry.who == STDLIB and (entry.row == row or not self.race.own_baselines)
        )

    def rows(self) -> list[tuple[str, Figure]]:
        """In the order of the entries, with each figure that any executor has there."""
        return list(dict.fromkeys((row, figure) for (row, _), rounds in self.rounds.items() for figure in rounds[0]))

    def figures(self, cell: Cell, figure: Figure) -> list[float] | None:
        rounds = self.rounds.get(cell)
        return [one[figure] for one in rounds] if rounds and figure in rounds[0] else None

    def ratios(self, cell: Cell, figure: Figure, against: Cell | None = None) -> Spread | None:
        """Of another cell to this one, round by round: above 1, this one is faster or smaller."""
        own, others = self.figures(cell, figure), self.figures(against or self.baseline(cell[0]), figure)
        return (
            spread([other / mine for mine, other in zip(own, others, strict=True)])
            if own and others and all(own)
            else None
        )

    def verdicts(self) -> list[Verdict]:
        return [self._verdict(entry, bar) for entry in self.race.entries for bar in entry.bars]

    def _verdict(self, entry: Entry, bar: Bar | Ceiling) -> Verdict:
        name = ", ".join(filter(None, (self.race.title, entry.row, bar.figure.name)))
        if isinstance(bar, Ceiling):
            most = max(self.figures(entry.cell, bar.figure) or ())
            return Verdict(
                most <= bar.at_most, f"{name}: {shown(most, bar.figure)}, at most {shown(bar.at_most, bar.figure)}"
            )
        ratios = self.ratios(entry.cell, bar.figure, bar.against)
        assert ratios is not None
        reached = (ratios.high if bar.noisy else ratios.median) >= bar.at_least
        other = "" if bar.against is None else f" against {' '.join(reversed(bar.against))}"
        low, median, high = map(short, ratios)
        return Verdict(reached, f"{name}{other}: {median} ({low} to {high}), at least {short(bar.at_least)}")


def short(figure: float) -> str:
    if abs(figure) < 0.01:
        return "<.01" if figure else "0"
    return f"{figure:.2f}" if abs(figure) < 10 else f"{figure:.1f}" if abs(figure) < 100 else f"{figure:,.0f}"


def scaled(figure: float, kind: Figure) -> tuple[float, str]:
    """The largest unit of which there is at least one."""
    fitting = [unit for unit in kind.unit if unit[0] <= abs(figure)]
    return (fitting or kind.unit)[-1 if fitting else 0]


def shown(figure: float, kind: Figure) -> str:
    scale, unit = scaled(figure, kind)
    return f"{short(figure / scale)} {unit}"
