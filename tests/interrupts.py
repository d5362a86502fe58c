"""Raise KeyboardInterrupt at a chosen point of the library's code, as SIGINT would.

CPython looks at signals after calls, at function entries and at backward jumps. `Interrupt(n)` raises at the n-th such
point that the calling thread passes in the library (and in `threading`, which it calls), found by tracing opcodes.
"""

import dis
import os
import sys
import threading
from types import FrameType
from typing import Any, Self

import stateful_executor

PACKAGE = os.path.dirname(stateful_executor.__file__)
CALLS = {code for name, code in dis.opmap.items() if name.startswith("CALL") and not name.startswith("CALL_INTRINSIC")}
ENTRIES_AND_JUMPS = {dis.opmap[name] for name in ("RESUME", "JUMP_BACKWARD")}


def _ours(frame: FrameType) -> bool:
    """Whether the frame is the library's, or one of `threading` on its behalf."""
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename == threading.__file__:
        caller = caller.f_back
    return caller is not None and caller.f_code.co_filename.startswith(PACKAGE)


class Interrupt:
    """Within the `with` block, raise KeyboardInterrupt at point number `at`, once; `passed` counts the points."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.where = ""

    def __enter__(self) -> Self:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not _ours(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        last = None
        code = frame.f_code.co_code

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            if event != "opcode":
                return local
            here = code[frame.f_lasti]
            before, last = last, here
            if before in CALLS or here in ENTRIES_AND_JUMPS:
                self.passed += 1
                if self.passed == self.at:
                    file = os.path.basename(frame.f_code.co_filename)
                    self.where = f"{file}:{frame.f_lineno} {frame.f_code.co_name} {dis.opname[here]}"
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return local

        return local
