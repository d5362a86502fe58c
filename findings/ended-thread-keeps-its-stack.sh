#!/usr/bin/env bash
# CPython 3.13.0, Linux. Needs a `python3` that is 3.13 or later.
#
# A `threading.Thread` that has ended (`is_alive()` is False) keeps its stack, 8 MB of address space by default and what
# it has touched of that, until somebody calls `join()`, or until the `Thread` object is collected. Up to 3.12 the stack
# is free as the thread ends, whoever has the object: there threads are detached, from 3.13 on they are joinable.
#
# A good guess would be that nothing of an ended thread is left but a small object. A program that waits for its threads
# otherwise (an event, a queue, a counter), and keeps the objects, in a list of workers, say, keeps all of their stacks.
#
# Nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/threads.py" <<'PYTHON'
import re
import threading
import time
from pathlib import Path

MiB = 1 << 20
THREADS, STACK = 32, 32 * MiB
threading.stack_size(STACK)


def taken():
    [kilobytes] = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) << 10


def ended():
    together = threading.Barrier(THREADS)
    threads = [threading.Thread(target=together.wait) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.001)
    return threads


for thread in ended():
    thread.join()  # from here on threads find the memory that they have besides
del thread
before = taken()
threads = ended()
unjoined = (taken() - before) / STACK
for thread in threads:
    thread.join()
joined = (taken() - before) / STACK
print(f"{THREADS} threads that have ended keep {unjoined:.0f} stacks, and {joined:.0f} when they are joined")
assert unjoined > THREADS * 0.9
assert joined < THREADS * 0.2
PYTHON
python3 -V
python3 "$folder/threads.py"
