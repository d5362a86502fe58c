"""Tracing tools, which patch `ThreadPoolExecutor.submit` and `Thread.start`: whose request a task is part of.

Each case (`cases.py`) runs in an interpreter of its own, with one tool.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from cases import CASES
from child import PATHS, PATIENCE
from tools import TOOLS


@pytest.mark.parametrize(("tool", "case"), [(tool, case.__name__) for tool, cases in CASES.items() for case in cases])
def test_with(tool: str, case: str) -> None:
    try:
        installed = {package: version(package) for package in TOOLS[tool].needs}
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: pip install 'stateful-executor[instrumentation]'")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("cases.py")), tool, case],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{installed}\n{done.stderr}"
