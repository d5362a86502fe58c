#!/usr/bin/env bash
# CPython 3.11.7 and 3.13.0 (GIL builds), `multiprocessing` and `concurrent.futures.ProcessPoolExecutor`.
#
# A process that `multiprocessing` starts by "spawn" or "forkserver" finds nothing of the main module when the script has
# been run to its end by then, as it has when another thread starts the process, or the interpreter's exit waits for a
# pool. So a script that leaves three tasks to a `ProcessPoolExecutor(max_tasks_per_child=1)` and ends gets the result of
# the first one only: the process for the second can't find the function, and the pool is broken.
#
# A good guess would be that queued tasks are run as they are when the script waits for them (the last line). But
# `multiprocessing` looks for `__main__.__file__` each time that it starts a process, and CPython deletes that attribute
# when the script has ended, before it waits for threads and pools.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/script.py" <<'PYTHON'
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor


def work(number):
    return number


def tell(future):
    print(future.result() if future.exception() is None else type(future.exception()).__name__, flush=True)


if __name__ == "__main__":
    _, method, waits = sys.argv
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)
    for number in range(3):
        pool.submit(work, number).add_done_callback(tell)
    if waits == "waits":
        pool.shutdown()
PYTHON

output=
for way in "spawn ends" "forkserver ends" "spawn waits"; do
    # shellcheck disable=SC2086  # two words
    output+="$way: $(python3 "$folder/script.py" $way 2>"$folder/errors" | tr '\n' ' ')"$'\n'
    case $way in *ends) grep -q "Can't get attribute 'work' on <module '__main__'" "$folder/errors" ;; esac
done
printf '%s' "$output"
[[ $output == "spawn ends: 0 BrokenProcessPool BrokenProcessPool "$'\n'"forkserver ends: 0 BrokenProcessPool BrokenProcessPool "$'\n'"spawn waits: 0 1 2 "$'\n' ]]
