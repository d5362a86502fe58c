#!/usr/bin/env bash
# CPython 3.11.7, 3.12.1 and 3.13.0.
#
# An object keeps its attributes in itself, without a dict, while there are at most 29 of them. With the 30th each object
# of the class has a dict of its own besides, with a table of the names: 1,650 bytes and more, where 29 attributes take
# 330, and to make one takes longer.
#
# A good guess would be that one attribute more costs one pointer. A class that gets its attributes from several bases
# comes to 30 without anybody counting them; `__slots__` in all of them, or one attribute less, is what helps.
#
# Runs on what `python3` is; nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/count.py" <<'PYTHON'
import tracemalloc


def bytes_of_one(attributes):
    lines = "".join(f"        self.a{number} = None\n" for number in range(attributes))
    names = {}
    exec(f"class Thing:\n    def __init__(self):\n{lines}", names)
    thing = names["Thing"]
    kept = [thing() for _ in range(100)]  # the class has learned its attributes by now
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [thing() for _ in range(1000)]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken / 1000


sizes = {number: bytes_of_one(number) for number in (28, 29, 30)}
for number, size in sizes.items():
    print(f"{number} attributes: {size:.0f} bytes")
assert sizes[29] - sizes[28] < 20, "the 29th costs a pointer"
assert sizes[30] > 4 * sizes[29], "the 30th costs more than all before"
PYTHON
python3 -V
python3 "$folder/count.py"
