"""What every test gets: no thread outlives it."""

import gc
import sys
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not left, f"threads left behind: {left}"


@pytest.fixture
def nervous() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
