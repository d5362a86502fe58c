"""What does it cost that an awaited task is left to other workers as long as one can take it?

Trees of tasks that sleep, on four workers: each waits for its children by `result()`, by `map`, or at the end of a
scope, which runs in place at once. The bar is 1.5 times the scope's time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[None]
Node = Callable[[int], int]

BAR = 1.5
WORKERS = 4


def by_result(pool: Pool, node: Node, children: list[int]) -> int:
    """Submit all, then wait for one after the other."""
    return sum(future.result() for future in [pool.submit(node, depth) for depth in children])


def by_map(pool: Pool, node: Node, children: list[int]) -> int:
    """The same by `map`."""
    return sum(pool.map(node, children))


def by_scope(pool: Pool, node: Node, children: list[int]) -> int:
    """Join a scope."""
    with pool.scope() as scope:
        futures = [scope.submit(node, depth) for depth in children]
    return sum(future.result() for future in futures)


def seconds(way: Callable[[Pool, Node, list[int]], int], depth: int, fan: int, nap: float) -> float:
    """How long one tree takes, with the start of its pool."""

    def node(depth: int) -> int:
        time.sleep(nap)
        return 1 + (way(pool, node, [depth - 1] * fan) if depth else 0)

    with StatefulThreadPoolExecutor(WORKERS) as pool:
        start = time.perf_counter()
        pool.submit(node, depth).result()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--nap", type=float, default=2.0, help="milliseconds that each task sleeps")
    options = parser.parse_args()
    print(f"CPython {sys.version.split()[0]}, {WORKERS} workers, {options.nap} ms a task; bar {BAR}")
    for depth, fan in ((6, 2), (4, 3), (3, 4), (2, 8)):
        rounds = [
            [seconds(way, depth, fan, options.nap / 1000) for way in (by_result, by_map, by_scope)]
            for _ in range(options.rounds)
        ]
        results, maps, scopes = zip(*rounds, strict=True)
        print(
            f"depth {depth}, {fan} children each: scope {median(scopes) * 1000:.0f} ms, "
            f"result {median(a / c for a, c in zip(results, scopes, strict=True)):.2f} times that, "
            f"map {median(b / c for b, c in zip(maps, scopes, strict=True)):.2f}"
        )


if __name__ == "__main__":
    main()
