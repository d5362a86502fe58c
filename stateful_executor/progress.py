"""A live bar over what a pool does: in a terminal, in a notebook, and as plain lines elsewhere. The extra `progress`.

    from stateful_executor import progress

    with progress.bar(pool, total=len(urls)), pool.scope() as scope:
        for url in urls:
            scope.submit(fetch, url)

    for page in progress.track(pool.map_unordered(fetch, urls), pool, total=len(urls)):
        ...

A thread of its own reads `pool.stats()` now and then, so a task costs the same with a bar and without. The core imports
nothing of this.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

from ._executor import StatefulExecutor
from ._naming import name_of, tell
from ._numbers import in_seconds, whole_number
from ._parker import Parker
from ._scope import Scope
from ._stats import PoolStats

try:
    from rich.console import Console  # pyright: ignore[reportMissingImports]
    from rich.live import Live  # pyright: ignore[reportMissingImports]
    from rich.progress_bar import ProgressBar  # pyright: ignore[reportMissingImports]
    from rich.table import Table  # pyright: ignore[reportMissingImports]
    from rich.text import Text  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as _missing:
    raise ImportError("a live bar needs rich: pip install 'stateful-executor[progress]'") from _missing

if TYPE_CHECKING:
    from ._registry import Registry

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("stateful_executor")

IN_TERMINAL, IN_NOTEBOOK = 0.1, 0.5  # seconds from one look to the next
FIRST_LINE, SELDOM = 10.0, 300.0  # plain ones: the first after so long, then whenever the time has doubled, or passed
WINDOW = 15.0  # seconds whose rate counts


def bar(
    of: StatefulExecutor[Any] | Scope[Any],
    total: int | None = None,
    *,
    description: str = "",
    workers: bool = False,
    interval: float | None = None,
    console: Console | None = None,
) -> Bar:
    """Show what a pool does while the `with` block lasts: done, failed, running, backlog, rate and time left.

    What is counted are the tasks that end inside the block, so put it around what waits for them: `with
    progress.bar(pool, total=n), pool.scope() as scope:`, or a loop over a map. A chunk of a map is one task; `track`
    counts results.

    In a terminal the bar stays below what is printed. In a notebook it is one output, without ipywidgets. Elsewhere (a
    file, a pipe, CI) there is a line after 10 seconds, one whenever that time has doubled, at least every 5 minutes,
    and one at the end.

    Parameters:
        of: A pool, of threads or processes; or a scope that has not been entered, in a pool that runs other tasks
            besides: `with progress.bar(scope := pool.scope(), total=n), scope:`. Then no more count as done than the
            scope leaves of `total`; all else is still the pool's.
        total: How many tasks there will be. Without it there is no time left to show.
        description: What stands before the bar; by default the name of the pool.
        workers: One line for each worker besides: what it runs, for how long, and how many tasks it has ended.
        interval: Seconds from one look, or plain line, to the next.
        console: Where to show it; the terminal of standard error by default.

    Raises:
        TypeError: `of` is neither, `interval` is no number, or `total` no whole number.
        ValueError: `interval` is not above 0, or `total` is negative.

    .. versionadded:: 0.1
    """
    if not isinstance(of, (StatefulExecutor, Scope)):
        raise TypeError(f"a bar is over a pool or a scope, not {of!r}: use track() for what a map returns")
    return Bar(of, total, description, workers, interval, console)


def track(
    results: Iterable[T],
    of: StatefulExecutor[Any] | Scope[Any],
    total: int | None = None,
    *,
    description: str = "",
    workers: bool = False,
    interval: float | None = None,
    console: Console | None = None,
) -> Iterator[T]:
    """Yield `results`, those of a map of the pool or scope `of`, with a bar that counts them. As `bar` otherwise.

    The bar appears with the first result asked for. What has not begun when the loop is left early is cancelled, as by
    the map itself.

    .. versionadded:: 0.1
    """
    return _tracked(
        results, bar(of, total, description=description, workers=workers, interval=interval, console=console)
    )


def _tracked(results: Iterable[T], shown: Bar) -> Iterator[T]:
    shown._yielded = 0
    iterator = iter(results)
    del results
    with shown:
        for result in iterator:
            shown._yielded += 1
            yield result


class Figures(NamedTuple):
    """What a bar shows: since its block began, but for `running`, `backlog` and `blocked`, which are of the moment."""

    done: int
    """Tasks that have ended, failed and cancelled ones too; with `track`, results yielded."""
    failed: int
    """Tasks that raised."""
    running: int
    """Tasks begun and not ended."""
    backlog: int
    """Tasks accepted and not begun."""
    blocked: int
    """Submitters that wait for a place in the backlog."""
    seconds: float
    """Seconds since the block began."""
    rate: float
    """Tasks done a second, of late."""
    left: float | None
    """Seconds until all are done, at that rate; None without a `total`, or while nothing gets done."""


class Bar:
    """A context manager, from `bar`, for one `with` block.

    `_yielded` is written by the thread that iterates, `_samples` and `_since` by whoever draws: the bar's own thread,
    and, when that has ended, the one that ends the block. The rest is written once.
    """

    def __init__(  # noqa: D107  # made by `bar`
        self,
        of: StatefulExecutor[Any] | Scope[Any],
        total: int | None,
        description: str,
        workers: bool,
        interval: float | None,
        console: Console | None,
    ) -> None:
        if total is not None:
            total = whole_number("total", total, "a whole number of tasks, or None")
            if total < 0:
                raise ValueError(f"total must be at least 0 tasks, or None, not {total}")
        if interval is not None:
            interval = in_seconds("interval", interval, "a number of seconds above 0")
            if interval <= 0:
                raise ValueError(f"interval must be a number of seconds above 0, not {interval}")
        self._scope = of if isinstance(of, Scope) else None
        self._pool: Any = of._pool if isinstance(of, Scope) else of
        self._registry: Registry = of._registry
        self._total = total
        self._description = description or self._registry.name
        self._workers = workers
        self._interval = interval
        self._console = Console(stderr=True) if console is None else console
        self._yielded: int | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._since: dict[object, tuple[object, float]] = {}
        self._over = False
        self._parker = Parker()  # on which the bar's thread sleeps; woken by the end of the block

    def __enter__(self) -> Self:
        """Begin to count, and to show."""
        self._first: PoolStats = self._pool.stats()
        self._began = time.monotonic()
        self._samples.append((self._began, 0))
        self._output: Output = self._output_of_console()
        self._thread = threading.Thread(target=self._show, name="stateful_executor.progress", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C: it may have started
            self._end()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Show the last figures, and leave them there."""
        self._end()
        self._thread.join()

    def _end(self) -> None:
        self._over = True
        self._parker.wake()

    def figures(self) -> Figures:
        """Return what the bar shows, as of now."""
        now, stats, first = time.monotonic(), self._pool.stats(), self._first
        failed = stats.failed - first.failed
        done = stats.completed - first.completed + failed + stats.cancelled - first.cancelled
        if self._yielded is not None:
            done = self._yielded
        elif self._scope is not None and self._total is not None:
            done = min(done, self._total - len(self._scope._pending))
        rate = self._rate(now, done)
        left = (self._total - done) / rate if self._total is not None and rate > 0 else None
        blocked = stats.blocked_submitters
        return Figures(done, failed, stats.running, stats.backlog, blocked, now - self._began, rate, left)

    def _rate(self, now: float, done: int) -> float:
        since, before = self._samples[0]
        return (done - before) / (now - since) if now > since else 0.0

    # Drawing

    def _output_of_console(self) -> Output:
        if self._console.is_jupyter:
            return _Notebook()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            return _Terminal(self._console)
        return _Lines(self._console)

    def _show(self) -> None:
        """In a thread of its own."""
        try:
            with self._output as output:
                self._draw_on(output)
        except Exception:  # the terminal is closed, say: the tasks go on
            tell(logger.warning, "the bar of %s can be shown no more", self._registry.name)

    def _draw_on(self, output: Output) -> None:
        while not self._over:
            if not self._parker.park(self._interval or output.pause(time.monotonic() - self._began)):
                self._draw(output)
        self._draw(output)

    def _draw(self, output: Output) -> None:
        figures = self.figures()
        now = self._began + figures.seconds
        self._samples.append((now, figures.done))
        while now - self._samples[0][0] > WINDOW and len(self._samples) > 1:
            self._samples.popleft()
        words = self._words(figures, self._over)
        rows = self._rows_of_workers(now) if self._workers else []
        if isinstance(output, _Lines):
            lines = [f"{self._description}: {words}", *("  " + ", ".join(row) for row in rows)]
            output.write("\n".join(lines) + "\n")
            return
        shown = ProgressBar(self._total, figures.done, width=24, pulse=self._total is None and not self._over)
        line = Table.grid(padding=(0, 1))
        line.add_row(Text(self._description), shown, Text(words))
        table = Table.grid()
        table.add_row(line)
        table.add_row(of_workers := Table.grid(padding=(0, 2)))
        for row in rows:
            of_workers.add_row(*(Text(cell) for cell in ("", *row)))
        output.show(table if rows else line)

    def _words(self, figures: Figures, ended: bool) -> str:
        of_total = "" if self._total is None else f" of {self._total:,}"
        words = [f"{figures.done:,}{of_total} done"]
        if figures.failed:
            words.append(f"{figures.failed:,} failed")
        if ended:
            rate = figures.done / figures.seconds if figures.seconds > 0 else 0.0
            return ", ".join([*words, f"{_clock(figures.seconds)}, {_number(rate)}/s"])
        permits = self._registry.permits
        bound = "" if permits is None else f" of {permits.size:,}"
        words += [f"{figures.running:,} running", f"backlog {figures.backlog:,}{bound}"]
        if figures.blocked:
            words.append(f"{figures.blocked:,} blocked")
        words.append(f"{_number(figures.rate)}/s")
        if figures.left is not None:
            words.append(f"{_clock(figures.left)} left")
        return ", ".join(words)

    def _rows_of_workers(self, now: float) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        since: dict[object, tuple[object, float]] = {}
        for worker in sorted(self._registry.workers.live.copy(), key=lambda worker: worker.index):
            fn, ended = worker.fn, worker.completed + worker.counts.failed
            known = self._since.get(worker)
            what = (id(fn), ended)
            since[worker] = known if known is not None and known[0] == what else (what, now)
            runs = "idle" if fn is None else name_of(fn).rpartition("<locals>.")[2]
            del fn
            rows.append((worker.thread.name, runs, _clock(now - since[worker][1]), f"{ended:,} ended"))
        self._since = since
        return rows


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if whole < 10:
        return f"{seconds:.1f} s"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class _Terminal:
    """Below what is printed meanwhile."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def pause(self, _: float) -> float:
        """How long to wait from one look to the next, in a block that has lasted so long."""
        return IN_TERMINAL

    def show(self, drawn: Table) -> None:
        """Instead of what was shown before."""
        self._live.update(drawn, refresh=True)


class _Notebook:
    """One output of a cell, drawn anew. Made by the thread that runs the cell, to which that output belongs."""

    def __init__(self) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        self._handle: Any = display(Text(""), display_id=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pause(self, _: float) -> float:
        """As the terminal's."""
        return IN_NOTEBOOK

    def show(self, drawn: Table) -> None:
        """As the terminal's."""
        self._handle.update(drawn)


class _Lines:
    """Plain lines, seldom."""

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pause(self, seconds: float) -> float:
        """As the terminal's."""
        return min(max(FIRST_LINE, seconds), SELDOM)

    def write(self, lines: str) -> None:
        """After what was written before."""
        self._file.write(lines)
        self._file.flush()


Output: TypeAlias = "_Terminal | _Notebook | _Lines"
