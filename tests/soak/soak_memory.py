"""Run ten million tasks in mixed modes, and see that the memory stays flat: tests/soak/soak_memory.py [millions].

Each wave submits in one way, or ends its tasks in one way, in pools that stay, retire their workers or are made for the
wave. After each million: tasks per second, resident memory, objects that the collector knows, blocks that the
allocator has given out, threads. Exits with 1 when the last resident size is more than 3 MB above the first.
"""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from inside import inside

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
WAVE = 2_000
MILLION = 1_000_000
ALLOWED_MB = 3.0


class Failure(Exception):
    pass


class Connection:
    """A state."""

    def __init__(self) -> None:
        self.data = bytearray(100)


def payload(number: int) -> bytearray:
    return bytearray(64 + number % 64)


def use(connection: Connection, number: int) -> bytearray:
    return bytearray(len(connection.data) + number % 64)


def fail(number: int) -> None:
    raise Failure(payload(number))


# Waves: each runs about `WAVE` tasks, and returns how many


def returning(pool: Pool) -> int:
    for future in [pool.submit(payload, number) for number in range(WAVE)]:
        future.result()
    return WAVE


def failing(pool: Pool) -> int:
    for future in [pool.submit(fail, number) for number in range(WAVE)]:
        assert isinstance(future.exception(), Failure)
    return WAVE


def cancelled(pool: Pool) -> int:
    for number in range(WAVE):
        pool.submit(payload, number).cancel()
    return WAVE


def cancelled_while_stuck(pool: Pool) -> int:
    go_on = threading.Event()
    stuck = [pool.submit(go_on.wait) for _ in range(pool._max_workers)]
    for number in range(WAVE):
        assert pool.submit(payload, number).cancel()
    go_on.set()
    concurrent.futures.wait(stuck)
    return WAVE + len(stuck)


def with_state(pool: Pool) -> int:
    view = pool.with_state()
    for future in [view.submit(use, number) for number in range(WAVE)]:
        future.result()
    return WAVE


def with_replaced_states(pool: Pool) -> int:
    view = pool.with_state(Connection, policy=StatePolicy(max_tasks=3, discard_on=Failure))
    for future in [view.submit(use, number) for number in range(WAVE)]:
        future.result()
    view.discard_all()
    return WAVE


def bound(pool: Pool) -> int:
    call = pool.with_state().bind(use)
    for future in [pool.submit(call, number) for number in range(WAVE)]:
        future.result()
    return WAVE


def scopes(pool: Pool) -> int:
    for _ in range(WAVE // 20):
        with pool.scope() as scope:
            view = scope.with_state(Connection)
            for number in range(10):
                scope.submit(payload, number)
                view.submit(use, number)
    return WAVE


def failing_scopes(pool: Pool) -> int:
    for _ in range(WAVE // 20):
        with suppress(BaseExceptionGroup), pool.scope(fail_fast=True) as scope:
            for number in range(20):
                with suppress(RuntimeError):
                    scope.submit(fail, number)
    return WAVE


def cancelled_scopes(pool: Pool) -> int:
    for _ in range(WAVE // 20):
        with pool.scope(timeout=60) as scope:
            for number in range(20):
                scope.submit(payload, number)
            scope.cancel()
    return WAVE


def maps(pool: Pool) -> int:
    for chunksize, buffersize in itertools.product((1, 10), (None, 50)):
        for _ in pool.map(payload, range(WAVE // 4), chunksize=chunksize, buffersize=buffersize):
            pass
    return WAVE // 4 * 2 + WAVE // 40 * 2


def maps_unordered(pool: Pool) -> int:
    for chunksize, buffersize in itertools.product((1, 10), (None, 50)):
        for _ in pool.with_state().map_unordered(use, range(WAVE // 4), chunksize=chunksize, buffersize=buffersize):
            pass
    return WAVE // 4 * 2 + WAVE // 40 * 2


def left_maps(pool: Pool) -> int:
    for _ in range(WAVE // 20):
        results = pool.map(payload, range(20))
        next(results)
        results.close()  # type: ignore[attr-defined]  # a generator
    return WAVE


def nested(pool: Pool) -> int:
    def outer(number: int) -> int:
        inner = [pool.submit(payload, number) for _ in range(3)]
        with pool.scope() as scope:
            scope.submit(payload, number)
        return sum(len(future.result()) for future in inner)

    for future in [pool.submit(outer, number) for number in range(WAVE // 5)]:
        future.result()
    return WAVE


def called_back(pool: Pool) -> int:
    seen: list[None] = []
    futures = [pool.submit(payload, number) for number in range(WAVE)]
    for future in futures:
        future.add_done_callback(lambda future: seen.append(future.exception()))  # type: ignore[arg-type]
    concurrent.futures.wait(futures)
    for future in concurrent.futures.as_completed(futures[:100]):
        future.result()
    return WAVE


def broadcasts(pool: Pool) -> int:
    pool.submit(int).result()
    futures = [future for number in range(200) for future in pool.broadcast(payload, number)]
    concurrent.futures.wait(futures)
    return len(futures) + 1


def in_new_pools(_: Pool) -> int:
    for _ in range(10):
        with StatefulThreadPoolExecutor(2, initializer=Connection, max_backlog=10) as pool:
            view = pool.with_state()
            for future in [view.submit(use, number) for number in range(100)]:
                future.result()
    return 1_000


WAVES: list[Callable[[Pool], int]] = [
    returning, failing, cancelled, cancelled_while_stuck, with_state, with_replaced_states, bound, scopes,
    failing_scopes, cancelled_scopes, maps, maps_unordered, left_maps, nested, called_back, broadcasts, in_new_pools,
]  # fmt: skip


def resident_mb() -> float:
    """What the process has in memory now; where that can't be had, the most it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    """Run the waves; the exit code."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    logging.getLogger("stateful_executor").setLevel(logging.CRITICAL)  # lost errors are meant here
    pools: list[Pool] = [
        StatefulThreadPoolExecutor(4, initializer=Connection),
        StatefulThreadPoolExecutor(2, initializer=Connection, max_backlog=100),
        StatefulThreadPoolExecutor(3, initializer=Connection, max_backlog=1_000, idle_timeout=0.001),
        StatefulThreadPoolExecutor(1, initializer=Connection, copy_context=True),
    ]
    print(f"{'tasks':>12} {'tasks/s':>9} {'resident MB':>12} {'objects':>9} {'blocks':>9} {'threads':>8}", flush=True)
    done, sizes, waves = 0, [], itertools.cycle(itertools.product(WAVES, pools))
    started = time.monotonic()
    for million in range(1, millions + 1):
        before, since = done, time.monotonic()
        while done < million * MILLION:
            wave, pool = next(waves)
            if wave is cancelled_while_stuck and inside(pool).max_backlog is not None:
                wave = cancelled
            done += wave(pool)
        speed = (done - before) / (time.monotonic() - since)
        gc.collect()
        sizes.append(resident_mb())
        print(
            f"{done:>12,} {speed:>9,.0f} {sizes[-1]:>12.1f} {len(gc.get_objects()):>9,} "
            f"{sys.getallocatedblocks():>9,} {threading.active_count():>8}",
            flush=True,
        )
    for pool in pools:
        pool.shutdown()
    stats = [pool.stats() for pool in pools]
    for one in stats:
        assert one.submitted == one.completed + one.failed + one.cancelled, one
        assert one.states_made == one.states_torn_down, one
    growth = sizes[-1] - sizes[0]
    print(f"{time.monotonic() - started:.0f} s; resident memory grew by {growth:.1f} MB since the first million")
    return growth > ALLOWED_MB


if __name__ == "__main__":
    sys.exit(main())
