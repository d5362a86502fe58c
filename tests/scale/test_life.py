"""Whole programs with pools of processes: how they start, are interrupted, killed, and end; what is left then."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from child import PATHS
from kinds import Notes
from threads import until

METHODS = multiprocessing.get_all_start_methods()
PATIENCE = 40  # seconds, for what ends at once unless something is broken

PRELUDE = """
import os, signal, sys, threading, time
from kinds import Gate, Notes, State, add, begin, push, rest, where
from pathlib import Path
from stateful_executor import StatefulProcessPoolExecutor, WorkerLost

folder, method = Path(sys.argv[1]), sys.argv[2]
notes, gate = Notes(folder / "notes"), Gate(folder)


def make(name="state"):
    notes.add("made", name, os.getpid())
    yield name
    notes.add("closed", name, os.getpid())


def open_pool(number=1, **options):
    return StatefulProcessPoolExecutor(number, make, mp_context=method, **options)

"""

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no signals to others"),
    pytest.mark.timeout(2 * PATIENCE),
]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """The start method."""
    return request.param


@pytest.fixture
def start(tmp_path: Path, method: str) -> Iterator[Start]:
    """Starts a program in a process group of its own, of which nothing may be left in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *, prelude: str = PRELUDE, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(prelude + dedent(script))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", *(options or (str(path),)), str(tmp_path), method],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.wait(PATIENCE)
        until(partial(_has_ended, process.pid), PATIENCE)
        process.communicate()  # closes what is open


def _has_ended(group: int) -> bool:
    """Whether no process of that group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Its exit code, its lines and its errors."""
    out, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, out.splitlines(), errors


def test_main(start: Start, notes: Notes) -> None:
    """Functions of the main module, with the guard."""
    process = start("""
        def double(x):
            return 2 * x


        if __name__ == "__main__":
            with open_pool(2) as pool:
                print(pool.submit(double, 4).result(), *pool.map(double, range(3)))
    """)
    assert finish(process) == (0, ["8 0 2 4"], "")
    assert [line.split()[0] for line in notes.lines()][-1] == "closed"


def test_no_guard(start: Start, method: str) -> None:
    """With fork nothing is amiss; else the error says what to do, in the program and in its children."""
    process = start("""
        with open_pool() as pool:
            print(pool.submit(add, 1).result())
    """)
    code, lines, errors = finish(process)
    if method == "fork":
        assert (code, lines, errors) == (0, ["2"], "")
        return
    assert code == 1
    assert lines == []
    assert 'under `if __name__ == "__main__":`' in errors
    assert "BrokenThreadPool" in errors


@pytest.mark.parametrize("options", [("-c", "SCRIPT")], ids=["-c"])
def test_no_file(start: Start, options: tuple[str, ...], method: str) -> None:
    """A program without a file: its own functions are not to be found by children, others are."""
    script = PRELUDE + dedent("""
        def double(x):
            return 2 * x


        with StatefulProcessPoolExecutor(1, mp_context=method) as pool:
            print(pool.submit(add, 1).result())
            print(type(pool.submit(double, 1).exception()).__name__)
    """)
    code, lines, errors = finish(start("", options=(options[0], script)))
    assert (code, lines, errors) == (0, ["2", "NoneType" if method == "fork" else "UnpicklingError"], "")


def test_parent_killed(start: Start, notes: Notes) -> None:
    """An idle worker tears down and ends at once, one that runs a task after that."""
    process = start("""
        if __name__ == "__main__":
            pool = open_pool(2)
            pool.submit(gate.wait)
            gate.until_came()
            print(pool.submit(add, 1).result(), flush=True)
            rest(1000)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "2\n"
    process.kill()
    until(lambda: sum("closed" in line for line in notes.lines()) == 1)
    (Path(notes.path).parent / "gate-opened").touch()
    until(lambda: sum("closed" in line for line in notes.lines()) == 2)


def test_interrupt(start: Start, notes: Notes) -> None:
    """As on threads: what runs ends, what waits is cancelled, states are torn down. One traceback."""
    process = start("""
        if __name__ == "__main__":
            with open_pool() as pool:
                running = pool.submit(gate.wait)
                gate.until_came()
                waiting = pool.submit(notes.add, "never")
                try:
                    print("ready", flush=True)
                    rest(1000)
                finally:
                    threading.Timer(0.2, gate.open).start()
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, _, errors = finish(process)
    assert code == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert [line.split()[0] for line in notes.lines()] == ["made", "closed"]


def test_interrupt_while_children_start(start: Start, notes: Notes) -> None:
    """They import the main module, which takes its time here; one traceback all the same.

    From 3.14 on a fork server has imported it before it forks them.
    """
    process = start(
        """
        if __name__ == "__main__":
            with open_pool(2) as pool:
                futures = [pool.submit(add, 1) for _ in range(2)]
                print("ready", flush=True)
                gate.until_came(2 if method == "spawn" or method == "forkserver" and sys.version_info < (3, 14) else 0)
                os.killpg(0, signal.SIGINT)
                rest(1000)
        elif method != "forkserver" or os.getppid() != int(os.environ["MAIN"]):
            gate.notes.add("importing")
            rest(0.3)
    """,
        prelude='import os, sys\nos.environ.setdefault("MAIN", str(os.getpid()))\n' + PRELUDE,
    )
    code, _, errors = finish(process)
    assert code == -signal.SIGINT, errors
    assert errors.count("Traceback") == 1, errors


def test_exit_without_shutdown(start: Start, notes: Notes) -> None:
    """The exit of the interpreter runs what is queued, and has states torn down."""
    process = start("""
        if __name__ == "__main__":
            pool = open_pool()
            first, *_ = [pool.submit(notes.add, number) for number in range(3)]
            if (3, 12) <= sys.version_info < (3, 12, 2):  # these fork no process once the exit has begun
                first.result()
    """)
    assert finish(process) == (0, [], "")
    assert [line.split()[0] for line in notes.lines()] == ["made", "0", "1", "2", "closed"]


def test_exit_timeout(start: Start, notes: Notes) -> None:
    """The process of a task that hangs is killed."""
    process = start("""
        if __name__ == "__main__":
            pool = open_pool(exit_timeout=0.1)
            pool.submit(gate.wait)
            gate.until_came()
    """)
    code, lines, errors = finish(process)
    assert (code, lines) == (0, [])
    assert "has not ended 0.1 seconds after" in errors
    assert "Gate.wait" in errors


def test_fork_by_the_user(start: Start, notes: Notes) -> None:
    """A forked child can't use the pool of its parent, and does not keep its workers from seeing that end."""
    process = start("""
        if __name__ == "__main__":
            pool = open_pool()
            print(pool.submit(add, 1).result(), flush=True)
            if os.fork() == 0:
                try:
                    pool.submit(add, 1)
                except RuntimeError as exc:
                    print(type(exc).__name__, flush=True)
                gate.wait()
                os._exit(0)
            gate.until_came()
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    process.wait(PATIENCE)
    until(lambda: notes.lines()[-1].startswith("closed"))
    (Path(notes.path).parent / "gate-opened").touch()
    code, lines, errors = finish(process)
    assert (code, lines, errors) == (-signal.SIGKILL, ["2", "BrokenThreadPool"], "")


def test_pools_in_a_task(start: Start) -> None:
    """A task can use pools of its own, of either kind."""
    process = start("""
        from stateful_executor import StatefulThreadPoolExecutor


        def use(method):
            with StatefulThreadPoolExecutor(2) as pool, StatefulProcessPoolExecutor(1, mp_context=method) as other:
                with pool.scope() as scope:
                    future = scope.submit(add, 1)
                return future.result() + other.submit(add, 1).result()


        if __name__ == "__main__":
            with open_pool() as pool:
                print(pool.submit(use, method).result())
    """)
    assert finish(process) == (0, ["4"], "")
