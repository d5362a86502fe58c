#!/usr/bin/env bash
# CPython 3.11.7 (GIL build). Needs a `python3` that is 3.11.
#
# `PyThreadState_SetAsyncExc(ident, exc)`, with which time limits, debuggers and notebook kernels throw an exception into
# a thread, may hit another one: a thread that the target is just starting. Up to 3.11 the thread state of a new thread
# is made by the thread that starts it, and has that one's ident until the new thread runs; and it comes first in the
# list that is searched for the ident. So the new thread ends before the first instruction of its function, and whoever
# waits for it, or for what it was to do, waits for ever; the target never hears of it. The call returns 1 all the same.
#
# A good guess would be that only the thread with that ident is hit. From 3.12 on the ident is written by the new thread.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/throw.py" <<'PYTHON'
import _thread, ctypes, sys, threading, time

class Thrown(BaseException):
    pass

newborn, target = [], []
sys.unraisablehook = lambda args: newborn.append(args.exc_type)
throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
throw.argtypes = ctypes.c_ulong, ctypes.py_object

def starts():  # until it is told; what is thrown at a jump back of the inner loop is for the outer one
    while not over:
        try:
            while not over:
                try:
                    while not over:
                        _thread.start_new_thread(newcomer, ())
                except Thrown:
                    target.append(Thrown)
        except Thrown:
            target.append(Thrown)

def newcomer():
    pass

over = []
sys.setswitchinterval(1e-5)
thread = threading.Thread(target=starts)
thread.start()
for _ in range(100):
    before = len(target) + len(newborn)
    throw(thread.ident, Thrown)
    give_up = time.monotonic() + 0.1
    while len(target) + len(newborn) == before and time.monotonic() < give_up:  # one at a time
        time.sleep(0)
    if newborn and target:
        break
over.append(None)
thread.join()
print("the target was hit:", bool(target), "- a thread that it had just started was hit:", bool(newborn))
PYTHON
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
said=$(python3 "$folder/throw.py")
echo "CPython $version: $said"
[[ $version == 3.11 ]]
[[ $said == "the target was hit: True - a thread that it had just started was hit: True" ]]
