"""Add a number that is costly to get, and got once per worker, to every element of a list."""

from stateful_executor import StatefulThreadPoolExecutor

numbers = [0, 1, 2, 3, 4, 5, 6, 7]
set_up, torn_down = [], []


def costly():
    set_up.append("costly setup function")
    yield len("costly setup function")  # this worker's state, lent to one task at a time
    torn_down.append("costly setup function")  # in the same worker, when the pool ends


def add(state, index):
    numbers[index] += state


with StatefulThreadPoolExecutor(4, initializer=costly) as pool:
    with pool.scope() as scope:
        for index in range(len(numbers)):
            scope.with_state().submit(add, index)
    print(numbers)  # complete: the scope ends when its tasks have ended

print("torn down by each worker that set up:", torn_down == set_up)
