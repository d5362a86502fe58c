"""CPython's own tests of `ThreadPoolExecutor`, unmodified, on `StatefulThreadPoolExecutor`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child import PATHS

RUNNER = Path(__file__).parent / "cpython" / "swapped.py"

# Test classes whose names begin so are run; the others test process pools (interpreter pools, from 3.14 on).
THREAD_POOL = "ThreadPool"
FUTURE = "FutureTests"

# All that is left out of those, and why.
CANCELLED = "writes CANCELLED into a future's private state; ours are CANCELLED_AND_NOTIFIED at once, never that"
EXCLUDED = {
    "FutureTests.test_cancel": CANCELLED,
    "FutureTests.test_cancelled": CANCELLED,
    "FutureTests.test_done": CANCELLED,
    "FutureTests.test_exception_with_timeout": CANCELLED,
    "FutureTests.test_result_with_timeout": CANCELLED,
    "FutureTests.test_exception_with_success": "ends a future by writing its private state and notifying its private "
    "condition, on which ours never waits",
}


def has_suite() -> bool:
    """Whether this Python has come with its tests: many distributors leave them out."""
    try:
        return importlib.util.find_spec("test.test_concurrent_futures") is not None
    except ModuleNotFoundError:
        return False


def run_suite(folder: Path, prefix: str) -> dict[str, Any]:
    """What a child interpreter reports of the test classes with this prefix."""
    wanted = {
        "report": str(folder / "report.json"),
        "prefix": prefix,
        "excluded": list(EXCLUDED),
        "swap_future": prefix == FUTURE,
    }
    log = folder / "log.txt"  # which names the test that runs, should it hang
    with log.open("w") as file:
        try:
            subprocess.run(
                [sys.executable, RUNNER],
                input=json.dumps(wanted),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=240,
                check=True,
            )
        except subprocess.SubprocessError as exc:
            pytest.fail(f"{exc}\n{log.read_text()}")
    report: dict[str, Any] = json.loads(Path(wanted["report"]).read_text())
    return report


@pytest.mark.timeout(300)
@pytest.mark.skipif(not has_suite(), reason="this Python comes without test.test_concurrent_futures")
@pytest.mark.parametrize(
    ("prefix", "least", "scripts"),
    [pytest.param(THREAD_POOL, 40, 4, id="pool"), pytest.param(FUTURE, 14, 0, id="future")],
)
def test_cpythons_own_tests(tmp_path: Path, prefix: str, least: int, scripts: int) -> None:
    """CPython's tests pass, enough of them ran, and every pool in them was ours, those of their scripts included."""
    report = run_suite(tmp_path, prefix)
    assert not report["failed"], "\n".join(f"{name}\n{text}" for name, text in report["failed"].items())
    assert len(report["ran"]) >= least, f"only {report['ran']} ran; skipped were {report['skipped']}"
    assert not set(EXCLUDED) & set(report["ran"])
    assert report["pools"] >= 1
    assert len(report["pools_in_scripts"]) >= scripts
    assert all(report["pools_in_scripts"]), "a script of the tests made no pool of ours"
