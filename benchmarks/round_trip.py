"""How long does one task take there and back: submit it, and wait for its result before the next?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from _paired import arguments, compare, finish, micros, noop, noop_with, seconds, workers_of

from stateful_executor import StatefulThreadPoolExecutor


def round_trips(submit: Callable[[Callable[..., object]], Future[Any]], fn: Callable[..., object], tasks: int) -> None:
    for _ in range(tasks):
        submit(fn).result()


def main() -> None:
    options = arguments(__doc__, rounds=25, tasks=2_000)
    tasks = options.tasks
    for workers in (1, 4):
        with (
            ThreadPoolExecutor(workers) as stdlib,
            StatefulThreadPoolExecutor(workers, initializer=object) as pool,
        ):
            for name, ours in [
                ("plain", partial(round_trips, pool.submit, noop, tasks)),
                ("with state", partial(round_trips, pool.with_state().submit, noop_with, tasks)),
            ]:
                compare(
                    f"{workers_of(workers)}, {name}",
                    partial(seconds, ours),
                    partial(seconds, partial(round_trips, stdlib.submit, noop, tasks)),
                    rounds=options.rounds,
                    bar=1,
                    each=micros(tasks),
                )
    finish(options)


if __name__ == "__main__":
    main()
