"""The kinds of pool, for the suite that all of them pass; and the tasks of that suite, which processes can import."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from threads import PATIENCE, until

import stateful_executor
from stateful_executor import StateView

Pool = Any  # StatefulThreadPoolExecutor, StatefulProcessPoolExecutor, StatefulRayExecutor


@dataclass(frozen=True)
class Kind:
    """One kind of pool. What differs from threads has a line in the table of docs/scale.md, and a test there."""

    name: str
    class_name: str
    remote: bool  # its workers are in processes of their own

    def make(self, *args: Any, **options: Any) -> Pool:
        """A pool of this kind."""
        if self.name != "ray":
            return getattr(stateful_executor, self.class_name)(*args, **options)
        from stateful_executor.ray import StatefulRayExecutor  # where there is no Ray, nobody comes here

        return StatefulRayExecutor(*args, **options)

    def __str__(self) -> str:
        return self.name


THREADS = Kind("threads", "StatefulThreadPoolExecutor", remote=False)
PROCESSES = Kind("processes", "StatefulProcessPoolExecutor", remote=True)
RAY = Kind("ray", "StatefulRayExecutor", remote=True)
REMOTE = [PROCESSES, pytest.param(RAY, marks=pytest.mark.ray)]
KINDS = [THREADS, *REMOTE]


class Notes:
    """A file to which tasks, wherever they run, add lines; each in one step."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def add(self, *words: object) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (" ".join(map(str, words)) + "\n").encode())
        os.close(file)

    def lines(self) -> list[str]:
        try:
            with open(self.path) as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []


class Gate:
    """Tasks wait at it until it is opened; who opens it can see how many came."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.notes = Notes(folder / f"{name}-came")
        self.opened = str(folder / f"{name}-opened")

    def wait(self, result: Any = None) -> Any:
        """A task."""
        self.notes.add(os.getpid())
        deadline = time.monotonic() + 2 * PATIENCE
        while not os.path.exists(self.opened):
            assert time.monotonic() < deadline
            time.sleep(0.001)  # in a process of its own `until` would keep a core from the others
        return result

    def until_came(self, number: int = 1) -> None:
        until(lambda: len(self.notes.lines()) >= number)

    def open(self) -> None:
        open(self.opened, "w").close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever fails in the block, nobody waits any more."""
        self.open()


@contextmanager
def held(pool: Any, gate: Gate, workers: int = 1) -> Iterator[None]:
    """Inside the block, so many workers of `pool` wait at the gate."""
    futures = [pool.submit(gate.wait) for _ in range(workers)]
    gate.until_came(workers)
    try:
        yield
    finally:
        gate.open()
        for future in futures:
            assert future.result(PATIENCE) is None


class State:
    """What a worker owns: where it was made, and what tasks did with it."""

    def __init__(self, notes: Notes | None, name: str = "state") -> None:
        self.notes = notes
        self.name = name
        self.where = where()
        self.tasks: list[Any] = []
        self.bad = False
        if notes is not None:
            notes.add("made", name)

    def close(self) -> None:
        if self.notes is not None:
            place = "there" if self.where == where() else "elsewhere"
            self.notes.add("closed", self.name, place)


def where() -> tuple[int, int]:
    """The process and the thread that call this."""
    return os.getpid(), threading.get_ident()


# Initializers


def begin(notes: Notes | None = None, name: str = "state") -> State:
    return State(notes, name)


def begin_and_end(notes: Notes) -> Iterator[State]:
    state = State(notes)
    yield state
    state.close()


@contextmanager
def manage(notes: Notes) -> Iterator[State]:
    state = State(notes)
    yield state
    state.close()


class Refusal(Exception):
    """Of an initializer, or a teardown."""


def refuse(*_: object) -> Any:
    raise Refusal("no")


def begin_at_times(notes: Notes) -> State:
    """The first time, and from the third on."""
    notes.add("tried")
    if len(notes.lines()) == 2:
        raise Refusal("the second time")
    return State(None)


def die_with(_: object) -> None:
    os._exit(5)


# Tasks


def add(a: int, b: int = 1) -> int:
    return a + b


def fail(*args: object) -> None:
    raise LookupError(*args)


def fail_at(number: int, item: int) -> int:
    if number == item:
        raise LookupError(item)
    return item


def leave() -> None:
    raise SystemExit(3)


def push(state: State, item: Any = None) -> int:
    """The number of tasks that had this state."""
    state.tasks.append(item)
    return len(state.tasks)


def seen_by(state: State, *_: object) -> tuple[int, int]:
    assert state.where == where()
    return state.where


def spoil(state: State) -> None:
    state.bad = True


def is_good(state: State) -> bool:
    return not state.bad


def clean(state: State) -> None:
    state.tasks.clear()


def fail_with(state: State, error: BaseException) -> None:
    raise error


def seen_through(view: StateView[State]) -> bool:
    """In a task with such a state: `get` gives that one; a bound function is lent another one."""
    mine = view.get()
    other = view.bind(seen_by_bound)()
    return mine.where == other


def seen_by_bound(state: State) -> tuple[int, int]:
    return state.where


def get_through(_: State, view: StateView[State]) -> tuple[int, int]:
    return view.get().where


def discard_through(state: State, view: StateView[State]) -> int:
    view.discard()
    return push(state)


def wait_and_note(gate: Gate, notes: Notes) -> None:
    gate.wait()
    notes.add("ran")


def note(notes: Notes, *words: object) -> None:
    notes.add(*words)


def rest(seconds: float) -> None:
    time.sleep(seconds)
