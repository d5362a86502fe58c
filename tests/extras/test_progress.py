"""`progress`: what is counted, and what is shown in a terminal, as plain lines, and by tqdm."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from inside import hook
from threads import until

from stateful_executor import StatefulProcessPoolExecutor, StatefulThreadPoolExecutor

rich_console = pytest.importorskip("rich.console", reason="pip install 'stateful-executor[progress]'")

from stateful_executor import progress  # noqa: E402  # it needs rich
from stateful_executor.progress import _clock, _number  # noqa: E402

OFTEN = 0.001  # seconds


def nothing(*_: object) -> None:
    pass


def fail(*_: object) -> None:
    raise LookupError


def console(file: io.StringIO, terminal: bool) -> Any:
    return rich_console.Console(file=file, force_terminal=terminal, force_jupyter=False, width=120)


@pytest.fixture
def plain() -> io.StringIO:
    return io.StringIO()


def last_line(file: io.StringIO) -> str:
    return file.getvalue().splitlines()[-1]


# Counting


def test_figures() -> None:
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1, max_backlog=5) as pool:
        pool.submit(nothing).result()  # before the block, so not counted
        with progress.bar(pool, 10, console=console(io.StringIO(), terminal=False)) as bar:
            pool.submit(nothing).result()
            pool.submit(fail).exception()
            pool.submit(go_on.wait, 20)
            until(lambda: pool.stats().running)
            queued = [pool.submit(nothing) for _ in range(3)]
            queued[0].cancel()
            figures = bar.figures()
            go_on.set()
    assert (figures.done, figures.failed, figures.running, figures.backlog, figures.blocked) == (3, 1, 1, 2, 0)
    assert figures.rate == pytest.approx(3 / figures.seconds)
    assert figures.left == pytest.approx(7 / figures.rate)


def test_a_scope_leaves_what_it_leaves() -> None:
    """Tasks of others are not done for it."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(2) as pool:
        scope = pool.scope()
        with progress.bar(scope, 3, console=console(io.StringIO(), terminal=False)) as bar, scope:
            futures = [scope.submit(nothing), *(scope.submit(go_on.wait, 20) for _ in range(2))]
            futures[0].result()
            until(lambda: pool.stats().running == 2)
            until(lambda: bar.figures().done == 1)
            go_on.set()
            for future in [pool.submit(nothing) for _ in range(10)]:
                future.result()
            for future in futures:
                future.result()
            until(lambda: bar.figures().done == 3)
    assert bar.figures().done == 3


def test_what_is_tracked_are_results(plain: io.StringIO) -> None:
    """Not tasks, of which a chunk is one."""
    with StatefulThreadPoolExecutor(2, "w") as pool:
        results = pool.map(abs, range(-20, 0), chunksize=10)
        tracked = progress.track(results, pool, 20, console=console(plain, terminal=False))
        assert list(tracked) == list(range(20, 0, -1))
    assert re.fullmatch(r"w: 20 of 20 done, [\d.]+ s, [\d,.e+]+/s", last_line(plain))


def test_a_loop_that_is_left_cancels_the_rest(plain: io.StringIO) -> None:
    go_on = threading.Event()

    def first_only(n: int) -> int:
        return n if n == 0 else go_on.wait(20)

    with StatefulThreadPoolExecutor(1) as pool:
        for _ in progress.track(pool.map(first_only, range(10)), pool, console=console(plain, terminal=False)):
            break
        until(lambda: pool.stats().cancelled == 8)
        go_on.set()
    assert " 1 done" in last_line(plain)


def test_an_error_comes_out_of_the_loop(plain: io.StringIO) -> None:
    with StatefulThreadPoolExecutor(1) as pool:
        with pytest.raises(LookupError):
            list(progress.track(pool.map(fail, range(3)), pool, console=console(plain, terminal=False)))
    assert " 0 done, " in last_line(plain)  # results, not tasks


def test_a_pool_of_processes(plain: io.StringIO) -> None:
    with StatefulProcessPoolExecutor(1) as pool:
        results = progress.track(
            pool.map(abs, range(-3, 0)), pool, 3, workers=True, console=console(plain, terminal=False)
        )
        assert list(results) == [3, 2, 1]
    assert "3 of 3 done" in plain.getvalue()


# Showing


def test_plain_lines_are_seldom(plain: io.StringIO) -> None:
    """Of a short block there is one, at the end; without control characters, and without a bar."""
    with StatefulThreadPoolExecutor(2, "w") as pool:
        with (
            progress.bar(pool, 50, description="loading", console=console(plain, terminal=False)),
            pool.scope() as scope,
        ):
            for _ in range(50):
                scope.submit(nothing)
    (line,) = plain.getvalue().splitlines()
    assert line.startswith("loading: 50 of 50 done, ")
    assert line.isprintable()
    assert line.isascii()


def test_when_plain_lines_come() -> None:
    """After 10 seconds, whenever the time has doubled, and every 5 minutes."""
    lines = progress._Lines(console(io.StringIO(), terminal=False))
    seconds, times = 0.0, []
    while seconds < 1300:
        seconds += lines.pause(seconds)
        times.append(seconds)
    assert times == [10, 20, 40, 80, 160, 320, 620, 920, 1220, 1520]


def test_plain_lines_while_it_goes_on(plain: io.StringIO) -> None:
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1, "w", max_backlog=4) as pool:
        with progress.bar(pool, 10, workers=True, interval=OFTEN, console=console(plain, terminal=False)):
            pool.submit(nothing).result()
            pool.submit(go_on.wait, 20)
            until(lambda: pool.stats().running)
            pool.submit(nothing)
            until(lambda: "1 running, backlog 1 of 4" in plain.getvalue())
            until(lambda: "w_0, Event.wait, " in plain.getvalue())
            go_on.set()
            until(lambda: "3 ended" in plain.getvalue())
    shown = plain.getvalue()
    assert re.search(r"^w: 1 of 10 done, 1 running, backlog 1 of 4, .*/s, .* left$", shown, re.MULTILINE)
    assert re.search(r"^  w_0, idle, [\d.]+ s, 3 ended$", shown, re.MULTILINE)


def test_in_a_terminal() -> None:
    """One bar, drawn over and over, and what is printed above it."""
    screen = io.StringIO()
    with StatefulThreadPoolExecutor(2, "w") as pool:
        with progress.bar(pool, 20, workers=True, interval=OFTEN, console=console(screen, terminal=True)):
            list(pool.map(nothing, range(20)))
            until(lambda: "20 of 20 done" in screen.getvalue())
            until(lambda: "w_0" in screen.getvalue())
    shown = screen.getvalue()
    assert "\x1b[2K" in shown  # a line is erased
    assert "━" in shown
    assert shown.endswith("\x1b[?25h")  # the cursor is back


def test_without_a_total() -> None:
    screen = io.StringIO()
    with StatefulThreadPoolExecutor(2) as pool, progress.bar(pool, console=console(screen, terminal=True)):
        list(pool.map(nothing, range(20)))
    assert "20 done, " in screen.getvalue()
    assert " left" not in screen.getvalue()


def test_a_file_that_fails_stops_the_bar_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError("no space left")

    with StatefulThreadPoolExecutor(1, "w") as pool, caplog.at_level(logging.WARNING):
        with progress.bar(pool, console=console(Broken(), terminal=False)):
            assert pool.submit(abs, -1).result() == 1
    assert "the bar of w can be shown no more" in caplog.text


def test_a_bar_that_can_not_start_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in its start, after the thread has begun."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with StatefulThreadPoolExecutor(1) as pool:
        bar = progress.bar(pool, console=console(io.StringIO(), terminal=False))
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bar.__enter__()
        monkeypatch.undo()


def test_it_only_reads_stats(monkeypatch: pytest.MonkeyPatch, plain: io.StringIO) -> None:
    """A task takes no other way with a bar: nothing in the pool is replaced."""
    with StatefulThreadPoolExecutor(1, initializer=list) as pool:
        pool.submit(nothing).result()
        before = dict(vars(pool))
        with progress.bar(pool, console=console(plain, terminal=False)):
            assert dict(vars(pool)) == before
            assert hook("Registry.put")[0] is type(before["_registry"])
            assert before["_registry"].decorate is None


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"of": 3}, TypeError, "a bar is over a pool or a scope, not 3: use track"),
        ({"total": -1}, ValueError, "total must be at least 0 tasks, or None, not -1"),
        ({"total": "ten"}, TypeError, "total must be a whole number of tasks"),
        ({"interval": 0}, ValueError, "interval must be a number of seconds above 0, not 0"),
        ({"interval": "often"}, TypeError, "interval must be a number of seconds above 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with StatefulThreadPoolExecutor(1) as pool, pytest.raises(error, match=re.escape(text)):
        progress.bar(**({"of": pool} | arguments))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.4, "9.4 s"), (65, "1:05"), (3 * 3600 + 61, "3:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert _clock(seconds) == text


def test_numbers() -> None:
    assert [_number(rate) for rate in (0.123, 9.94, 10, 12345.6)] == ["0.12", "9.9", "10", "12,346"]


# tqdm, which people have already


@pytest.mark.parametrize("name", ["map", "map_unordered"])
def test_tqdm_around_a_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm", reason="pip install 'stateful-executor[examples]'")
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # a thread that stays
    shown = io.StringIO()

    def numbers() -> Iterator[int]:
        yield from range(100)

    with StatefulThreadPoolExecutor(4, initializer=list) as pool:
        for submitter, fn in (pool, abs), (pool.with_state(), lambda state, n: n):
            results = getattr(submitter, name)(fn, numbers(), buffersize=8)
            assert sorted(tqdm.tqdm(results, total=100, file=shown)) == list(range(100))
        with pool.scope() as scope:
            assert sorted(tqdm.tqdm(getattr(scope, name)(abs, range(10)), total=10, file=shown)) == list(range(10))
    assert shown.getvalue().count("100/100") >= 2
    assert "10/10" in shown.getvalue()
