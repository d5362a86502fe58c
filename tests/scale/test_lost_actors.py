"""Ray: actors that die, nodes that are lost or come, and actors that there is no room for."""

import os
import time
from pathlib import Path
from typing import Any

import kinds
import pytest
from cluster import Cluster, actors, knows_of_death
from inside import handles, setup_of_a_server
from kills import dice, kill, storm
from kinds import RAY, Gate, Notes, State, begin, held, push
from threads import until

from stateful_executor import WorkerLost

SECONDS = float(os.environ.get("SECONDS_OF_KILLS", "12"))

ROOM = {"num_cpus": 2, "resources": {"room": 2}}
NEEDS_ROOM: dict[str, Any] = {"actor_options": {"resources": {"room": 1}}}

pytestmark = pytest.mark.ray


def test_joins_when_a_node_does(cluster: Cluster, gate: Gate, notes: Notes) -> None:
    """Tasks are for those that are there already."""
    with RAY.make(4, begin, (notes,), finalizer=State.close, **NEEDS_ROOM) as pool, cluster.node(**ROOM):
        with held(pool, gate, 2):
            futures = [pool.submit(kinds.add, number) for number in range(4)]
        assert [future.result() for future in futures] == [1, 2, 3, 4]
        assert notes.lines() == ["made state"] * 2
        with cluster.node(**ROOM):
            until(lambda: len(handles(pool)) == 4)
            assert len({future.result() for future in pool.broadcast(kinds.where)}) == 4
            pool.shutdown()
    assert sorted(notes.lines()) == ["closed state there"] * 4 + ["made state"] * 4


def test_node_lost_in_tasks(cluster: Cluster, gate: Gate) -> None:
    """That costs those that ran there, and no other."""
    with cluster.node(**ROOM) as lost, RAY.make(4, **NEEDS_ROOM) as pool:
        with cluster.node(**ROOM), gate:
            running = [pool.submit(gate.wait) for _ in range(4)]
            gate.until_came(4)
            waiting = [pool.submit(kinds.add, number) for number in range(20)]
            cluster.lose(lost)
            until(lambda: sum(future.done() for future in running) == 2)
            gate.open()
            errors = [future.exception() for future in running]
            assert sum(isinstance(error, WorkerLost) for error in errors) == 2
            assert errors.count(None) == 2
            assert [future.result() for future in waiting] == list(range(1, 21))
            with cluster.node(**ROOM):
                until(lambda: len(handles(pool)) == 4)
            pool.shutdown()


def test_node_lost_before_a_broadcast(cluster: Cluster, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for the part of a worker that there is no room for any more."""
    monkeypatch.setattr("stateful_executor.ray.PATIENCE", 0.1)
    with cluster.node(**ROOM) as lost, RAY.make(1, **NEEDS_ROOM) as pool:
        running = pool.submit(gate.wait)
        gate.until_came()
        (part,) = pool.broadcast(kinds.where)
        cluster.lose(lost)
        assert isinstance(running.exception(), WorkerLost)
        with pytest.raises(WorkerLost, match="no room for another"):
            part.result(20)
        assert not pool.broadcast(kinds.where)
        with cluster.node(**ROOM):
            assert pool.submit(kinds.add, 1).result(20) == 2


def test_node_lost_idle(cluster: Cluster, gate: Gate) -> None:
    """No task waits for an actor that there is no room for, while others have nothing to do."""
    with cluster.node(**ROOM) as lost, RAY.make(4, **NEEDS_ROOM) as pool:
        with cluster.node(**ROOM):
            with held(pool, gate, 4):
                pass
            cluster.lose(lost)
            until(lambda: knows_of_death(pool, 2))
            assert [pool.submit(kinds.add, number).result() for number in range(20)] == list(range(1, 21))
            pool.shutdown()


def test_no_room(cluster: Cluster) -> None:
    """Neither `resize` nor the end of the pool wait for it; what waits for it can be cancelled."""
    with RAY.make(3, **NEEDS_ROOM) as pool:
        waiting = [pool.submit(kinds.add, number) for number in range(3)]
        pool.resize(1)
        until(lambda: pool.stats().workers == 1)
        assert waiting[0].cancel()
        started = time.monotonic()
        pool.shutdown(cancel_futures=True)
        assert time.monotonic() - started < 10
    assert all(future.cancelled() for future in waiting)


def test_end_with_tasks_for_those_who_wait_for_room(cluster: Cluster) -> None:
    """Then it does wait, as for any task."""
    with RAY.make(2, **NEEDS_ROOM) as pool:
        waiting = [pool.submit(kinds.add, number) for number in range(3)]
        with pytest.raises(TimeoutError):
            pool.shutdown(timeout=0.1)
        with cluster.node(**ROOM):
            assert [future.result() for future in waiting] == [1, 2, 3]
            pool.shutdown()


def test_end_while_an_initializer_runs(cluster: Cluster, gate: Gate, notes: Notes) -> None:
    """It is waited for, and what it has made is torn down, though nobody needs that any more."""
    both = Gate(Path(notes.path).parent, "both")
    with RAY.make(2, make_at_the_gate, (both, notes), finalizer=State.close) as pool, both:
        waiting = [pool.submit(kinds.add, number) for number in range(2)]
        both.until_came(2)
        assert all(future.cancel() for future in waiting)
        with pytest.raises(TimeoutError):
            pool.shutdown(timeout=1)
    assert sorted(notes.lines()) == ["closed state there"] * 2 + ["made state"] * 2


def make_at_the_gate(gate: Gate, notes: Notes) -> State:
    gate.wait()
    return begin(notes)


def test_ray_client(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handles don't know what has died."""
    import ray.util.client

    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    with pytest.raises(RuntimeError, match="can't use a cluster through Ray Client"):
        RAY.make(1)


def test_dropped(cluster: Cluster, notes: Notes) -> None:
    """An actor that nobody has closed, and nobody refers to any more, tears down."""
    import ray

    from stateful_executor.ray import StatefulRayWorker

    actor = ray.remote(StatefulRayWorker).remote()
    ray.get(actor.start.remote(setup_of_a_server(begin, (notes,), State.close)))
    del actor
    until(lambda: notes.lines() == ["made state", "closed state there"])


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_random_kills_and_a_lost_node(cluster: Cluster, tmp_path: Path) -> None:
    """Every future is done, no task runs twice, and each loss of an actor costs one task at most."""
    with cluster.node(**ROOM) as first, cluster.node(**ROOM):
        half = time.monotonic() + SECONDS / 2
        lost: list[None] = []

        def strike() -> int:
            if not lost and time.monotonic() > half:
                lost.append(None)
                cluster.lose(first)
                return 2
            there = actors()
            return int(kill(dice.choice(there))) if there else 0

        def make(number: int, **options: Any) -> Any:
            return RAY.make(number, **options, **NEEDS_ROOM)

        report = storm(make, tmp_path, SECONDS, pause=0.4, strike=strike)
        print(report)
        assert lost
        assert report.tasks > report.kills > 2


def test_state_is_lent_in_one_thread(cluster: Cluster) -> None:
    """Made, used and torn down on the same thread of the actor."""
    with RAY.make(1, begin) as pool:
        places = {pool.with_state().submit(kinds.seen_by).result() for _ in range(5)}
        assert pool.with_state().submit(push).result() == 1
    assert len(places) == 1
