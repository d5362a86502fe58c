"""The benchmarks run, with next to no tasks: what they print is looked at, the figures are not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stateful_executor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ("--quick", "--rounds", "1", "--tasks", "40", "--items", "400")
ALTERED = "import runpy, sys; sys.path.insert(0, {0!r}); {1}; runpy.run_path({0!r}, run_name='__main__')"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a child interpreter that imports the same `stateful_executor` as these tests do."""
    package = str(Path(stateful_executor.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *args], env=env, capture_output=True, encoding="utf-8", timeout=50, check=False
    )


def altered(change: str, *args: str) -> subprocess.CompletedProcess[str]:
    return run("-c", ALTERED.format(str(BENCHMARKS), change), *args)


@pytest.mark.parametrize(
    ("question", "races"),
    [
        ("short", {"with Pool(n) as pool: list(pool.map(fn, items))": 7, "many workers, many pools, import": 3}),
        ("burst", {f"no-op burst, {count}": 7 for count in ("1 worker", "4 workers", "16 workers", "64 workers")}),
        ("options", {"our other options, no-op burst, 4 workers": 6}),
        ("producers", {"4 submitting threads, 4 workers": 7}),
        ("fan-out", {"fan-out: tasks that submit 100 tasks each, 4 workers": 7}),
        ("map", {"map over 80 items, no chunks, 4 workers": 7, "map over 400 items, chunks of 100, 4 workers": 7}),
        (
            "memory",
            {
                f"bytes of a queued task, {number} arguments, each in a process of its own": 7
                for number in ("no", "two")
            },
        ),
    ],
)
def test_each_row_is_printed(question: str, races: dict[str, int], tmp_path: Path) -> None:
    kept = tmp_path / "rounds.json"
    child = run(str(BENCHMARKS), *TINY, "--only", question, "--json", str(kept))
    assert (child.returncode, child.stderr) == (0, "")
    tables = {lines[0]: lines[2:] for block in child.stdout.split("\n\n") if (lines := block.splitlines())}
    for race, rows in races.items():
        assert len([row for row in tables[race] if not row.startswith(" ")]) == rows, tables[race]
    records = json.loads(kept.read_text(encoding="utf-8"))
    assert {one["question"] for one in records} == {question}
    assert all(one["rounds"] for one in records)
    assert {"ours", "stdlib"} <= {one["executor"] for one in records}


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--check",), 1)])
def test_check_fails_when_a_bar_is_missed(options: tuple[str, ...], code: int) -> None:
    change = "import race; race.Result.verdicts = lambda result: [race.Verdict(False, 'a bar')]"
    child = altered(change, *TINY, "--only", "fan-out", *options)
    assert (child.returncode, child.stderr) == (code, "")
    assert "missed: a bar" in child.stdout


def test_tracing_is_measured() -> None:
    child = run(str(BENCHMARKS / "tracing.py"), "--rounds", "1", "--tasks", "1000")
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.count("  on  ") == child.stdout.count("  off, recorded before") == 5


def test_plot_says_what_to_install() -> None:
    child = altered("sys.modules['matplotlib'] = None", "--plot", "picture.png")
    assert child.returncode == 1
    assert "pip install 'stateful-executor[bench]'" in child.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no /proc")
def test_processes() -> None:
    options = "--rounds", "1", "--tasks", "20", "--only", "burst,cores,memory"
    child = run("-W", "ignore", str(BENCHMARKS / "processes.py"), *options)
    assert (child.returncode, child.stderr) == (0, "")
    lines = child.stdout.splitlines()
    assert lines[0].startswith("burst: ProcessPoolExecutor")
    assert [line.partition(":")[0] for line in lines[-2:]] == ["computing", "memory of each process, 1000 tasks"]


@pytest.mark.ray
def test_ray_actors() -> None:
    options = "--rounds", "1", "--tasks", "4", "--only", "round-trip,memory"
    child = run("-W", "ignore", str(BENCHMARKS / "ray_actors.py"), *options)
    assert child.returncode == 0, child.stderr
    for start in "round trip: bare calls ", "memory, 200 tasks", "  bar ":
        assert re.search(f"^{start}", child.stdout, re.MULTILINE), child.stdout
