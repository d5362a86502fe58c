"""What the tests of recipes share: what is needed, and how a program runs in an interpreter of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stateful_executor

ROOT = Path(__file__).parents[2]
PATIENCE = 50  # seconds, for what takes a few


def require(*modules: str) -> None:
    """Skip the test when one of `modules` is not installed; import none, as some patch what they find."""
    for module in modules:
        package = module.partition(".")[0]  # a part of one that is missing can't be looked for
        if importlib.util.find_spec(package) is None or importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'stateful-executor[recipes]'")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """For a child that imports the same `stateful_executor` as these tests do."""
    folder.chmod(0o700)
    package = str(Path(stateful_executor.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "XDG_RUNTIME_DIR": str(folder)} | more


def run(folder: Path, *args: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `args` in `folder`; `more` is for its environment."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def output_of(folder: Path, *args: str | Path, **more: str) -> str:
    """Likewise, with success and without a word on stderr; what it prints."""
    child = run(folder, *args, **more)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr
    return child.stdout
