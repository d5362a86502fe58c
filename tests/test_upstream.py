"""Bugs that other pools have and this one has not, each shown on both; the programs are in `upstream`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import upstream
from upstream import BUGS, OURS, STDLIB

import stateful_executor

PATHS = [str(Path(stateful_executor.__file__).parents[1]), str(Path(__file__).parent)]


def cases() -> Iterator[object]:
    """Each bug with ours and with each of those that have it."""
    for name, bug in BUGS.items():
        for pool in (OURS, *bug.rivals, *bug.mended):
            yield pytest.param(name, pool, id=f"{name}-{pool.partition('.')[0]}")


@pytest.mark.parametrize(("name", "pool"), list(cases()))
def test_bug(name: str, pool: str) -> None:
    """Ours behaves well, and the rival does not, unless it has been mended."""
    first, last = BUGS[name].versions
    good = pool == OURS or pool in BUGS[name].mended
    if pool == STDLIB and not first <= sys.version_info[:2] <= last:
        pytest.skip(f"the standard library has it from {first} to {last}")
    if pool != OURS:
        pytest.importorskip(pool.partition(".")[0])
    done = subprocess.run(
        [sys.executable, upstream.__file__, name, pool],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.stdout == ("good\n" if good else "bad\n"), done.stderr
    assert done.returncode == 0
