"""How many bytes does a queued task take, with its future and what the pool keeps for it?"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from _paired import arguments, compare, finish, noop, noop_with

from stateful_executor import StatefulThreadPoolExecutor

BAR = 4  # theirs / ours

Submit = Callable[..., Future[Any]]


def noop_two(one: object, two: object) -> None:
    pass


def bytes_per_task(pool: Executor, submit: Submit, call: tuple[Any, ...], tasks: int) -> float:
    """With the only worker of `pool` blocked. The caller's own list of futures doesn't count."""
    blocked, go = threading.Event(), threading.Event()
    pool.submit(lambda: (blocked.set(), go.wait()))
    blocked.wait()
    futures: list[Future[Any] | None] = [None] * tasks
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(tasks):
            futures[number] = submit(*call)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / tasks
    finally:
        tracemalloc.stop()
        go.set()
        for future in futures:
            if future is not None:
                future.result()


def scoped_bytes(pool: StatefulThreadPoolExecutor[object], tasks: int) -> float:
    with pool.scope() as scope:
        return bytes_per_task(pool, scope.submit, (noop,), tasks)


def main() -> None:
    options = arguments(__doc__, rounds=3, tasks=20_000)
    tasks = options.tasks
    with ThreadPoolExecutor(1) as stdlib, StatefulThreadPoolExecutor(1, initializer=object) as pool:
        plain, two = (noop,), (noop_two, "one", "two")
        for name, ours, theirs in [
            ("no arguments", partial(bytes_per_task, pool, pool.submit, plain), plain),
            ("two arguments", partial(bytes_per_task, pool, pool.submit, two), two),
            ("with state", partial(bytes_per_task, pool, pool.with_state().submit, (noop_with,)), plain),
            ("scope", partial(scoped_bytes, pool), plain),
        ]:
            compare(
                name,
                partial(ours, tasks=tasks),
                partial(bytes_per_task, stdlib, stdlib.submit, theirs, tasks),
                rounds=options.rounds,
                bar=BAR,
                each="{:.0f} bytes".format,
            )
    finish(options)


if __name__ == "__main__":
    main()
