"""Bugs that other pools have and this one has not, each shown on both, or on a stand-in where the other one hangs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import upstream
from child import PATHS
from upstream import BUGS, OURS, STDLIB

ABREAST = 4  # most of them wait for what will not happen

Child = subprocess.Popen[str]


def cases() -> Iterator[object]:
    """Each bug with ours and with each of those that have it."""
    for name, bug in BUGS.items():
        for pool in (OURS, *bug.rivals, *bug.mended):
            yield pytest.param(name, pool, id=f"{name}-{pool.partition('.')[0]}")


def skipped(name: str, pool: str) -> str | None:
    """Why this case is not run, if so."""
    bug = BUGS[name]
    first, last = bug.versions
    if bug.posix and sys.platform == "win32":
        return "needs signals, or fork"
    if pool == STDLIB and pool in bug.rivals and not first <= sys.version_info[:2] <= last:
        return f"the standard library has it from {first} to {last}"
    return None


def start(name: str, pool: str) -> Child:
    """Start the program of a case in an interpreter of its own."""
    return subprocess.Popen(
        [sys.executable, upstream.__file__, name, pool],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def child(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], Child]]:
    """Give the child that runs a case, and have those of the next ones started beside it."""
    items = [item for item in request.session.items if item.path == request.path]
    wanted = [(item.callspec.params["name"], item.callspec.params["pool"]) for item in items]
    children: dict[tuple[str, str], Child] = {}

    def take(name: str, pool: str) -> Child:
        here = wanted.index((name, pool))
        for case in wanted[here : here + ABREAST]:
            if case not in children and not skipped(*case):
                children[case] = start(*case)
        return children[name, pool]

    yield take
    for process in children.values():  # those of tests that were not run after all
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("name", "pool"), list(cases()))
def test_bug(name: str, pool: str, child: Callable[[str, str], Child]) -> None:
    """Ours behaves well, and the rival does not, unless it has been mended."""
    if reason := skipped(name, pool):
        pytest.skip(reason)
    if pool != OURS:
        pytest.importorskip(pool.partition(".")[0])
    good = pool == OURS or pool in BUGS[name].mended
    process = child(name, pool)
    verdict, errors = process.communicate(timeout=40)
    assert verdict == ("good\n" if good else "bad\n"), errors
    assert process.returncode == 0
