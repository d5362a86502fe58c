"""Workers that die: one task fails with `WorkerLost`, and the next one finds a new worker with a new state."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from pathlib import Path

import kinds
import pytest
from cluster import knows_of_death
from kills import storm
from kinds import PROCESSES, Gate, Kind, Notes, State, begin, held, push
from threads import until

from stateful_executor import InitializerError, StatefulProcessPoolExecutor, WorkerLost

SECONDS = float(os.environ.get("SECONDS_OF_KILLS", "2"))  # for each start method

METHODS = multiprocessing.get_all_start_methods()

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")


def die(how: str) -> None:
    if how in ("SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, how))
    elif how == "SIGABRT":
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)
    else:
        os._exit(3)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGABRT", "exit code 3"])
def test_dies_in_a_task(how: str, notes: Notes) -> None:
    """The error names the signal, or the exit code."""
    with StatefulProcessPoolExecutor(1, begin, (notes,), finalizer=State.close) as pool:
        view = pool.with_state()
        assert view.submit(push).result() == 1
        lost = pool.submit(die, how)
        waiting = view.submit(push)
        with pytest.raises(WorkerLost, match=how) as caught:
            lost.result()
        assert isinstance(caught.value, BrokenExecutor)
        assert waiting.result() == 1
        assert pool.stats().states_discarded == 1
    assert notes.lines() == ["made state", "made state", "closed state there"]  # no teardown of the first one


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])  # for the latter Ray has a handler, which raises SystemExit
def test_others_go_on(how: str, remote: Kind, gate: Gate) -> None:
    """Those that other workers run, and those that wait."""
    with remote.make(2) as pool:
        other = pool.submit(gate.wait, "other")
        gate.until_came()
        waiting = [pool.submit(kinds.add, number) for number in range(20)]
        assert isinstance(pool.submit(die, how).exception(), WorkerLost)
        gate.open()
        assert other.result() == "other"
        assert [future.result() for future in waiting] == [number + 1 for number in range(20)]


def test_dies_idle(notes: Notes) -> None:
    """That costs no task."""
    with StatefulProcessPoolExecutor(1, begin, (notes,)) as pool:
        view = pool.with_state(begin, (notes, "other"))
        assert view.submit(push).result() == 1
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        until(lambda: _has_ended(pid))
        assert view.submit(push).result() == 1
        assert pool.submit(os.getpid).result() != pid
    assert notes.lines() == ["made state", "made other"] * 2


@pytest.mark.parametrize("when", ["in a task", "idle"])
def test_another_one_is_made_before_a_task_is_taken(
    remote: Kind, when: str, notes: Notes, gate: Gate, tmp_path: Path
) -> None:
    """So that the task is another worker's meanwhile, however long that takes."""
    both = Gate(tmp_path, "both")
    with remote.make(2, begin_or_wait, (notes, gate)) as pool:
        with held(pool, both, 2):
            pass
        if when == "idle":
            pid = pool.submit(os.getpid).result()
            os.kill(pid, signal.SIGKILL)
            until(lambda: knows_of_death(pool))
        else:
            assert isinstance(pool.submit(die, "SIGKILL").exception(), WorkerLost)
        assert [pool.submit(kinds.add, number).result() for number in range(20)] == list(range(1, 21))
        gate.open()


def test_broadcasts_are_for_the_next_one(remote: Kind, gate: Gate) -> None:
    """None is sent to a worker that is known to be lost."""
    with remote.make(1) as pool, gate:
        running = pool.submit(gate.wait)
        gate.until_came()
        parts = [future for _ in range(3) for future in pool.broadcast(kinds.where)]
        waiting = pool.submit(kinds.add, 1)
        until(lambda: pool.kill_worker(running))
        assert isinstance(running.exception(), WorkerLost)
        assert len({future.result() for future in parts}) == 1
        assert waiting.result() == 2


def begin_or_wait(notes: Notes, gate: Gate) -> None:
    """The third time it waits."""
    notes.add("made")
    if len(notes.lines()) == 3:
        gate.wait()


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_dies_in_the_initializer(remote: Kind) -> None:
    """The first time that breaks the pool, as an initializer that raises does; later it fails one task."""
    with remote.make(1, die, ("exit code 3",)) as pool:
        with pytest.raises(BrokenThreadPool) as caught:
            pool.submit(kinds.add, 1).result()
        assert isinstance(caught.value.__cause__, WorkerLost)
        assert ("exit code 3" if remote is PROCESSES else "before it was ready") in str(caught.value.__cause__)
    with remote.make(1) as pool:
        assert pool.submit(kinds.add, 1).result() == 2
        with pytest.raises(InitializerError, match="die") as failed:
            pool.with_state(die, ("SIGKILL",)).submit(push).result()
        assert isinstance(failed.value.__cause__, WorkerLost)
        assert pool.submit(kinds.add, 1).result() == 2


def test_dies_in_the_teardown(remote: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The pool ends all the same. That of a scope is told by the scope."""
    with remote.make(1, begin, finalizer=kinds.die_with) as pool:
        assert pool.submit(kinds.add, 1).result() == 2
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as scope:
            scope.with_state(begin, (None, "other"), finalizer=kinds.die_with).submit(push)
        assert isinstance(caught.value.exceptions[0], WorkerLost)
        assert pool.submit(kinds.add, 1).result() == 2


def test_scope_goes_on(remote: Kind) -> None:
    """A task that is lost is one of its errors, and its states are made anew."""
    with remote.make(1) as pool:
        with pytest.raises(ExceptionGroup) as caught, pool.scope() as scope:
            view = scope.with_state(begin)
            first = view.submit(push)
            scope.submit(die, "SIGKILL")
            second = view.submit(push)
        assert isinstance(caught.value.exceptions[0], WorkerLost)
        assert (first.result(), second.result()) == (1, 1)


def test_kill_worker(remote: Kind, gate: Gate) -> None:
    """The worker of a running task, and no other."""
    with remote.make(2) as pool:
        other = pool.submit(gate.wait, "other")
        gate.until_came()
        hangs = pool.submit(kinds.rest, 1000)
        until(hangs.running)
        waiting = pool.submit(kinds.add, 1)
        assert not pool.kill_worker(waiting)
        until(lambda: pool.kill_worker(hangs))  # it may be running, and its worker be about to start
        with pytest.raises(WorkerLost, match="SIGKILL" if remote is PROCESSES else "ActorDiedError"):
            hangs.result()
        assert not pool.kill_worker(hangs)
        assert waiting.result() == 2
        gate.open()
        assert other.result() == "other"


def test_kill_worker_of_another_pool(gate: Gate) -> None:
    """Nothing happens."""
    with StatefulProcessPoolExecutor(1) as pool, StatefulProcessPoolExecutor(1) as other, held(other, gate):
        task = other.submit(kinds.add, 1)
        assert not pool.kill_worker(task)


def test_kill_worker_as_the_task_ends(remote: Kind) -> None:
    """Then either it is killed, and the task may have its result all the same; or it is not. The next one is safe."""
    with remote.make(1) as pool:
        for _ in range(30 if remote is PROCESSES else 5):
            future = pool.submit(kinds.add, 1)
            following = pool.submit(kinds.add, 2)
            while not future.done() and not pool.kill_worker(future):
                pass
            assert following.result() == 3
            assert future.exception() is None or isinstance(future.exception(), WorkerLost)


def start_what_stays(seconds: int) -> int:
    """A process that has inherited all there is to be inherited, and outlives its parent."""
    for file in os.listdir("/dev/fd"):
        with suppress(OSError):
            os.set_inheritable(int(file), True)
    return os.spawnlp(os.P_NOWAIT, "sleep", "sleep", str(seconds))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_grandchild_holds_the_pipe(method: str) -> None:
    """The death of a worker is noticed all the same."""
    with StatefulProcessPoolExecutor(1, mp_context=method) as pool:
        grandchild = pool.submit(start_what_stays, 100).result()
        started = time.monotonic()
        assert isinstance(pool.submit(die, "SIGKILL").exception(), WorkerLost)
        assert time.monotonic() - started < 20
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize("method", METHODS)
def test_random_kills(method: str, tmp_path: Path) -> None:
    """Every future is done, no task runs twice, and each kill costs one task at most."""
    threads = threading.active_count()
    report = storm(partial(StatefulProcessPoolExecutor, mp_context=method), tmp_path, SECONDS)
    assert report.tasks > report.kills > 0
    assert threading.active_count() == threads
