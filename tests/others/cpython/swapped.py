"""Run CPython's own tests of `concurrent.futures`, unmodified, with `StatefulThreadPoolExecutor` in its place.

A program of its own, which test_cpython_suite.py starts: what it swaps can't be swapped back. It reads from its
standard input what to run, and writes a report to the file named there, both as JSON.
"""

import concurrent.futures.thread
import itertools
import json
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inside import Failure, inside

import stateful_executor

SUITE = "test.test_concurrent_futures"  # a package, in older Pythons a module; the loader takes either

# CPython starts its scripts in isolated mode, where no variable of the environment can reach them.
PROLOGUE = """\
import pathlib, sys
sys.path[:] = {path!r}
import swapped
swapped.swap_pool(pathlib.Path({made!r}))
"""


def swap_pool(made: Path) -> None:
    """Let every name of `ThreadPoolExecutor` mean ours; note each pool made in the file `made`.

    The standard library's own can't even be made any more, so that no test passes without ours.
    """
    swapped_in = stateful_executor.StatefulThreadPoolExecutor
    original = concurrent.futures.ThreadPoolExecutor
    init = swapped_in.__init__
    made.touch()

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        with made.open("a") as file:
            file.write("made\n")
        init(self, *args, **kwargs)

    def never(self: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("a test made a pool of the standard library")

    swapped_in.__init__ = noted  # type: ignore[method-assign, assignment]
    original.__init__ = never  # type: ignore[method-assign, assignment]
    concurrent.futures.ThreadPoolExecutor = swapped_in  # type: ignore[misc]
    concurrent.futures.thread.ThreadPoolExecutor = swapped_in  # type: ignore[misc]
    # Scripts import the pool from there by the `__name__` of its class.
    concurrent.futures.StatefulThreadPoolExecutor = swapped_in  # type: ignore[attr-defined]


def swap_pool_in_scripts(made: Path) -> None:
    """Do the same in each interpreter that a test starts, each with a file of its own beside `made`."""
    from test.support import script_helper

    run = script_helper.run_python_until_end
    numbers = itertools.count()

    def swapped_run(*args: str, **env_vars: Any) -> Any:
        flag, script = args
        assert flag == "-c", args
        own = made.with_suffix(f".script{next(numbers)}")
        return run("-c", PROLOGUE.format(path=sys.path, made=str(own)) + script, **env_vars)

    script_helper.run_python_until_end = swapped_run


def swap_future() -> Callable[[], None]:
    """Let `Future()` in the tests mean a pending future of ours; returns what has to be called at the end.

    Ours are made by `submit` only. The only worker of this pool is busy, so they stay pending.
    """
    pool = stateful_executor.StatefulThreadPoolExecutor(1)
    begun, end = threading.Event(), threading.Event()
    pool.submit(lambda: begun.set() or end.wait())
    begun.wait()
    concurrent.futures._base.Future = lambda: pool.submit(int)  # type: ignore[assignment, misc]
    ours: Any = type(pool.submit(int))

    def fail(future: Any, error: BaseException | None) -> None:
        if error is not None:
            inside(future).failure = Failure(error, "?")
            inside(future).phase = "FAILED"

    # The tests write the state, and then the exception, which here has a phase of its own.
    ours._state = ours._state.setter(lambda future, state: setattr(inside(future), "phase", state))
    ours._exception = ours._exception.setter(fail)

    def close() -> None:
        end.set()
        pool.shutdown(cancel_futures=True)

    return close


def tests_of(suite: Any) -> Iterator[unittest.TestCase]:
    """The single tests in `suite`."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


def short_name(test: Any) -> str:
    """Class and method."""
    return ".".join(test.id().split(".")[-2:])


class Result(unittest.TextTestResult):
    """Also remembers which tests were begun."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begun: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.begun.append(short_name(test))
        super().startTest(test)


def pools_in(made: Path) -> int:
    """How many pools of ours a process has made."""
    return len(made.read_text().splitlines())


def main() -> None:
    """Run, and report."""
    wanted = json.load(sys.stdin)
    made = Path(wanted["report"]).with_suffix(".made")
    swap_pool(made)
    swap_pool_in_scripts(made)
    close = swap_future() if wanted["swap_future"] else lambda: None

    found = list(tests_of(unittest.defaultTestLoader.loadTestsFromName(SUITE)))
    selected = [
        test
        for test in found
        if type(test).__name__.startswith((wanted["prefix"], "_FailedTest"))  # what the loader can't import is one
        and short_name(test) not in wanted["excluded"]
    ]
    result: Result = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(unittest.TestSuite(selected))
    close()

    skipped = {short_name(test): reason for test, reason in result.skipped}
    failed = {test.id(): text for test, text in [*result.failures, *result.errors]}
    report = {
        "ran": [name for name in result.begun if name not in skipped],
        "skipped": skipped,
        "failed": failed | {test.id(): "succeeded unexpectedly" for test in result.unexpectedSuccesses},
        "pools": pools_in(made),
        "pools_in_scripts": [pools_in(path) for path in made.parent.glob(f"{made.stem}.script*")],
    }
    Path(wanted["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
