"""What goes around each task: the request that it is for, its name, its error in the log. And what is urgent.

    python examples/around_tasks.py

`copy_context` has a task see its submitter's context variables; `task_decorator` wraps each task, however it is
submitted. A pool begins its tasks in the order in which they came: what is urgent gets a pool of its own.
"""

import functools
import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from stateful_executor import StatefulThreadPoolExecutor

logger = logging.getLogger("tasks")
request = ContextVar("request", default="none")


def around(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Name the thread after its task while that runs, and log its error, which its future has all the same."""
    name = getattr(fn, "__qualname__", repr(fn))

    @functools.wraps(fn)  # so that logs and errors of the pool go on naming the task's function
    def run(*args: Any) -> Any:  # keywords are bound already
        thread = threading.current_thread()
        own_name, thread.name = thread.name, f"{thread.name} {name}"
        try:
            return fn(*args)
        except Exception as error:
            logger.error("request %s: %s raised %r", request.get(), name, error)  # noqa: TRY400  # for a short output
            raise
        finally:
            thread.name = own_name

    return run


def where(*_: object) -> str:
    return f"request {request.get()} in {threading.current_thread().name}"


def divide(a: int, *, by: int) -> float:
    return a / by


def handle(pool: StatefulThreadPoolExecutor[list[Any]], number: str) -> None:
    request.set(number)
    print(pool.submit(where).result())
    print(*pool.map(where, [1]))
    print(pool.with_state().submit(where).result())
    pool.submit(divide, 1, by=0).exception()


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(threadName)s logs: %(message)s")
    with StatefulThreadPoolExecutor(1, "pool", list, copy_context=True, task_decorator=around) as pool:
        for number in ("1", "2"):
            handle(pool, number)

    go_on = threading.Event()
    with StatefulThreadPoolExecutor(2, "bulk") as bulk, StatefulThreadPoolExecutor(1, "urgent") as urgent:
        waiting = [bulk.submit(go_on.wait) for _ in range(1_000)]
        print(f"{urgent.submit(where).result()}, while {sum(not task.done() for task in waiting)} tasks wait")
        go_on.set()


if __name__ == "__main__":
    main()
