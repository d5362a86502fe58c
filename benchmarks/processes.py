"""Pools of processes side by side: how fast, how soon, how large; and whether the bars are reached.

    python benchmarks/processes.py [--rounds 7] [--tasks 2000] [--only burst,memory] [--check]

Two workers, a no-op task that gets its worker's state, the same start method for all that have one. Ratios are of
pairs of rounds in one run: above 1, ours is the better one. loky and mpire are measured where they are installed
(`pip install 'stateful-executor[peers]'`).
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from _paired import Measure, ask, burst, compare, micros, seconds

from stateful_executor import StatefulProcessPoolExecutor

METHOD = "spawn" if sys.platform == "win32" else "forkserver"
WORKERS = 2
LARGE = 8 << 20  # bytes
MAX_BACKLOG = 1000

Submit = Callable[..., Any]


class Contender(NamedTuple):
    """A pool of processes with a state for each, and how tasks get there."""

    name: str
    open: Callable[[int], AbstractContextManager[Submit]]
    result: Callable[[Any], Any] = lambda future: future.result()


# What runs in workers

_state: list[object] = []


def make_state() -> list[object]:
    _state.append(None)
    return _state


def noop(state: object, *_: object) -> None:
    pass


def noop_with_global(*_: object) -> None:
    noop(_state)


def echo(state: object, thing: object) -> object:
    return thing


def echo_with_global(thing: object) -> object:
    return echo(_state, thing)


def compute(state: object, number: int) -> int:
    total = 0
    for each in range(number):
        total += each & 3
    return total


# What is compared


@contextmanager
def ours(workers: int) -> Iterator[Submit]:
    with StatefulProcessPoolExecutor(workers, make_state, mp_context=METHOD) as pool:
        yield pool.with_state().submit


def _without_state(submit: Submit) -> Submit:
    """The task finds its state where the initializer has put it."""
    same = {noop: noop_with_global, echo: echo_with_global}
    return lambda fn, *args: submit(same[fn], *args)


@contextmanager
def stdlib(workers: int) -> Iterator[Submit]:
    context = multiprocessing.get_context(METHOD)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=make_state) as pool:
        yield _without_state(pool.submit)


@contextmanager
def loky(workers: int) -> Iterator[Submit]:
    with importlib.import_module("loky").ProcessPoolExecutor(workers, initializer=make_state) as pool:
        yield _without_state(pool.submit)


@contextmanager
def pool(workers: int) -> Iterator[Submit]:
    with multiprocessing.get_context(METHOD).Pool(workers, make_state) as pool:
        yield _without_state(lambda fn, *args: pool.apply_async(fn, args))
        pool.close()
        pool.join()


@contextmanager
def mpire(workers: int) -> Iterator[Submit]:
    module = importlib.import_module("mpire")
    with module.WorkerPool(workers, start_method=METHOD) as pool:
        yield _without_state(lambda fn, *args: pool.apply_async(fn, args, worker_init=make_state))


@contextmanager
def bare_pipe(workers: int) -> Iterator[Submit]:
    """The floor: one process at the other end of a pipe, one message there and back, in this thread."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context(METHOD).Process(target=_answer, args=(there,), daemon=True)
    process.start()
    there.close()

    def submit(*call: object) -> object:
        here.send(call)
        return here.recv()

    try:
        yield submit
    finally:
        here.close()
        process.join()


def _answer(connection: Any) -> None:
    state = make_state()
    while True:
        try:
            fn, *args = connection.recv()
        except EOFError:
            return
        connection.send(fn(state, *args))


OURS = Contender("ours", ours)
STDLIB = Contender("ProcessPoolExecutor", stdlib)
LOKY = Contender("loky", loky)
POOL = Contender("multiprocessing.Pool", pool, lambda result: result.get())
MPIRE = Contender("mpire", mpire, lambda result: result.get())
BARE = Contender("bare pipe, one worker", bare_pipe, lambda result: result)


def _is_there(contender: Contender) -> bool:
    return contender.name not in ("loky", "mpire") or importlib.util.find_spec(contender.name) is not None


def _pairs(question: str, measure: Callable[[Contender, Submit], Measure], bars: dict[str, float], **how: Any) -> bool:
    """Ours against each of the others, all of them open at the same time in a pair."""
    good = True
    for other in filter(_is_there, (STDLIB, LOKY, POOL, MPIRE, BARE)):
        with OURS.open(WORKERS) as submit, other.open(WORKERS) as submit_there:
            mine, theirs = measure(OURS, submit), measure(other, submit_there)
            good &= compare(f"{question}: {other.name}", mine, theirs, bar=bars.get(other.name, 0), **how)
    return good


# Questions


def ask_burst(rounds: int, tasks: int) -> bool:
    def measure(contender: Contender, submit: Submit) -> Measure:
        return partial(seconds, partial(burst, submit, noop, tasks, contender.result))

    return _pairs("burst", measure, {"ProcessPoolExecutor": 1.5, "loky": 2}, rounds=rounds, each=micros(tasks))


def ask_round_trip(rounds: int, tasks: int) -> bool:
    tasks = max(1, tasks // 4)

    def measure(contender: Contender, submit: Submit) -> Measure:
        def work() -> None:
            for _ in range(tasks):
                contender.result(submit(noop))

        return partial(seconds, work)

    return _pairs("round trip", measure, {"loky": 2}, rounds=rounds, each=micros(tasks))


def ask_large(rounds: int, tasks: int) -> bool:
    thing, times = os.urandom(LARGE), max(1, tasks // 200)

    def measure(contender: Contender, submit: Submit) -> Measure:
        def work() -> None:
            for _ in range(times):
                assert len(contender.result(submit(echo, thing))) == LARGE

        return partial(seconds, work)

    return _pairs("8 MB there and back", measure, {"ProcessPoolExecutor": 1}, rounds=rounds, each=_millis(times))


def ask_start(rounds: int, tasks: int) -> bool:
    def measure(contender: Contender) -> float:
        start = time.perf_counter()
        with contender.open(WORKERS) as submit:
            contender.result(submit(noop))
            return time.perf_counter() - start

    good = True
    for other in filter(_is_there, (STDLIB, LOKY)):
        bar = 1.0 if other is STDLIB else 0
        mine, theirs = partial(measure, OURS), partial(measure, other)
        good &= compare(f"first task: {other.name}", mine, theirs, rounds=rounds, each=_millis(1), bar=bar)
    return good


def ask_cores(rounds: int, tasks: int) -> bool:
    """Work for the processor, by one worker and by two."""
    number = 10 * tasks

    def measure(workers: int, submit: Submit) -> Measure:
        def work() -> None:
            for future in [submit(compute, number) for _ in range(40)]:
                future.result()

        return partial(seconds, work)

    with ours(1) as one, ours(2) as two:
        return compare(
            "computing: one worker", measure(2, two), measure(1, one), rounds=rounds, each=_millis(40), bar=1.8
        )


def ask_memory(rounds: int, tasks: int) -> bool:
    """Many tasks through a bounded backlog: what this process and its children take after a tenth, and in the end."""
    tasks *= 50
    with StatefulProcessPoolExecutor(WORKERS, make_state, max_backlog=MAX_BACKLOG, mp_context=METHOD) as pool:
        submit = pool.with_state().submit
        figures: list[dict[int, int]] = []
        for number in range(tasks):
            submit(noop, number)
            if number + 1 in (tasks // 10, tasks):
                pids = [os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]
                figures.append({pid: _resident(pid) for pid in pids})
    before, after = figures
    growth = {pid: after[pid] - before[pid] for pid in after if pid in before}
    sizes = ", ".join(f"{before[pid] >> 10} to {after[pid] >> 10}" for pid in growth)
    flat = max(growth.values()) < 2 << 20
    print(f"memory of each process, {tasks} tasks: {sizes} KiB  bar {'reached' if flat else 'MISSED'}", flush=True)
    return flat


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _millis(times: int) -> Callable[[float], str]:
    return lambda total: f"{total / times * 1e3:.1f} ms"


QUESTIONS = {
    "burst": ask_burst,
    "round-trip": ask_round_trip,
    "large": ask_large,
    "start": ask_start,
    "cores": ask_cores,
    "memory": ask_memory,
}


def main() -> int:
    return ask(__doc__, QUESTIONS)


if __name__ == "__main__":
    sys.exit(main())
