"""Have CPython itself raise KeyboardInterrupt at a chosen one of the points at which it looks at signals.

Which points those are differs between versions: after calls of C functions, at the entry of Python functions and
generators, at backward jumps, and inside whatever sleeps. So nothing is guessed here: `Interrupt(n)` has SIGINT pending
from the n-th event of a trace of opcodes on, and its handler raises where the interpreter runs it, as with Ctrl-C. The
next number worth a run is `next`: what lies between leads to the same point.

A signal that comes right before the system call that sleeps is not seen until that returns: Python's own gap. With
`prod`, another thread interrupts the sleep, so that the error comes out of it; without, when it has been slept through.
"""

from __future__ import annotations

import ctypes
import dis
import os
import pkgutil
import signal
import sys
import threading
import time
from _thread import allocate_lock, get_ident, interrupt_main, start_new_thread
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import CodeType, FrameType
from typing import Any, Self

import stateful_executor

PACKAGE = os.path.dirname(stateful_executor.__file__)
STDLIB = os.path.dirname(threading.__file__)
# A trace function in C, which does not look at signals itself: appends the frame to the list that it is bound to.
APPEND = ctypes.PYFUNCTYPE(None, *[ctypes.py_object] * 4)(("PyList_Append", ctypes.pythonapi))
SLEPT = 0.002  # seconds after which a thread that has not seen its signal is taken for asleep

# What the library imports when it is first used. Ctrl-C in the midst of an import, anybody's, can leave the lock of all
# imports held: no other thread of this process could import any more.
for _module in pkgutil.iter_modules([PACKAGE], "stateful_executor."):
    if "._" in _module.name:
        import_module(_module.name)

_met: set[CodeType] = set()


def _ours(frame: FrameType) -> bool:
    """Whether the frame is the library's, or one of the standard library on its behalf."""
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename.startswith(STDLIB):
        if caller.f_code.co_filename.startswith(PACKAGE):
            return True
        caller = caller.f_back
    return caller is not None and caller.f_code.co_filename.startswith(PACKAGE)


def place(frame: FrameType) -> str:
    """Where a frame is, for a person."""
    code = frame.f_code
    opname = dis.opname[code.co_code[frame.f_lasti]] if frame.f_lasti >= 0 else "start"
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name} {opname}"


class Interrupt:
    """Within the `with` block, have SIGINT pending from event number `at` on, once, or from `again` events later anew.

    Afterwards `where` is a list of the places where its handler raised `error`, innermost frames first.
    """

    def __init__(
        self, at: int, again: int = 0, *, prod: bool = True, error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        self.error = error
        self.due = [at, again] if again else [at]
        self.prod = prod and hasattr(signal, "pthread_kill")
        self.prodded = False  # the sleep had to be interrupted
        self.where: list[str] = []
        # It came where Python ignores errors, in a destructor or the callback of a weakref; or inside a log call, where
        # what it raises can't be told from what a handler or a filter does.
        self.ignored = False
        self.next = [0, 0]  # the numbers that lead to the points after these
        self.passed = 0
        self.fresh = False  # met code for the first time: CPython 3.13 traces its opcodes from the next time on
        self._ring: Iterator[None] = iter(interrupt_main, "never")  # FOR_ITER does not look at signals, as a call would
        self._log: list[object] = []
        self._count = partial(APPEND, self._log)
        self._armed = allocate_lock()
        self._armed.acquire()
        self._over = False
        self._gone = allocate_lock()

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGINT, self._raise)
        if self.prod:
            self._usr1 = signal.signal(signal.SIGUSR1, _nothing)
            self._gone.acquire()
            start_new_thread(self._prod, (get_ident(),))
        frame = sys._getframe()
        frame.f_trace_opcodes = True  # before `settrace`, or CPython 3.12 traces none
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)
        self._over = True
        if self.prod:
            if self._armed.locked():
                self._armed.release()
            self._gone.acquire()
            signal.signal(signal.SIGUSR1, self._usr1)
        signal.signal(signal.SIGINT, self._handler)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The trace function for all frames."""
        if event == "call":
            if _ours(frame):
                frame.f_trace_opcodes = True
                frame.f_trace_lines = False
                if frame.f_code not in _met:
                    _met.add(frame.f_code)
                    self.fresh = True
            else:
                frame.f_trace_opcodes = frame.f_trace_lines = False
        self.passed += 1
        if self.passed != self.due[0]:
            return self._trace if _ours(frame) else None
        self._log.clear()
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_trace is not None:
                outer.f_trace = self._count
            outer = outer.f_back
        sys.settrace(self._count)
        if self.prod and self._armed.locked():
            self._armed.release()
        for _ in self._ring:
            return self._count
        return None

    def _raise(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT."""
        if frame is not None and frame.f_code in _OF_TRACE:
            for _ in self._ring:  # no call, after which it would come in here
                return  # the trace function of a generator that was suspended: the point comes after that
        sys.settrace(None)
        if frame is not None and frame.f_code is Interrupt.__exit__.__code__:
            return  # no point was left in what is tested
        self.next[len(self.where)] = self.passed + len(self._log) + 1
        self._log.clear()
        self.where.append("?" if frame is None else place(frame))
        self.ignored = _is_ignored(frame)
        self.passed = 0
        del self.due[0]
        if self.due and not self._over:
            while frame is not None:
                if frame.f_trace is not None:
                    frame.f_trace = self._trace
                frame = frame.f_back
            sys.settrace(self._trace)
        raise self.error

    def _prod(self, thread: int) -> None:
        while True:
            self._armed.acquire()
            seen = len(self.where)
            while not self._over and len(self.where) == seen:
                time.sleep(SLEPT)
                if not self._over and len(self.where) == seen:
                    self.prodded = True
                    signal.pthread_kill(thread, signal.SIGUSR1)
            if self._over:
                self._gone.release()
                return


_OF_TRACE = {Interrupt._trace.__code__, Interrupt._raise.__code__, _ours.__code__}


def _is_ignored(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in {"__del__", "_remove", "drop", "tell"}:
            return True
        frame = frame.f_back
    return False


def _nothing(*_: object) -> None:
    pass
