"""A pool of Ray actors beside bare calls of such actors: what the pool costs, and whether memory stays flat.

    python benchmarks/ray_actors.py [--rounds 7] [--tasks 2000] [--only burst,memory] [--check]

Needs the extra `ray`, and starts a cluster on this machine, which listens on all interfaces: in a network namespace
nobody else hears of it (`unshare -n sh -c 'ip link set lo up; python benchmarks/ray_actors.py'`). Two workers, a no-op
task that gets its worker's state. Ratios are of pairs of rounds in one run: above 1, ours is the better one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what will change

import ray
from _paired import Measure, ask, compare, micros, noop_with, noop_with_two, seconds

from stateful_executor.ray import StatefulRayExecutor

WORKERS = 2
LARGE = 8 << 20  # bytes
MAX_BACKLOG = 1000


def make_state() -> list[object]:
    return [None]


def echo(state: object, thing: object) -> object:
    return thing


class Bare:
    """What one would write without a pool, with the same options."""

    def __init__(self) -> None:
        self.state = make_state()

    def noop(self, *_: object) -> None:
        noop_with(self.state)

    def echo(self, thing: object) -> object:
        return echo(self.state, thing)


@contextmanager
def ours() -> Iterator[Callable[..., Any]]:
    with StatefulRayExecutor(WORKERS, make_state) as pool:
        yield pool.with_state().submit


@contextmanager
def bare() -> Iterator[list[Any]]:
    options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
    actors = [ray.remote(Bare).options(**options).remote() for _ in range(WORKERS)]
    yield actors
    for actor in actors:
        ray.kill(actor)


def _pair(
    question: str,
    mine: Callable[[Callable[..., Any]], object],
    theirs: Callable[[list[Any]], object],
    **how: Any,
) -> bool:
    with ours() as submit, bare() as actors:
        measures: list[Measure] = [partial(seconds, partial(mine, submit)), partial(seconds, partial(theirs, actors))]
        return compare(question, *measures, **how)


# Questions


def ask_burst(rounds: int, tasks: int) -> bool:
    def mine(submit: Callable[..., Any]) -> None:
        for future in [submit(noop_with) for _ in range(tasks)]:
            future.result()

    def pipelined(actors: list[Any]) -> None:
        ray.get([actors[number % WORKERS].noop.remote() for number in range(tasks)])

    def one_in_flight(actors: list[Any]) -> None:
        def call(actor: Any) -> None:
            for _ in range(tasks // WORKERS):
                ray.get(actor.noop.remote())

        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(call, actors))

    each = micros(tasks)
    good = _pair("burst: bare calls, all sent at once", mine, pipelined, rounds=rounds, each=each, bar=0.5)
    _pair("burst: bare calls, one in flight", mine, one_in_flight, rounds=rounds, each=each)
    return good


def ask_round_trip(rounds: int, tasks: int) -> bool:
    tasks = max(1, tasks // 4)

    def mine(submit: Callable[..., Any]) -> None:
        for _ in range(tasks):
            submit(noop_with).result()

    def theirs(actors: list[Any]) -> None:
        for _ in range(tasks):
            ray.get(actors[0].noop.remote())

    return _pair("round trip: bare calls", mine, theirs, rounds=rounds, each=micros(tasks))


def ask_large(rounds: int, tasks: int) -> bool:
    thing, times = os.urandom(LARGE), max(1, tasks // 200)

    def mine(submit: Callable[..., Any]) -> None:
        for _ in range(times):
            assert len(submit(echo, thing).result()) == LARGE

    def theirs(actors: list[Any]) -> None:
        for _ in range(times):
            assert len(ray.get(actors[0].echo.remote(thing))) == LARGE

    def each(total: float) -> str:
        return f"{total / times * 1e3:.1f} ms"

    return _pair("8 MB there and back: bare calls", mine, theirs, rounds=rounds, each=each)


def ask_memory(rounds: int, tasks: int) -> bool:
    """Many tasks through a bounded backlog: what each process takes after a tenth, after half, and in the end."""
    tasks *= 50
    figures: list[dict[int, int]] = []
    started = time.perf_counter()
    with StatefulRayExecutor(WORKERS, make_state, max_backlog=MAX_BACKLOG) as pool:
        submit = pool.with_state().submit
        for number in range(tasks):
            submit(noop_with_two, number)
            if number + 1 in (tasks // 10, tasks // 2, tasks):
                figures.append({pid: _resident(pid) for pid in _family(os.getpid())})
    took = time.perf_counter() - started
    print(f"memory, {tasks} tasks in {took:.0f} s, MiB after a tenth, after half, in the end")
    first, half, last = figures
    flat = True
    for pid in first:
        if pid in half and pid in last and (name := _name(pid)):
            print(f"  {name:<28}{first[pid] / 2**20:7.1f}{half[pid] / 2**20:7.1f}{last[pid] / 2**20:7.1f}")
            flat &= last[pid] - first[pid] < MOST_GROWTH
    print(f"  bar {'reached' if flat else 'MISSED'}: none grows by more than {MOST_GROWTH >> 20} MiB", flush=True)
    return flat


MOST_GROWTH = 8 << 20  # bytes


def _family(pid: int) -> list[int]:
    """This process, those that it has started, and those in turn."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += _family(child)
    return found


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split() or [""]
    except OSError:
        return ""
    if pid == os.getpid():
        return "this process"
    if words[0].startswith("ray::"):
        return words[0] if "Stateful" in words[0] else ""
    return Path(words[0]).name if Path(words[0]).name in ("gcs_server", "raylet") else ""


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


QUESTIONS = {"burst": ask_burst, "round-trip": ask_round_trip, "large": ask_large, "memory": ask_memory}


def main() -> int:
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # of the actors
    ray.init("local", num_cpus=2 * WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        return ask(__doc__, QUESTIONS)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
