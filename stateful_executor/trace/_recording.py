"""`record` and `Recording`: what users have of all this."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .._numbers import whole_number
from .._pool import StatefulThreadPoolExecutor
from ._attach import Attachment
from ._log import SIZE, Event, Log, Logs
from ._perfetto import write
from ._timeline import Span, Timeline, nested, timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

LIMIT = 200_000


def record(pool: StatefulThreadPoolExecutor[Any], *, limit: int = LIMIT) -> Recording:
    """Write down from now on what `pool` does, until the `with` block ends, or `stop()`.

    ::

        with trace.record(pool) as recording:
            ...
        recording.save("trace.json")        # for ui.perfetto.dev and chrome://tracing
        recording.plot("timeline.png")      # extra `plot`
        recording.html("timeline.html")     # extra `page`

    At any time, of a pool that works already as well: tasks submitted from now on are recorded, and the states of a
    worker that runs a task just now from when that has ended. To see the teardowns at the end of the pool, have its
    `with` block inside this one, or stop the recording after it; it need not be stopped, and keeps no pool alive.

    A pool that is not recorded pays nothing. One that is pays 1 to 1.5 µs of CPU time for each task
    (`benchmarks/tracing.py`), by a `task_decorator` of sorts, whose frame is one more in the tracebacks of tasks.
    Nothing is kept of a task but its function's name and its times.

    Parameters:
        pool: The pool to record; one recording at a time.
        limit: The most events kept for each worker, and as many for what happens in other threads, some 250 bytes
            each; 200,000 by default. After that each new one drops the oldest.

    Raises:
        TypeError: `pool` is no pool, or `limit` no whole number.
        ValueError: `limit` is less than 1, or the pool is being recorded already.

    .. versionadded:: 0.1
    """
    if not isinstance(pool, StatefulThreadPoolExecutor):
        raise TypeError(f"pool must be a StatefulThreadPoolExecutor, not {pool!r}")
    limit = whole_number("limit", limit, "a whole number of events")
    if limit < 1:
        raise ValueError(f"limit must be at least 1 event, not {limit}")
    return Recording(pool, limit)


class Recording:
    """What a pool did, from `record`. Can be looked at while it goes on, as often as you like, from any thread.

    Its methods may take seconds for a hundred thousand tasks, and run in the thread that calls them.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: StatefulThreadPoolExecutor[Any], limit: int) -> None:
        self._logs = Logs(limit)
        self._began: int = perf_counter_ns()
        self._ended: int | None = None
        self._title: str = pool._registry.name
        self._attachment: Attachment = Attachment(pool, self._logs)

    def stop(self) -> None:
        """Record no more, but for the end of tasks that run; what was recorded stays. May be called again."""
        self._attachment.detach()
        if self._ended is None:
            self._ended = perf_counter_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """`stop()`."""
        self.stop()

    def spans(self) -> list[Span]:
        """Return what was recorded so far, sorted by when it began.

        Tasks that run are among them, with `open` set, and those in the backlog, as `queued`; not those that were
        cancelled. A state that is being made, or a scope that goes on, is there when it has ended.
        """
        return [span for span in self._spans(self._now()) if span.kind != "there"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that https://ui.perfetto.dev and chrome://tracing open: JSON in the Trace Event Format.

        Compressed when `path` ends with `.gz`, which both open, too.
        """
        write(self._timeline(), Path(path))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the timeline with matplotlib (extra `plot`), and save it to `path`, as .png, .svg or .pdf.

        Each worker is a lane: tasks in the colour of their function, states being made in orange, idle time in grey.
        Below it the backlog and its bound, how many submitters are blocked, and what limits the pool: busy workers,
        slow states, a backlog that is too small, or nothing to do. Tasks too short to be seen are drawn together.

        Raises `ImportError` when matplotlib is missing.
        """
        from ._figure import figure

        drawn = figure(self._timeline())
        if path is not None:
            drawn.savefig(path)
        return drawn

    def html(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML page, drawn with bokeh (extra `page`), that opens without a network: zoom, and hover names.

        Raises `ImportError` when bokeh is missing.
        """
        from ._page import page

        Path(path).write_text(page(self._timeline()), encoding="utf-8")

    def __repr__(self) -> str:
        number = sum(len(log.events) // SIZE for log in (*self._logs.all, self._logs.submitters))
        going_on = "stopped" if self._ended is not None else "going on"
        return f"<Recording of {self._title}: {number:,} events, {going_on}>"

    # Reading

    def _now(self) -> int:
        return perf_counter_ns() if self._ended is None else self._ended

    def _timeline(self) -> Timeline:
        now = self._now()
        permits = self._attachment.registry.permits
        bound = None if permits is None else permits.size
        return timeline(self._title, self._seconds(now), bound, self._spans(now), self._logs.are_cut())

    def _spans(self, now: int) -> list[Span]:
        """With one of kind `there` for each log: the worker was there from then on."""
        spans: list[Span] = []
        for log in list(self._logs.all):
            spans += self._of_log(log, now)
        spans += [self._span(event, "") for event in self._logs.submitters.copy()]
        if self._ended is None:
            for task in self._attachment.waiting():
                spans.append(self._span(("queued", task.__qualname__, task.submitted, task.submitted, now, False), ""))
        spans.sort(key=lambda span: span.begin)
        return spans

    def _of_log(self, log: Log, now: int) -> list[Span]:
        running = log.running  # before the events, lest a task that ends meanwhile be in neither
        spans = [self._span(event, log.lane) for event in log.copy()]
        last = {(span.submitted, span.begin) for span in spans[-64:]}
        while running is not None:
            event = ("task", running.__qualname__, running.submitted, running.started, max(now, running.started), False)
            span = self._span(event, log.lane)._replace(open=True)
            if (span.submitted, span.begin) not in last:
                spans.append(span)
            running = running.outer
        spans.append(self._span(("there", "", log.began, log.began, log.began, False), log.lane))
        return nested(spans)

    def _span(self, event: Event, lane: str) -> Span:
        kind, name, *times, failed = event
        submitted, began, ended = map(self._seconds, times)
        return Span(kind, name, lane, submitted, began, ended, 0, failed)

    def _seconds(self, time: int) -> float:
        return max(0, time - self._began) / 1e9
