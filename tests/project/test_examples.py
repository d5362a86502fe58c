"""Each example runs in an interpreter of its own, and prints what it promises; the README shows what it prints."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stateful_executor

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

NO_FTS5 = """
import runpy, sqlite3, sys

class Connection(sqlite3.Connection):
    def execute(self, sql, *parameters):
        if "fts5" in sql:
            raise sqlite3.OperationalError("no such module: fts5")
        return super().execute(sql, *parameters)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# Runs a script, and says where it hangs.
HANGS_VISIBLY = """
import faulthandler, runpy, sys

faulthandler.dump_traceback_later(100, exit=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*args: str | Path, patience: int = 50) -> subprocess.CompletedProcess[str]:
    """Run a child interpreter that imports the same `stateful_executor` as these tests do."""
    package = str(Path(stateful_executor.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *map(str, args)], env=env, capture_output=True, encoding="utf-8", timeout=patience, check=False
    )


def output_of(name: str, *args: str) -> str:
    child = run("-W", "error", EXAMPLES / name, *args)
    assert (child.returncode, child.stderr) == (0, "")
    return child.stdout


def number(pattern: str, output: str) -> int:
    """The one number that `pattern` finds."""
    (found,) = re.findall(pattern, output)
    return int(found.replace(",", ""))


def requires_fts5() -> None:
    sqlite3 = pytest.importorskip("sqlite3", reason="this Python has no sqlite3")
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    except sqlite3.OperationalError as error:
        pytest.skip(f"this SQLite has no FTS5: {error}")
    finally:
        db.close()


def test_quickstart_prints_what_it_did() -> None:
    assert (
        output_of("quickstart.py") == "[21, 22, 23, 24, 25, 26, 27, 28]\ntorn down by each worker that set up: True\n"
    )


def test_readme_shows_the_quickstart_and_its_output() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert (EXAMPLES / "quickstart.py").read_text(encoding="utf-8") in blocks
    assert output_of("quickstart.py") in blocks


def test_search_stdlib_closes_each_connection_and_finds_something() -> None:
    requires_fts5()
    output = output_of("search_stdlib.py", "--limit", "400")
    assert 100 < number(r"([\d,]+) files,", output) <= 400
    assert number(r"([\d,]+) lines", output) > 10_000
    assert number(r"(\d+) opened", output) == number(r"(\d+) closed", output) == number(r"workers +(\d+)", output) > 0
    assert 1 <= number(r"backlog +(\d+)", output) <= number(r"of (\d+) allowed", output)
    assert number(r"(\d+) files in \d+ ms", output) > 0
    assert re.search(r"^ +\d+\.\d\d  \S+\.py\n +.*\[", output, re.MULTILINE)


def test_search_stdlib_takes_any_phrase() -> None:
    requires_fts5()
    output = output_of("search_stdlib.py", "--limit", "20", 'no "such* AND (phrase')
    assert number(r"(\d+) files in \d+ ms", output) == 0


def test_search_stdlib_says_that_fts5_is_missing() -> None:
    pytest.importorskip("sqlite3", reason="this Python has no sqlite3")
    child = run("-c", NO_FTS5, EXAMPLES / "search_stdlib.py")
    assert child.returncode == 1
    assert "FTS5" in child.stderr
    assert child.stdout == ""


def test_swap_in_prints_the_same_with_both_classes() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed: pip install 'stateful-executor[examples]'")
    child = run(EXAMPLES / "swap_in.py")
    assert child.returncode == 0, child.stderr
    assert "same output" in child.stdout
    assert re.findall(r"(\w+) +1000 results, all right; 1000 from our workers", child.stdout) == ["tqdm", "asyncio"]


def test_swap_in_says_what_to_install() -> None:
    hidden = "import runpy, sys; sys.modules['tqdm'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    child = run("-c", hidden, EXAMPLES / "swap_in.py")
    assert child.returncode == 1
    assert "pip install 'stateful-executor[examples]'" in child.stderr


def test_metrics_are_those_of_stats() -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'stateful-executor[examples]'")
    output = output_of("metrics.py")
    fields = {field.name for field in dataclasses.fields(stateful_executor.PoolStats)}
    assert set(re.findall(r"^stateful_executor_(\w+?)(?:_total)?\{", output, re.MULTILINE)) == fields
    assert 'submitted_total{pool="queries"} 101.0' in output
    assert 'failed_total{pool="queries"} 1.0' in output
    assert 'backlog{pool="queries"} 0.0' in output


def test_around_tasks_names_request_task_and_error() -> None:
    of_a_request = 3 * "request {0} in pool_0 where\n" + (
        "pool_0 divide logs: request {0}: divide raised ZeroDivisionError('division by zero')\n"
    )
    urgent = "request none in urgent_0, while 1000 tasks wait\n"
    assert output_of("around_tasks.py") == of_a_request.format(1) + of_a_request.format(2) + urgent


# Runs an example against a library in which one thing does not work.
WITHOUT = """
import runpy, sys
import stateful_executor
from stateful_executor import StateView

broken = sys.argv[1]
if broken == "discard_all":
    StateView.discard_all = lambda view: None
elif broken == "broadcast":
    broadcast = StateView.broadcast
    StateView.broadcast = lambda *args: broadcast(*args)[1:]
else:
    policy = stateful_executor.StatePolicy
    stateful_executor.StatePolicy = lambda **hooks: policy(**hooks | {broken: None})
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_word_count_is_the_count_of_one_thread() -> None:
    output = output_of("word_count.py", "--limit", "100")
    counted = [int(words.replace(",", "")) for words in re.findall(r"worker_\d +([\d,]+) words", output)]
    assert 0 < number(r"files +([\d,]+)", output) <= 100
    assert number(r"workers +(\d+)", output) == len(counted) > 0
    assert sum(counted) == number(r"words +([\d,]+),", output) > 10_000
    assert re.findall(r"equal +(\w+):", output) == ["True"]
    assert len(re.findall(r"^ +[\d,]+  [a-z]{3,}$", output, re.MULTILINE)) == 10


def test_word_count_sees_that_a_counter_is_missing() -> None:
    child = run("-c", WITHOUT, "broadcast", EXAMPLES / "word_count.py", "--limit", "20")
    assert (child.returncode, child.stderr) == (1, "")
    assert re.findall(r"equal +(\w+):", child.stdout) == ["False"]


needs_replacing = pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is open")


@needs_replacing
def test_connection_life_keeps_its_claims() -> None:
    pytest.importorskip("sqlite3", reason="this Python has no sqlite3")
    output = output_of("connection_life.py")
    assert (len(re.findall(r"^  yes ", output, re.MULTILINE)), output.count("NO ")) == (16, 0)
    made, torn_down = number(r"(\d+) made", output), number(r"(\d+) torn down", output)
    assert made == torn_down == number(r"states_made=(\d+)", output) == number(r"states_torn_down=(\d+)", output)
    assert number(r"(\d+) discarded:", output) == number(r"states_discarded=(\d+)", output)


@needs_replacing
@pytest.mark.parametrize("broken", ["check", "reset", "discard_on", "discard_all"])
def test_connection_life_needs_each_part(broken: str) -> None:
    pytest.importorskip("sqlite3", reason="this Python has no sqlite3")
    child = run("-c", WITHOUT, broken, EXAMPLES / "connection_life.py")
    assert child.returncode == 1
    assert re.search(r"^  NO  ", child.stdout, re.MULTILINE)


def test_many_cores_counts_the_same_everywhere() -> None:
    output = output_of("many_cores.py", "--limit", "60", "--workers", "2")
    assert re.findall(r"^(1 thread|2 threads|2 processes) +\d+\.\d\d s$", output, re.MULTILINE) == [
        "1 thread",
        "2 threads",
        "2 processes",
    ]
    assert re.search(r"without the GIL +(\d+\.\d\d s|no Python for it here)$", output, re.MULTILINE)
    assert number(r"([\d,]+) names", output) > 10_000


@pytest.mark.ray
@pytest.mark.timeout(150)
def test_cluster_finds_all_that_it_was_given() -> None:
    requires_fts5()
    child = run("-c", HANGS_VISIBLY, EXAMPLES / "cluster.py", "--limit", "600", patience=120)
    assert child.returncode == 0, child.stderr
    assert re.findall("^a node .*$", child.stdout, re.MULTILINE) == ["a node joins", "a node is lost"]
    sent = re.findall(
        r"^([\d,]+) files sent, (\d+) tasks lost; ([\d,]+) are in (\d+) shards$", child.stdout, re.MULTILINE
    )
    assert sent[0][0] == sent[-1][2] == "600"
    assert len(sent) > 1
    assert number(r'"race condition": (\d+) files', child.stdout) > 0
