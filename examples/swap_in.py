"""Change the class, keep the program: ThreadPoolExecutor swapped for ours in three places.

An ordinary program prints the same with both classes; tqdm's `thread_map` and asyncio's default executor run on ours
without knowing. Needs tqdm: pip install 'stateful-executor[examples]'
"""

import asyncio
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import current_thread, local
from unittest.mock import patch

from stateful_executor import StatefulThreadPoolExecutor

try:
    from tqdm.contrib.concurrent import thread_map
except ModuleNotFoundError:
    sys.exit("this example needs tqdm: pip install 'stateful-executor[examples]'")


def ordinary_program(executor_class: type[ThreadPoolExecutor]) -> list[str]:
    """Use an executor as programs do; nothing in here is ours but the class, perhaps."""
    lines = []
    thread = local()
    called_back: list[Future[int]] = []
    with executor_class(max_workers=4, initializer=setattr, initargs=(thread, "base", 10)) as executor:
        lines.append(f"map           {list(executor.map(pow, range(8), [2] * 8))}")

        parsed = [executor.submit(lambda text: int(text, thread.base), text) for text in ("1", "22", "333")]
        lines.append(f"as_completed  {sorted(future.result() for future in as_completed(parsed))}")

        failing = executor.submit(int, "four")
        failing.add_done_callback(called_back.append)
        lines.append(f"exception     {failing.exception()}")
    lines.append(f"callback      {called_back == [failing]}")
    try:
        executor.submit(int, "5")
    except RuntimeError as error:
        lines.append(f"shut down     {error}")
    return lines


def collatz_steps(number: int) -> int:
    steps = 0
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


def steps_and_worker(number: int) -> tuple[int, str]:
    return collatz_steps(number), current_thread().name


def on_tqdm(numbers: range) -> list[tuple[int, str]]:
    """`thread_map` looks the class up when it is called, so it takes the one that is there."""
    with patch("concurrent.futures.ThreadPoolExecutor", StatefulThreadPoolExecutor):
        return thread_map(steps_and_worker, numbers, max_workers=4, desc="tqdm")


async def on_asyncio(numbers: range) -> list[tuple[int, str]]:
    """`asyncio.run` shuts the default executor down at its end."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(StatefulThreadPoolExecutor(max_workers=4))
    first, *rest = numbers
    return await asyncio.gather(
        loop.run_in_executor(None, steps_and_worker, first),
        *(asyncio.to_thread(steps_and_worker, number) for number in rest),
    )


def report(what: str, results: list[tuple[int, str]], numbers: range) -> None:
    right = [steps for steps, _ in results] == list(map(collatz_steps, numbers))
    ours = sum(name.startswith(StatefulThreadPoolExecutor.__name__) for _, name in results)
    print(f"{what:<13} {len(results)} results, {'all right' if right else 'WRONG'}; {ours} from our workers")


def main() -> None:
    theirs = ordinary_program(ThreadPoolExecutor)
    ours = ordinary_program(StatefulThreadPoolExecutor)
    print(*ours, sep="\n")
    print(f"both classes  {'same' if ours == theirs else 'DIFFERENT'} output, {len(ours)} lines\n")

    numbers = range(1, 1001)
    report("tqdm", on_tqdm(numbers), numbers)
    report("asyncio", asyncio.run(on_asyncio(numbers)), numbers)


if __name__ == "__main__":
    main()
