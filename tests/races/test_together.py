"""Tasks that wait for each other: as long as there are as many workers, each of them is begun, in whatever company.

A task that no worker comes for, though one is idle, is not seen by tests whose tasks end by themselves.
"""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import Future, wait
from typing import Any

import pytest
from inside import inside

from stateful_executor import StatefulThreadPoolExecutor

ROUNDS = int(os.environ.get("STATEFUL_EXECUTOR_ROUNDS", "1000"))  # 50,000 for a hunt
PATIENCE = 20  # seconds

Pool = StatefulThreadPoolExecutor[Any]


def fill(pool: Pool) -> None:
    """Start all workers that there may be, and have the pool know that."""
    everyone = threading.Barrier(pool._max_workers + 1)
    futures = [pool.submit(everyone.wait) for _ in range(pool._max_workers)]
    futures.append(pool.submit(int))
    everyone.wait(PATIENCE)
    wait(futures)


def in_company(pool: Pool, chance: random.Random) -> None:
    """What else wakes workers, and what is only in the way."""
    others: list[Future[Any]] = []
    what = chance.randrange(6)
    if what == 0:
        others = [pool.submit(int) for _ in range(chance.randint(1, 6))]
    elif what == 1:
        pool.with_state(dict).discard_all()
    elif what == 2:
        others = pool.broadcast(int)
    elif what == 3:
        for future in [pool.submit(int) for _ in range(chance.randint(1, 10 if chance.random() < 0.8 else 100))]:
            future.cancel()
    elif what == 4:
        with pool.scope() as scope:
            scope.with_state(list).submit(id)
    if chance.random() < 0.5:
        wait(others)


def together(pool: Pool, chance: random.Random) -> list[Future[Any]]:
    """Submit at most as many tasks as there are workers, each of which waits for all of them."""
    number = chance.randint(1, pool._max_workers)
    everyone = threading.Barrier(number)
    futures: list[Future[Any]] = []
    view = pool.with_state(dict)

    def submit(how_many: int, stateful: bool) -> None:
        for _ in range(how_many):
            if stateful:
                futures.append(view.submit(lambda _: everyone.wait(PATIENCE)))
            else:
                futures.append(pool.submit(everyone.wait, PATIENCE))

    if chance.random() < 0.7:
        submit(number, chance.random() < 0.5)
    else:
        threads = [threading.Thread(target=submit, args=(n, False)) for n in (number // 2, number - number // 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    return futures


@pytest.mark.timeout(120 + ROUNDS // 20)
@pytest.mark.parametrize("idle_timeout", [None, 0.0005])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_together(workers: int, idle_timeout: float | None, nervous: None) -> None:
    """Each of the tasks is begun while the others wait for it."""
    seed = random.randrange(10**6)  # noqa: S311
    chance = random.Random(seed)  # noqa: S311
    done = 0
    while done < ROUNDS:
        with StatefulThreadPoolExecutor(workers, initializer=list, idle_timeout=idle_timeout) as pool:
            fill(pool)
            for _ in range(chance.randint(1, 50)):
                done += 1
                in_company(pool, chance)
                inside(pool).wasted_wakes = chance.choice((0, 8))
                futures = together(pool, chance)
                errors = [future.exception() for future in futures]
                assert not any(errors), f"round {done} with seed {seed}: {pool}"
