"""What differs between the kinds of pool, line by line of the table in docs/scale.md; all else is tested alike."""

import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import kinds
import pytest
from child import PATHS
from kinds import PROCESSES, THREADS, Gate, Kind, begin, push
from threads import until

from stateful_executor import StatefulProcessPoolExecutor, StatefulThreadPoolExecutor, StatePolicy, WorkerLost

DOCS = Path(__file__).parents[2] / "docs" / "scale.md"


def rows() -> list[str]:
    """The first column of the table."""
    table = DOCS.read_text(encoding="utf-8").partition("## What differs")[2].partition("\n## ")[0]
    return [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("|")][2:]


@pytest.mark.parametrize("row", rows())
def test_each_line_has_a_test(row: str) -> None:
    """Of that name."""
    assert "test_" + re.sub(r"\W", "_", row) in globals()


def echo(thing: Any) -> Any:
    return thing


def test_arguments_and_results(kind: Kind, gate: Gate) -> None:
    """The objects, or copies of what they were."""
    things: list[Any] = [1]
    with kind.make(1) as pool:
        with kinds.held(pool, gate):
            future = pool.submit(echo, things)
            things.append(2)
        assert (future.result() is things) is not kind.remote
        assert future.result() == ([1] if kind.remote else [1, 2])


def test_what_can_t_be_pickled(kind: Kind) -> None:
    """By threads it is taken as anything else."""

    def local(*_: object) -> Callable[[], None]:
        return lambda: None

    with kind.make(1) as pool:
        if not kind.remote:
            assert callable(pool.submit(local).result())
            assert callable(pool.with_state(local).submit(local).result())
            return
        for door in pool.submit, pool.with_state, pool.broadcast:
            with pytest.raises(pickle.PicklingError, match="local"):
                door(local)  # type: ignore[operator]
        with pytest.raises(pickle.PicklingError, match="result of make_lambda"):
            pool.submit(make_lambda).result()


def make_lambda() -> Any:
    return lambda: None


ERROR = LookupError("one")


def raise_that() -> None:
    raise ERROR


def test_errors(kind: Kind) -> None:
    """The same one, or one like it with the traceback that it had."""
    with kind.make(1) as pool:
        error = pool.submit(raise_that).exception()
    assert isinstance(error, LookupError)
    assert (error is ERROR) is not kind.remote
    assert error.args == ("one",)
    assert ("in raise_that" in str(error.__cause__)) is kind.remote


def test_death_of_a_worker(tmp_path: Path) -> None:
    """That task is lost; the next one has a new state. More in test_lost_workers.py."""
    notes = kinds.Notes(tmp_path / "notes")
    with StatefulProcessPoolExecutor(1, begin, (notes,), finalizer=kinds.State.close) as pool:
        assert pool.with_state().submit(push).result() == 1
        with pytest.raises(WorkerLost, match="exit code 5"):
            pool.submit(kinds.die_with, None).result()
        assert pool.with_state().submit(push).result() == 1
    assert notes.lines() == ["made state", "made state", "closed state there"]


def test_a_task_that_hangs() -> None:
    """Its worker can be killed. More in test_lost_workers.py."""
    with StatefulProcessPoolExecutor(1) as pool:
        future = pool.submit(kinds.rest, 1000)
        until(lambda: pool.kill_worker(future))
        assert isinstance(future.exception(), WorkerLost)
    assert not hasattr(StatefulThreadPoolExecutor, "kill_worker")


def test_submits_in_a_task(kind: Kind) -> None:
    """To its own pool, and to one that it makes."""
    with kind.make(2) as pool:
        if kind.remote:
            with pytest.raises(pickle.PicklingError, match=r"can't be pickled.*make a pool where it is needed"):
                pool.submit(submit_to, pool)
        else:
            assert pool.submit(submit_to, pool).result() == 2
        assert pool.submit(submit_to_new).result() == 2


def submit_to(pool: Any) -> int:
    return pool.submit(kinds.add, 1).result()


def submit_to_new() -> int:
    with StatefulThreadPoolExecutor(1) as pool:
        return submit_to(pool)


def test_views_in_a_task(kind: Kind) -> None:
    """What a task may do with one."""
    with kind.make(2, initializer=begin) as pool:
        view = pool.with_state()
        assert view.submit(kinds.get_through, view).result()
        for use in submit_through, discard_all_through:
            if kind.remote:
                with pytest.raises(RuntimeError, match="its own pool, which is in another process"):
                    pool.submit(use, view).result()
            else:
                pool.submit(use, view).result()


def submit_through(view: Any) -> int:
    return view.submit(push).result()


def discard_all_through(view: Any) -> None:
    view.discard_all()


@pytest.mark.skipif(sys.platform == "win32", reason="no signal 0")
def test_exit_timeout(kind: Kind, tmp_path: Path) -> None:
    """What becomes of a task that hangs. That of a thread goes with the process."""
    script = f"""
        import kinds, os, pathlib, stateful_executor

        if __name__ == "__main__":
            gate = kinds.Gate(pathlib.Path({str(tmp_path)!r}))
            pool = stateful_executor.{kind.make.__name__}(1, exit_timeout=0.01)
            pool.submit(gate.wait)
            gate.until_came()
    """
    (tmp_path / "program.py").write_text(dedent(script))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0
    assert "has not ended 0.01 seconds after" in done.stderr
    pid = int(kinds.Gate(tmp_path).notes.lines()[0])
    until(lambda: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_class(kind: Kind) -> None:
    """What code that asks sees."""
    with kind.make(3) as pool:
        assert isinstance(pool, Executor)
        assert isinstance(pool, ThreadPoolExecutor) is not kind.remote
        assert hasattr(pool, "_work_queue") is not kind.remote
        assert not isinstance(pool, ProcessPoolExecutor)


@pytest.mark.parametrize("kind", [THREADS, PROCESSES], ids=str)
def test_options(kind: Kind) -> None:
    """Those of the other kind are unknown."""
    options = {"thread_name_prefix": "x", "copy_context": True, "task_decorator": None}
    others: dict[str, Any] = {"mp_context": "spawn", "pickler": pickle}
    right, wrong = (others, options) if kind.remote else (options, others)
    kind.make(1, **right).shutdown()
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=name):
            kind.make(1, **{name: value})
    if kind.remote:
        with pytest.raises(ValueError, match=r"mp_context must be one of .*'spawn'.* not 'thread'"):
            kind.make(1, mp_context="thread")


def test_default_of_max_workers(kind: Kind) -> None:
    """As in the standard library."""
    theirs = ProcessPoolExecutor if kind.remote else ThreadPoolExecutor
    with kind.make() as pool, theirs() as other:
        assert f"of {other._max_workers} workers" in repr(pool)  # type: ignore[attr-defined]


def test_states_counted(kind: Kind) -> None:
    """In a pool without an initializer."""
    with kind.make(1) as pool:
        assert pool.submit(kinds.add, 1).result() == 2
        assert pool.stats().states_made == kind.remote
        assert pool.with_state(begin).submit(push).result() == 1
        assert pool.stats().states_made == 1 + kind.remote


def test_logged_by_a_policy(kind: Kind, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """A warning, say. In a worker's process, whose logging nobody has set up, it goes to stderr."""
    options = {"mp_context": "spawn"} if kind.remote else {}  # a fork server writes to where stderr was as it started
    with kind.make(1, initializer=begin, policy=StatePolicy(reset=kinds.refuse), **options) as pool:
        assert pool.with_state().submit(push).result() == 1
    text = "reset of a state made by begin raised"
    assert [record.levelno for record in caplog.records if text in record.getMessage()] == (
        [] if kind.remote else [logging.WARNING]
    )
    assert (text in capfd.readouterr().err) is kind.remote
