"""How fast do no-op tasks go through: submit them all, then take the result of each?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from _paired import arguments, compare, finish, micros, noop, noop_with, seconds, workers_of

from stateful_executor import StatefulThreadPoolExecutor

WORKERS = (1, 4, 16)
MAX_BACKLOG = 1000

Submit = Callable[[Callable[..., object]], Future[Any]]


def burst(submit: Submit, fn: Callable[..., object], tasks: int) -> None:
    futures = [submit(fn) for _ in range(tasks)]
    for future in futures:
        future.result()


def scoped_burst(pool: StatefulThreadPoolExecutor[object], stateful: bool, tasks: int) -> None:
    with pool.scope() as scope:
        if stateful:
            burst(scope.with_state().submit, noop_with, tasks)
        else:
            burst(scope.submit, noop, tasks)


def main() -> None:
    options = arguments(__doc__, rounds=7, tasks=10_000)
    tasks = options.tasks
    for workers in WORKERS:
        with (
            ThreadPoolExecutor(workers) as stdlib,
            StatefulThreadPoolExecutor(workers, initializer=object) as pool,
            StatefulThreadPoolExecutor(workers, initializer=object, max_backlog=MAX_BACKLOG) as bounded,
        ):
            theirs = partial(burst, stdlib.submit, noop, tasks)
            for name, bar, ours in [
                ("plain", 5, partial(burst, pool.submit, noop, tasks)),
                ("with state", 4, partial(burst, pool.with_state().submit, noop_with, tasks)),
                (f"max_backlog={MAX_BACKLOG}", 4, partial(burst, bounded.submit, noop, tasks)),
                ("scope", 3, partial(scoped_burst, pool, False, tasks)),
                ("state, backlog and scope", None, partial(scoped_burst, bounded, True, tasks)),
            ]:
                compare(
                    f"{workers_of(workers)}, {name}",
                    partial(seconds, ours),
                    partial(seconds, theirs),
                    rounds=options.rounds,
                    bar=bar,
                    each=micros(tasks),
                )
    finish(options)


if __name__ == "__main__":
    main()
