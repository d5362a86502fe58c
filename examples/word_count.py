"""Count the words in the source of Python's standard library: one counter for each worker, added up at the end.

Nothing here takes a lock. A worker's counter is its state, lent to one task at a time, so a task just writes to it;
`broadcast` then has each worker hand its counter over. The sum is compared with a count of the same files in one
thread. What is shown is the way to gather, not a way to count faster: under the GIL threads take turns at counting.

    python word_count.py [--limit FILES]
"""

import argparse
import os
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from threading import current_thread

from stateful_executor import StatefulThreadPoolExecutor

STDLIB = Path(sysconfig.get_paths()["stdlib"])
LEFT_OUT = {"site-packages", "test", "tests", "encodings", "idlelib", "pydoc_data"}  # of the rest there is plenty
WORKERS = 4
BIG = 50_000  # bytes
WORD = re.compile("[a-z]{3,}")


def words_of(path: Path) -> list[str]:
    return WORD.findall(path.read_text(encoding="utf-8", errors="replace").lower())


def count(counter: Counter[str], path: Path) -> int:
    """Add the words of one file to the counter of the worker that runs this task, and return how many there are."""
    words = words_of(path)
    counter.update(words)
    return len(words)


def hand_over(counter: Counter[str]) -> tuple[str, Counter[str]]:
    """Return the counter itself, since no task writes to it any more; else it would have to be a copy."""
    return current_thread().name, counter


def count_in_workers(files: list[Path]) -> tuple[int, dict[str, Counter[str]]]:
    """Return the number of words as the tasks report it, and what each worker has counted, by its name."""
    big = {path for path in files if path.stat().st_size >= BIG}
    small = [path for path in files if path not in big]
    with StatefulThreadPoolExecutor(WORKERS, "worker") as pool:
        counters = pool.with_state(Counter[str])  # `Counter()` in each worker, when first needed
        tasks = [counters.submit(count, path) for path in big]  # one task each, and first: no big one is left for last
        words = sum(counters.map_unordered(count, small, chunksize=16))  # a task for 16 files: less to hand around
        words += sum(task.result() for task in tasks)  # every task has ended: the counters are complete
        return words, dict(future.result() for future in counters.broadcast(hand_over))


def count_in_one_thread(files: list[Path]) -> Counter[str]:
    total: Counter[str] = Counter()
    for path in files:
        total.update(words_of(path))
    return total


def source_files() -> list[Path]:
    found: list[Path] = []
    for folder, subfolders, names in os.walk(STDLIB):
        subfolders[:] = set(subfolders) - LEFT_OUT
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the words in the source of Python's standard library.")
    parser.add_argument("--limit", type=int, metavar="FILES", help="count in at most so many files")
    files = source_files()[: parser.parse_args().limit]

    words, counters = count_in_workers(files)
    total: Counter[str] = Counter()
    for counter in counters.values():
        total.update(counter)
    equal = total == count_in_one_thread(files) and words == total.total()

    print(f"files     {len(files):,}")
    print(f"words     {words:,}, of which {len(total):,} different ones")
    print(f"workers   {len(counters)} with a counter of their own")
    for name, counter in counters.items():
        print(f"          {name} {counter.total():9,} words")
    print(f"equal     {equal}: the sum of the counters is the count in one thread\n")
    for word, times in total.most_common(10):
        print(f"{times:9,}  {word}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
