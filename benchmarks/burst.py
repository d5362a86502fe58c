"""How fast do no-op tasks go through: submit them all, then take the result of each?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from _paired import arguments, compare, finish, micros, noop, noop_with, seconds, workers_of

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

WORKERS = (1, 4, 16)
MAX_BACKLOG = 1000

Submit = Callable[[Callable[..., object]], Future[Any]]


def burst(submit: Submit, fn: Callable[..., object], tasks: int) -> None:
    futures = [submit(fn) for _ in range(tasks)]
    for future in futures:
        future.result()


def scoped_burst(
    pool: StatefulThreadPoolExecutor[object],
    stateful: bool,
    tasks: int,
    fail_fast: bool = False,
    timeout: float | None = None,
) -> None:
    with pool.scope(fail_fast=fail_fast, timeout=timeout) as scope:
        if stateful:
            burst(scope.with_state().submit, noop_with, tasks)
        else:
            burst(scope.submit, noop, tasks)


def bound_burst(pool: StatefulThreadPoolExecutor[object], tasks: int) -> None:
    burst(pool.submit, pool.with_state().bind(noop_with), tasks)


def mapped(pool: StatefulThreadPoolExecutor[object], tasks: int) -> None:
    for _ in pool.map_unordered(noop_with, range(tasks)):
        pass


def main() -> None:
    options = arguments(__doc__, rounds=7, tasks=10_000)
    tasks = options.tasks
    policy = StatePolicy[object](check=noop_with, reset=noop_with, discard_on=OSError, max_tasks=10**9, max_age=10**6)
    for workers in WORKERS:
        with (
            ThreadPoolExecutor(workers) as stdlib,
            StatefulThreadPoolExecutor(workers, initializer=object) as pool,
            StatefulThreadPoolExecutor(workers, initializer=object, max_backlog=MAX_BACKLOG) as bounded,
            StatefulThreadPoolExecutor(workers, initializer=object, policy=policy) as governed,
            StatefulThreadPoolExecutor(workers, idle_timeout=60) as retiring,
            StatefulThreadPoolExecutor(workers, copy_context=True) as contextual,
        ):
            theirs = partial(burst, stdlib.submit, noop, tasks)
            for name, bar, ours in [
                ("plain", 5, partial(burst, pool.submit, noop, tasks)),
                ("with state", 4, partial(burst, pool.with_state().submit, noop_with, tasks)),
                (f"max_backlog={MAX_BACKLOG}", 4, partial(burst, bounded.submit, noop, tasks)),
                ("scope", 3, partial(scoped_burst, pool, False, tasks)),
                ("state, backlog and scope", None, partial(scoped_burst, bounded, True, tasks)),
                ("state with all of a policy", None, partial(burst, governed.with_state().submit, noop_with, tasks)),
                ("bound function", None, partial(bound_burst, pool, tasks)),
                ("fail_fast and timeout", None, partial(scoped_burst, pool, False, tasks, fail_fast=True, timeout=60)),
                ("idle_timeout", None, partial(burst, retiring.submit, noop, tasks)),
                ("copy_context", None, partial(burst, contextual.submit, noop, tasks)),
                ("map_unordered", None, partial(mapped, pool, tasks)),
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
