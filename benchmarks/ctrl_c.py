"""How often does Ctrl-C land in the window that Python leaves: after a `with` body, before `__exit__` has begun?

A timer interrupts at a random moment a loop of the shortest scopes there can be, one task each, so that the window
comes round as often as possible. An interrupt has landed in it when the block was left with its task still to end. In a
program whose blocks last a second the share is smaller by as much as its blocks are longer.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from time import perf_counter
from types import FrameType

from stateful_executor import StatefulThreadPoolExecutor


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Python's own handler of SIGINT does."""
    raise KeyboardInterrupt


def attempt(pool: StatefulThreadPoolExecutor, held: list[int]) -> bool:
    """Open scopes until the interrupt comes; True when it left a block before its task had ended."""
    future = None
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.003))  # noqa: S311  # no secret
        while True:
            future = None
            with pool.scope() as scope:
                future = scope.submit(int)
            held[0] += 1
    except KeyboardInterrupt:
        return future is not None and not future.done()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--interrupts", type=int, default=10_000)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, interrupt)
    blocks = [0]
    start = perf_counter()
    with StatefulThreadPoolExecutor(2) as pool:
        left = sum(attempt(pool, blocks) for _ in range(options.interrupts))
    seconds = perf_counter() - start
    print(f"CPython {sys.version.split()[0]}: {options.interrupts:,} interrupts, {blocks[0]:,} scopes, {seconds:.0f} s")
    print(f"blocks left before their task had ended: {left}")


if __name__ == "__main__":
    main()
