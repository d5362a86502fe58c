"""Eight tasks share four workers: the costly function runs once per worker, and the scope waits for every task."""

from collections.abc import Generator
from threading import Barrier

from stateful_executor import StatefulThreadPoolExecutor


def main() -> None:
    numbers = list(range(8))
    calls: list[str] = []
    four = Barrier(4)  # only so that all four workers start, and the output is the same each time

    def costly() -> Generator[int]:
        four.wait()
        calls.append("setup")
        yield len("costly setup function")  # this worker's state, lent to one task at a time
        calls.append("teardown")  # in the same worker, when the pool ends

    def add(state: int, index: int) -> None:
        numbers[index] += state

    with StatefulThreadPoolExecutor(4, initializer=costly) as pool:
        with pool.scope() as scope:
            for index in range(len(numbers)):
                scope.with_state().submit(add, index)
        print(numbers)  # complete: the scope ends when its tasks have ended

    print(f"{calls.count('setup')} setups, {calls.count('teardown')} teardowns")


if __name__ == "__main__":
    main()
