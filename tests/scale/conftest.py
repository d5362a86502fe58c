"""Folders for what tasks tell, each kind of pool, and no process left behind."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from kinds import KINDS, REMOTE, Gate, Kind, Notes
from threads import until


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of pool under test."""
    return request.param


@pytest.fixture(params=REMOTE, ids=str)
def remote(request: pytest.FixtureRequest) -> Kind:
    """The same, of those whose workers are in processes of their own."""
    return request.param


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """What tasks tell."""
    return Notes(tmp_path / "notes")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Where tasks wait."""
    return Gate(tmp_path)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail a test that leaves a child behind, or one that nobody has waited for."""
    yield
    until(lambda: not multiprocessing.active_children())
