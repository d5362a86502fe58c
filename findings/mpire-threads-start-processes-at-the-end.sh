#!/usr/bin/env bash
# mpire 2.10.2, CPython 3.11.7 and 3.13.0.
#
# A pool of threads, `WorkerPool(start_method="threading")`, whose `with` block a task's error ends, starts processes as it
# ends, by the default start method of `multiprocessing`: it has them empty its queues. Where that method is "spawn" or
# "forkserver", which is the default on Linux from Python 3.14 on, each of them imports the main module. A program that
# has no `if __name__ == "__main__":`, and needs none for threads, is run again by them, up to that pool.
#
# A good guess would be that a pool of threads starts none. Give such a program the guard, or make "fork" the default.
#
# The first line of output is the program's own; the others are the same line in the processes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mpire==2.10.2
cat >"$folder/program.py" <<'PYTHON'
import multiprocessing

from mpire import WorkerPool

print("runs as", __name__, flush=True)
multiprocessing.set_start_method("spawn", force=True)
try:
    with WorkerPool(n_jobs=2, start_method="threading") as pool:
        pool.map(int, ["1", "no number"])
except ValueError:
    print("the task's error, as", __name__, flush=True)
PYTHON
timeout 120 "$folder/venv/bin/python" "$folder/program.py" >"$folder/out" 2>"$folder/errors" || true
sort "$folder/out" | uniq -c
grep -o "RuntimeError\|bootstrapping phase" "$folder/errors" | sort | uniq -c || true
grep -q "^runs as __main__$" "$folder/out"
grep -q "^runs as __mp_main__$" "$folder/out"
grep -q "^the task's error, as __main__$" "$folder/out"
echo "as described"
