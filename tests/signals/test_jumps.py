"""No jump backward of the library's code passes by the `except` and `finally` that stand around it.

From 3.12 on, CPython's compiler puts the jump of a loop whose last step is conditional outside of the `try` or `with`
that the loop stands in, and looks at signals there: Ctrl-C in that moment undoes nothing, and leaves a lock held, or
somebody in a line (python/cpython#130279, open). Not to be seen in the source, hence this test of the bytecode.
"""

import dis
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType

import pytest

import stateful_executor

MODULES = sorted(Path(stateful_executor.__file__).parent.rglob("*.py"))


def codes(code: CodeType) -> Iterator[CodeType]:
    """`code`, and that of the functions in it."""
    yield code
    for const in code.co_consts:
        if inspect.iscode(const):
            yield from codes(const)


def escapes(code: CodeType) -> Iterator[dis.Instruction]:
    """The jumps back into a `try` or `with` that its handler does not cover."""
    bytecode = dis.Bytecode(code)
    instructions = list(bytecode)
    names = {instruction.offset: instruction.opname for instruction in instructions}

    def handlers(offset: int) -> list[int]:
        found: list[int] = []
        entries = bytecode.exception_entries  # type: ignore[attr-defined]
        while covering := [entry.target for entry in entries if entry.start <= offset < entry.end]:
            offset = covering[0]
            if offset in found:
                break
            found.append(offset)
        return [target for target in found if names[target] == "PUSH_EXC_INFO"]  # the others undo nothing of ours

    preceding = {after.offset: before for before, after in pairwise(instructions)}
    for before, jump in pairwise(instructions):
        if jump.opname == "JUMP_BACKWARD" and before.opname != "CLEANUP_THROW":  # that one ends an `await` on 3.12
            around = handlers(jump.argval)[:1]
            if before.opname.startswith("POP_JUMP"):  # the loop may begin with a `try`, a NOP that nothing covers
                around += handlers(before.offset)
            if sys.version_info >= (3, 13):
                looks = jump.offset
            else:  # it has jumped already, and looks there for the instruction before
                around += handlers(jump.offset)
                looks = preceding[jump.argval].offset
            if not set(around) <= set(handlers(looks)):
                yield jump


@pytest.mark.parametrize("module", MODULES, ids=[module.stem for module in MODULES])
def test_no_jump_escapes(module: Path) -> None:
    """Each loop in a `try` or `with` is a function of its own, or its last step is not conditional."""
    code = compile(module.read_text(encoding="utf-8"), str(module), "exec")
    found = [f"{inner.co_qualname}, {jump.positions}" for inner in codes(code) for jump in escapes(inner)]
    assert not found
