"""mypy and pyright on the library, on right.py and on wrong.py."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPING = ROOT / "tests" / "typing"
OLDEST_AND_NEWEST = ["3.11", "3.13"]

pytestmark = pytest.mark.timeout(300)  # pyright may fetch Node.js when it first runs


def run(tool: str, *args: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a tool of this interpreter's, which finds the package in this tree."""
    return subprocess.run(
        [sys.executable, "-m", tool, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def mypy() -> str:
    """Skip without mypy."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    return "mypy"


@pytest.fixture(scope="module")
def pyright() -> str:
    """Skip without pyright, or when it can't be started: its npm package needs the network once."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    try:
        started = run("pyright", "--version")
    except subprocess.TimeoutExpired:
        pytest.skip("pyright did not start in time")
    if started.returncode != 0:
        pytest.skip(f"pyright can't be started: {(started.stdout + started.stderr)[-200:].strip()}")
    return "pyright"


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
def test_mypy(mypy: str, version: str) -> None:
    """The library and both files are clean under the configuration of this project, which is strict."""
    done = run(mypy, "--strict", "--python-version", version, "stateful_executor", TYPING)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
def test_pyright(pyright: str, version: str) -> None:
    """The library and both files are clean under the configuration of this project."""
    done = run(pyright, "--pythonversion", version)
    assert done.returncode == 0, done.stdout + done.stderr


def test_type_completeness(pyright: str, tmp_path: Path) -> None:
    """Every type that users can come across is written down, so that all checkers agree on it."""
    # From elsewhere, since pyright looks for packages on the path, not in its project.
    done = run(pyright, "--verifytypes", "stateful_executor", "--ignoreexternal", cwd=tmp_path)
    assert "Type completeness score: 100%" in done.stdout, done.stdout + done.stderr


def marked(comment: str) -> dict[int, set[str]]:
    """The lines of wrong.py with a mistake, and the rules that the comment silences there."""
    lines = (TYPING / "wrong.py").read_text(encoding="utf-8").splitlines()
    found = ((number, re.search(rf"# {comment}: ignore\[(.+?)\]", line)) for number, line in enumerate(lines, 1))
    return {number: set(match[1].split(", ")) for number, match in found if match is not None}


@pytest.fixture
def unmarked(tmp_path: Path) -> Path:
    """wrong.py without the comments that silence the tools."""
    text = (TYPING / "wrong.py").read_text(encoding="utf-8")
    path = tmp_path / "wrong.py"
    path.write_text(re.sub(r"  # type: ignore.*", "", text), encoding="utf-8")
    return path


def assert_same(reported: Mapping[int, set[str]], expected: Mapping[int, set[str]]) -> None:
    """Every marked line is reported, for the rules that it is marked with, and no other line is."""
    assert len(expected) > 50
    assert dict(reported) == dict(expected)


def test_mypy_finds_every_mistake(mypy: str, unmarked: Path) -> None:
    """Without its comment each wrong call is an error to mypy."""
    done = run(mypy, "--strict", "--output", "json", unmarked)
    reported: dict[int, set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        if line.startswith("{") and (error := json.loads(line))["severity"] == "error":
            reported[error["line"]].add(error["code"])
    assert_same(reported, marked("type"))


def test_pyright_finds_every_mistake(pyright: str, unmarked: Path) -> None:
    """Without its comment each wrong call is an error to pyright."""
    done = run(pyright, "--outputjson", unmarked, cwd=unmarked.parent)
    reported: dict[int, set[str]] = defaultdict(set)
    for error in json.loads(done.stdout)["generalDiagnostics"]:
        if error["severity"] == "error":
            reported[error["range"]["start"]["line"] + 1].add(error["rule"])
    assert_same(reported, marked("pyright"))


def test_both_tools_find_the_same_mistakes() -> None:
    """A mistake is marked for both tools or not at all."""
    assert marked("type").keys() == marked("pyright").keys()
