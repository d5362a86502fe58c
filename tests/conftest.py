"""What every test gets: no thread outlives it. SWITCH_INTERVAL in the environment is for all of them, in seconds."""

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from cluster import cluster  # noqa: F401  # a fixture


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a cluster comes last: it stays until the end."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.fixture(scope="session", autouse=True)
def short_collections() -> None:
    """Have collections look at what tests make only: there is one after each test, and in many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def switch_interval() -> None:
    """Switch threads as often as is asked for."""
    sys.setswitchinterval(float(os.environ.get("SWITCH_INTERVAL", sys.getswitchinterval())))


def _known() -> set[threading.Thread]:
    """The threads there are. Up to 3.12 those that `threading` did not start stay in its list, once it has met them."""
    threads = set(threading.enumerate())
    if sys.version_info < (3, 13):
        threads = {thread for thread in threads if not isinstance(thread, threading._DummyThread)}
    return threads


@pytest.fixture(autouse=True)
def no_thread_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("cluster")  # whose threads were there before
    before = _known()
    yield
    gc.collect()
    give_up = time.monotonic() + 10
    while left := _known() - before:  # a thread may be about to start, or to end
        assert time.monotonic() < give_up, f"threads left behind: {[thread.name for thread in left]}"
        time.sleep(0.001)


@pytest.fixture
def nervous() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
