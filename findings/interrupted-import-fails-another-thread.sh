#!/usr/bin/env bash
# CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Ctrl-C cuts off the import of a module in the main thread. Another thread, which came to import the same module
# meanwhile and waits for that, gets an `ImportError` ("cannot import name"), as if the name were not in there. The next
# import of it works.
#
# A good guess would be that the one that waits imports the module itself: the half of it that was there has left
# `sys.modules`. So a library that imports parts of its own where they are first used can fail in a thread that nobody
# has interrupted, and only once. Imports at the top of modules, which run before there are threads, have no such moment.
#
# Runs on what `python3` is; nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/part.py" <<'PYTHON'
import signal
import time

import __main__

if not __main__.begun.is_set():
    __main__.begun.set()
    while not __main__.other_waits():
        time.sleep(0.001)
    time.sleep(0.2)
    signal.raise_signal(signal.SIGINT)

name = 1
PYTHON
cat >"$folder/program.py" <<'PYTHON'
import sys
import threading

begun = threading.Event()
said = []


def other_waits():
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and "importlib" in frame.f_code.co_filename


def other():
    begun.wait()
    try:
        from part import name

        said.append(f"other thread: {name}")
    except ImportError as error:
        said.append(f"other thread: {error}".partition(" (")[0])


thread = threading.Thread(target=other)
thread.start()
try:
    import part
except KeyboardInterrupt:
    pass
thread.join()
from part import name

print(*said, f"then: {name}", sep="\n")
PYTHON
output=$(python3 "$folder/program.py")
printf '%s\n' "$output"
[[ $output == $'other thread: cannot import name \'name\' from \'part\'\nthen: 1' ]]
