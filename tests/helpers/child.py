"""An interpreter of its own for a test: what a script there starts with, and how it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import stateful_executor

PATHS = [str(Path(stateful_executor.__file__).parents[1]), str(Path(__file__).parent)]  # for PYTHONPATH
PATIENCE = 25  # seconds, for what ends at once unless something is broken

PRELUDE = """
import atexit, faulthandler, gc, os, signal, subprocess, sys, threading, time, traceback
from concurrent.futures import CancelledError
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager, suppress
from inside import SLEEPS_IN, inside
from stateful_executor import StatefulThreadPoolExecutor

sys.setswitchinterval(float(os.environ.get("SWITCH_INTERVAL", sys.getswitchinterval())))  # as conftest.py
PATIENCE = int(os.environ.get("PATIENCE", 20))
if hasattr(signal, "SIGALRM"):  # faulthandler's own timer can hang a forked child
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(PATIENCE)
else:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
parent = os.getpid()


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one step, and nothing is left in a buffer for a child


def make():
    return threading.get_ident()


def tear_down(state):
    where = "its" if state == threading.get_ident() else "another"
    say("torn down in", where, "thread", *["of the child"] * (os.getpid() != parent))


def until(condition):
    while not condition():
        time.sleep(0)


def raised(fn, *args):
    try:
        say("returned", fn(*args))
    except BaseException as exc:
        say(f"{type(exc).__name__}: {exc}" if type(exc) is RuntimeError else type(exc).__name__)


# Where the main thread is. It sets `ready` as the last thing before it waits in the library.
ready = threading.Event()


def until_main_sleeps():
    main = threading.main_thread().ident
    ready.wait()
    until(lambda: main in (frames := sys._current_frames()) and frames[main].f_code in SLEEPS_IN)
"""

INTERRUPTS = """
interrupts = []


def on_sigint(*_):
    interrupts.append(None)
    raise KeyboardInterrupt


signal.signal(signal.SIGINT, on_sigint)
signal.signal(signal.SIGUSR1, lambda *_: None)


def interrupt(times=1):
    # In a task: have KeyboardInterrupt raised in the main thread, which sleeps in the library, and return after that.
    for _ in range(times):
        until_main_sleeps()
        before = len(interrupts)
        os.kill(os.getpid(), signal.SIGINT)
        while len(interrupts) == before:
            # CPython does not see a signal that comes right between its last look and the system call that sleeps.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(0)
    until(lambda: len(interrupts) >= times)


queued = []
left = threading.Event()
left.set()  # cleared where the main thread is to leave its block before the task ends


def interrupting(times):
    # The task that runs while others are queued, until those are cancelled.
    interrupt(times)
    until(lambda: all(future.done() for future in queued))
    left.wait()
    say("queued tasks were cancelled:", *(future.cancelled() for future in queued))


def open_pool(**options):
    return StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, **options)
"""

FORKS = """
def forked():
    # As os.fork(); a child that hangs says where, and dies.
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE // 2)
    return pid


def fork(fn):
    # Run `fn` in a forked child, and return when that has ended.
    pid = forked()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    join(pid)


def join(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        say("child ended with", status)
"""

LATE = """
import types


class Late:
    # Goes after the daemons were stopped; then what the main module defines has gone as well.
    def __init__(self, pool, future):
        self.pool = pool
        self.future = future

    def __del__(self, write=os.write):
        repr(self.pool)
        self.future.add_done_callback(type)
        try:
            self.pool.submit(int)
        except RuntimeError as exc:
            write(1, f"RuntimeError: {exc}\\n".encode())
        self.pool.shutdown()
        write(1, b"gone\\n")


def keep(late):
    # In a module that no frame of a daemon refers to.
    sys.modules["other"] = types.ModuleType("other")
    sys.modules["other"].late = late
"""

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
TOO_LATE = "RuntimeError: cannot schedule new futures after interpreter shutdown"


def run(script: str, preludes: str = PRELUDE, *options: str, patience: int = PATIENCE) -> tuple[int, list[str], str]:
    """Run `script` in an interpreter of its own; its exit code, its lines and its errors."""
    done = subprocess.run(
        [sys.executable, *options, "-c", preludes + dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "PATIENCE": str(patience - 5)},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def run_well(script: str, preludes: str = PRELUDE, *options: str, patience: int = PATIENCE) -> list[str]:
    """Run `script`, which is to succeed without a word on stderr; its lines."""
    code, lines, errors = run(script, preludes, *options, patience=patience)
    assert (code, errors) == (0, ""), errors
    return lines


def run_forks(script: str, preludes: str = "") -> list[str]:
    """Run `script`, which forks, without Python's warning that it has threads."""
    return run_well(script, PRELUDE + FORKS + preludes, "-W", "ignore::DeprecationWarning")


ENTRY_POINTS = """
entry_points = {
    "submit": lambda pool: pool.submit(say, "never"),
    "map": lambda pool: pool.map(say, ["never"]),
    "chunked map": lambda pool: pool.map(say, ["never"], chunksize=2),
    "scope": lambda pool: pool.scope().__enter__().submit(say, "never"),
    "view": lambda pool: pool.with_state(list).submit(say, "never"),
    "scope's view": lambda pool: pool.scope().__enter__().with_state(list).submit(say, "never"),
    "resize": lambda pool: pool.resize(2),
}


def try_entry_points(pool):
    for name, entry_point in entry_points.items():
        try:
            entry_point(pool)
        except BrokenThreadPool as exc:
            assert "fork" in str(exc)
            say(name)
"""
ENTRY_POINT_NAMES = ["submit", "map", "chunked map", "scope", "view", "scope's view", "resize"]
