"""SIGINT at random moments, many times, in interpreters of their own: see `storm`.

STATEFUL_EXECUTOR_INTERRUPTS=3000 sends that many in each scenario.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import storm
from storm import SCENARIOS

STORM = storm.__file__
INTERRUPTS = int(os.environ.get("STATEFUL_EXECUTOR_INTERRUPTS", "150"))
PATIENCE = 60 + INTERRUPTS // 10  # seconds

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself"),
    pytest.mark.timeout(2 * PATIENCE),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_storm(scenario: str) -> None:
    """After each: the scope joined, no task lost nor run later, no place lost, states torn down in their threads."""
    done = subprocess.run(
        [sys.executable, STORM, scenario, str(INTERRUPTS), "--seed", str(INTERRUPTS)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(scenario, report)
    assert report["faults"] == []
    assert report["interrupts"] == INTERRUPTS
    assert report["in the library"] > INTERRUPTS // 4
    assert "bug in stateful_executor" not in done.stderr


def communicate(child: subprocess.Popen[str]) -> tuple[str, str]:
    """What it has said. Python loses an interrupt that comes while an object is collected: then it gets another."""
    for _ in range(5):
        try:
            return child.communicate(timeout=PATIENCE / 6)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
    child.kill()
    raise AssertionError(child.communicate())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_not_caught(scenario: str) -> None:
    """The process ends, soon, as Ctrl-C ends one, with one traceback; what ran has ended, and all is torn down."""
    dice = random.Random(scenario)  # noqa: S311  # the same moments each time, as far as the machine allows
    children = [
        subprocess.Popen(
            [sys.executable, STORM, scenario, "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(dice.random() * 0.01)  # the stretch of time after which the signal comes
        child.send_signal(signal.SIGINT)
    for child in children:
        output, errors = communicate(child)
        assert errors.count("Traceback") == 1 + errors.count("Exception ignored"), errors
        assert errors.strip().endswith("KeyboardInterrupt"), errors
        assert child.returncode == -signal.SIGINT
        assert json.loads(output) == {"states left": 0, "tasks cut off": 0}
