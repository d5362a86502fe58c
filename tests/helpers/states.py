"""Numbers as states, and what becomes of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any


class States:
    """Makes numbers, and notes which thread made, used and tore down each. `log` has what happened, in order."""

    def __init__(self) -> None:
        self.made: dict[int, int] = {}
        self.torn_down: dict[int, int] = {}
        self.lent: set[int] = set()
        self.log: list[str] = []
        self.errors: list[str] = []
        self.lock = threading.Lock()

    def make(self) -> int:
        with self.lock:
            number = len(self.made)
            self.made[number] = threading.get_ident()
            self.log.append(f"make {number}")
        return number

    def tear_down(self, number: int) -> None:
        with self.lock:
            if number in self.torn_down:
                self.errors.append(f"{number} torn down twice")
            if number in self.lent:
                self.errors.append(f"{number} torn down while lent")
            self.torn_down[number] = threading.get_ident()
            self.log.append(f"end {number}")

    def generate(self) -> Generator[int]:
        number = self.make()
        try:
            yield number
        finally:
            self.tear_down(number)

    def use(self, number: int, then: Callable[[], Any] = int) -> int:
        with self.lock:
            if number in self.lent or number in self.torn_down:
                self.errors.append(f"{number} lent twice, or after its end")
            if self.made[number] != threading.get_ident():
                self.errors.append(f"{number} lent to another thread")
            self.lent.add(number)
        try:
            then()
        finally:
            with self.lock:
                self.lent.remove(number)
        return number

    def check(self) -> None:
        assert not self.errors
        assert self.torn_down == self.made  # each in the thread that made it
