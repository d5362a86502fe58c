"""What differs between the kinds of pool, line by line of the table in docs/scale.md; all else is tested alike."""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import kinds
import pytest
from child import PATHS
from cluster import is_running, knows_of_death, stopped
from kinds import PROCESSES, Gate, Kind, Notes, begin, push
from threads import until

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy, WorkerLost

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
        lock = threading.Lock()
        if kind.name == "ray":
            assert callable(pool.submit(local).result())
            assert callable(pool.with_state(local).submit(local).result())
            unpicklable: Any = partial(local, lock)
        else:
            unpicklable = local
        for door in pool.submit, pool.with_state, pool.broadcast:
            with pytest.raises(pickle.PicklingError, match="local"):
                door(unpicklable)
        with pytest.raises(pickle.PicklingError, match="result of make_generator"):
            pool.submit(make_generator).result()


def make_generator() -> Any:
    return (_ for _ in ())


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


def test_death_of_a_worker(kind: Kind, notes: Notes) -> None:
    """That task is lost; the next one has a new state. More in test_lost_workers.py and test_lost_actors.py."""
    if not kind.remote:
        return
    with kind.make(1, begin, (notes,), finalizer=kinds.State.close) as pool:
        assert pool.with_state().submit(push).result() == 1
        with pytest.raises(WorkerLost, match="exit code 5" if kind is PROCESSES else "ActorDiedError"):
            pool.submit(kinds.die_with, None).result()
        assert pool.with_state().submit(push).result() == 1
    assert notes.lines() == ["made state", "made state", "closed state there"]


def test_death_of_an_idle_worker(kind: Kind, gate: Gate) -> None:
    """Costs no task, where that is known at once. It is known soon on Ray, too."""
    if not kind.remote:
        return
    with kind.make(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        if kind is PROCESSES:
            until(lambda: not is_running(pid))
            assert pool.submit(os.getpid).result() != pid
            return
        lost = 0
        for _ in range(3):
            lost += isinstance(pool.submit(os.getpid).exception(), WorkerLost)
        assert lost <= 1
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        until(lambda: knows_of_death(pool))
        assert pool.submit(os.getpid).result() != pid


def test_death_of_your_process(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """By SIGKILL: what becomes of the task that runs, and of its state."""
    if not kind.remote:
        return
    notes, gate = Notes(tmp_path / "notes"), Gate(tmp_path)
    script = """
        with make(1, initializer=kinds.begin_and_end, initargs=(kinds.Notes(folder / "notes"),)) as pool:
            pool.submit(kinds.wait_and_note, gate, kinds.Notes(folder / "notes"))
            gate.until_came()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert program(kind, script, tmp_path, request)[0] == -signal.SIGKILL
    (worker,) = map(int, gate.notes.lines())
    if kind is PROCESSES:
        assert is_running(worker)
        gate.open()
    until(lambda: not is_running(worker))
    assert notes.lines() == (["made state", "ran", "closed state there"] if kind is PROCESSES else ["made state"])


def test_end_of_the_cluster_s_connection(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`ray.shutdown()` before the pool's: tasks are lost, and no cluster is started behind your back."""
    if kind.name != "ray":
        return
    script = """
        pool = make(1, initializer=kinds.begin_and_end, initargs=(kinds.Notes(folder / "notes"),))
        running = pool.submit(gate.wait)
        gate.until_came()
        waiting = pool.submit(kinds.add, 1)
        # Ray ends a process one of whose threads is about to call it then, and not yet asleep in there.
        kinds.until(lambda: "get_objects" in [frame.f_code.co_name for frame in sys._current_frames().values()])
        ray.shutdown()
        try:
            running.exception(15)
        except TimeoutError:
            print("it never returns", flush=True)
            os._exit(0)
        print(type(running.exception()).__name__, type(waiting.exception()).__name__, ray.is_initialized())
        pool.shutdown()
        try:
            make(1)
        except RuntimeError as exc:
            print(exc)
    """
    _, out, _ = program(kind, script, tmp_path, request)
    if out.startswith("it never returns"):
        pytest.skip("Ray 2.60.0 does not always return from ray.get() when there is a ray.shutdown() in another thread")
    assert out.startswith("WorkerLost InitializerError False")
    assert "needs a Ray cluster, and this process is connected to none: call ray.init() first" in out
    assert Notes(tmp_path / "notes").lines() == ["made state"]


def test_a_task_that_hangs(kind: Kind) -> None:
    """Its worker can be killed. More in test_lost_workers.py."""
    if not kind.remote:
        assert not hasattr(StatefulThreadPoolExecutor, "kill_worker")
        return
    with kind.make(1) as pool:
        future = pool.submit(kinds.rest, 1000)
        until(lambda: pool.kill_worker(future))
        assert isinstance(future.exception(), WorkerLost)


def test_loss_of_sight_of_a_worker(kind: Kind, gate: Gate, notes: Notes, request: pytest.FixtureRequest) -> None:
    """The daemon of its node is stopped, as if it were cut off."""
    if kind.name != "ray":
        return
    with request.getfixturevalue("cluster").node(resources={"elsewhere": 1}) as node:
        with kind.make(1, actor_options={"resources": {"elsewhere": 1}}) as pool:
            future = pool.submit(kinds.wait_and_note, gate, notes)
            gate.until_came()
            with stopped(node):
                with pytest.raises(WorkerLost):
                    future.result()
                gate.open()
                until(lambda: notes.lines() == ["ran"])


def test_a_worker_that_can_t_start_yet(kind: Kind, gate: Gate, request: pytest.FixtureRequest) -> None:
    """It joins when it can; nobody waits for it before, not even the end. More in test_lost_actors.py."""
    if kind.name != "ray":
        return
    options = {"actor_options": {"resources": {"elsewhere": 1}}}
    with kind.make(2, **options) as pool:
        future = pool.submit(kinds.add, 1)
        assert pool.broadcast(kinds.where) == []
        with request.getfixturevalue("cluster").node(resources={"elsewhere": 1}):
            assert future.result() == 2
            futures = [pool.submit(gate.wait) for _ in range(2)]
            gate.until_came()
            gate.open()
            assert [future.result() for future in futures] == [None, None]
            pool.shutdown()


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
def test_exit_timeout(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What becomes of a task that hangs. That of a thread goes with the process."""
    script = """
        pool = make(1, exit_timeout=0.01)
        pool.submit(gate.wait)
        gate.until_came()
    """
    code, _, errors = program(kind, script, tmp_path, request)
    assert code == 0
    assert "has not ended 0.01 seconds after" in errors
    pid = int(Gate(tmp_path).notes.lines()[0])
    until(lambda: not is_running(pid))


def program(kind: Kind, script: str, folder: Path, request: pytest.FixtureRequest) -> tuple[int, str, str]:
    """`script` as the main module of an interpreter of its own, where `make` makes a pool of that kind.

    Its exit code, and what it printed.
    """
    prelude = f"""
        import kinds, os, pathlib, signal, sys

        make, folder = kinds.{kind.name.upper()}.make, pathlib.Path({str(folder)!r})
        gate = kinds.Gate(folder)
    """
    if kind.name == "ray":
        address = request.getfixturevalue("cluster").address
        script = f"import ray\nray.init({address!r}, logging_level='error', log_to_driver=False)\n{dedent(script)}"
    main = f'{dedent(prelude)}\nif __name__ == "__main__":\n{indent(dedent(script), "    ")}'
    (folder / "program.py").write_text(main)
    with open(folder / "out", "w+") as out, open(folder / "errors", "w+") as errors:  # which others may keep open
        done = subprocess.run(
            [sys.executable, str(folder / "program.py")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=out,
            stderr=errors,
            timeout=40,
            check=False,
        )
    return done.returncode, (folder / "out").read_text(), (folder / "errors").read_text()


def test_the_class(kind: Kind) -> None:
    """What code that asks sees."""
    with kind.make(3) as pool:
        assert isinstance(pool, Executor)
        assert isinstance(pool, ThreadPoolExecutor) is not kind.remote
        assert hasattr(pool, "_work_queue") is not kind.remote
        assert not isinstance(pool, ProcessPoolExecutor)


OPTIONS: dict[str, dict[str, Any]] = {
    "threads": {"thread_name_prefix": "x", "copy_context": True, "task_decorator": None},
    "processes": {"mp_context": "spawn", "pickler": pickle},
    "ray": {"actor_options": {"num_cpus": 0.5}, "pickler": pickle},
}


def test_options(kind: Kind) -> None:
    """Those of other kinds are unknown."""
    kind.make(1, **OPTIONS[kind.name]).shutdown()
    for name, value in {name: value for other in OPTIONS.values() for name, value in other.items()}.items():
        if name not in OPTIONS[kind.name]:
            with pytest.raises(TypeError, match=name):
                kind.make(1, **{name: value})
    if kind is PROCESSES:
        with pytest.raises(ValueError, match=r"mp_context must be one of .*'spawn'.* not 'thread'"):
            kind.make(1, mp_context="thread")
    if kind.name == "ray":
        for refused in {"max_concurrency": 2}, {"max_restarts": 1}, {"name": "one"}, {"lifetime": "detached"}:
            with pytest.raises(ValueError, match=f"actor_options can't have '{next(iter(refused))}'"):
                kind.make(1, actor_options=refused)
        with pytest.raises(ValueError, match="nonsense"):
            kind.make(1, actor_options={"nonsense": 1})


def test_default_of_max_workers(kind: Kind) -> None:
    """As in the standard library; a cluster has no size."""
    if kind.name == "ray":
        with pytest.raises(TypeError, match="max_workers"):
            kind.make()
        with pytest.raises(TypeError, match="a whole number of actors, not None"):
            kind.make(None)
        return
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


def test_logged_by_a_policy(
    kind: Kind,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """A warning, say. In a worker's process, whose logging nobody has set up, it goes to stderr."""
    options = (
        {"mp_context": "spawn"} if kind is PROCESSES else {}
    )  # a fork server writes to where stderr was as it started
    with kind.make(1, initializer=begin, policy=StatePolicy(reset=kinds.refuse), **options) as pool:
        assert pool.with_state().submit(push).result() == 1
    text = "reset of a state made by begin raised"
    assert [record.levelno for record in caplog.records if text in record.getMessage()] == (
        [] if kind.remote else [logging.WARNING]
    )
    if kind.name == "ray":
        until(lambda: text in request.getfixturevalue("cluster").logged())
    else:
        assert (text in capfd.readouterr().err) is kind.remote
