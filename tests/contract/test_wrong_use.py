"""Wrong arguments, and what can't be done with a pool: the error names the parameter, the value and the remedy."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from collections.abc import Callable
from concurrent.futures import wait
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

Pool = StatefulThreadPoolExecutor[Any]
WRONG: dict[str, list[Any]] = {
    "max_workers": ["4", 2.5, [], Fraction(2)],
    "max_backlog": ["4", 1.5, {}],
    "idle_timeout": ["a", "5", [], b"5", 1j],
    "exit_timeout": ["a", "5", [], b"5", 1j],
    "submit_timeout": ["a", "5", []],
    "initargs": [5, None],
}
MEANINGS = {
    "max_workers": "a whole number of threads, or None for the default",
    "max_backlog": "a whole number of tasks, or None for no bound",
    "idle_timeout": "a number of seconds, or None to stay for ever",
    "exit_timeout": "a number of seconds, or None to wait for ever",
    "submit_timeout": "a number of seconds, or None to wait for ever",
    "initargs": "a tuple of arguments for initializer",
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_of_the_constructor(name: str, value: Any) -> None:
    """What is no number says so, in the words of its parameter."""
    others: dict[str, Any] = {"submit_timeout": {"max_backlog": 1}, "initargs": {"initializer": list}}.get(name, {})
    with pytest.raises(TypeError, match=re.escape(f"{name} must be {MEANINGS[name]}, not {value!r}")):
        StatefulThreadPoolExecutor(**{name: value}, **others)


@pytest.mark.parametrize("value", ["a", "5", []])
@pytest.mark.parametrize("name", ["max_tasks", "max_age"])
def test_of_a_policy(name: str, value: Any) -> None:
    """A policy's limits."""
    with pytest.raises(
        TypeError, match=rf"{name} must be a .*number of .*, or None for no limit, not {re.escape(repr(value))}"
    ):
        StatePolicy(**{name: value})


WAITS: dict[str, Callable[[Pool, Any], object]] = {
    "scope": lambda pool, timeout: pool.scope(timeout=timeout),
    "result": lambda pool, timeout: pool.submit(int).result(timeout),
    "exception": lambda pool, timeout: pool.submit(int).exception(timeout),
    "map": lambda pool, timeout: list(pool.map(int, [1], timeout=timeout)),
    "map_unordered": lambda pool, timeout: list(pool.map_unordered(int, [1], timeout=timeout)),
    "shutdown": lambda pool, timeout: pool.shutdown(timeout=timeout),
}


@pytest.mark.parametrize("name", WAITS)
def test_of_a_wait(name: str) -> None:
    """A timeout that is no number; and any kind of number will do."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        busy = pool.submit(go_on.wait)
        try:
            with pytest.raises(
                TypeError, match="timeout must be a number of seconds, or None to wait for ever, not 'a'"
            ):
                WAITS[name](pool, "a")
        finally:
            go_on.set()
        busy.result()
    for number in 5, 5.0, Decimal(5), Fraction(5):
        with StatefulThreadPoolExecutor(1) as pool:
            WAITS[name](pool, number)


@pytest.mark.parametrize("method", ["map", "map_unordered"])
@pytest.mark.parametrize("chunksize", ["2", 1.5])
def test_of_a_map(method: str, chunksize: Any) -> None:
    with StatefulThreadPoolExecutor(1) as pool:
        with pytest.raises(TypeError, match=f"chunksize must be a whole number of calls, not {chunksize!r}"):
            getattr(pool, method)(int, [1], chunksize=chunksize)


@pytest.mark.parametrize("do", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("kind", ["pool", "view", "scope", "future", "finished future"])
def test_no_copies(kind: str, do: Callable[[object], object]) -> None:
    """Neither workers nor states can be had in another process; what was to be copied goes on."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1, "workers", initializer=list) as pool:
        finished = pool.submit(int)
        wait([finished])
        waiting = pool.submit(go_on.wait)
        things = {
            "pool": pool,
            "view": pool.with_state(),
            "scope": pool.scope(),
            "future": waiting,
            "finished future": finished,
        }
        with pytest.raises(TypeError) as caught:
            do(things[kind])
        go_on.set()
        assert re.fullmatch(
            r"<.*> can't be pickled or copied, as its workers and their states live in this process: "
            + ("take its result.*" if "future" in kind else "make a pool where it is needed"),
            str(caught.value),
        )
        assert waiting.result() is True
        assert pool.submit(int).result() == finished.result() == 0


def test_what_can_be_copied() -> None:
    """Figures, policies and errors are plain data."""
    with StatefulThreadPoolExecutor(1) as pool:
        stats = pool.stats()
    policy = StatePolicy(max_tasks=5, max_age=60)
    for thing in stats, policy:
        assert pickle.loads(pickle.dumps(thing)) == copy.copy(thing) == copy.deepcopy(thing) == thing
