"""The README and each page of `docs/` runs as one program, and prints what the page says.

The `python` blocks of a page are one after the other in that program; the `text` blocks below them are what it prints.
(One below a `sh` block is what that prints.) A page says in a comment at its top what it needs:
`<!-- needs: module, module -->`. What it leaves to the reader's imagination, as a `connect` that it only calls, is in
`tests/recipes/imagined/`, in a module of the page's name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from recipes import ROOT, output_of, require

DOCS = ROOT / "docs"
IMAGINED = Path(__file__).parent / "imagined"
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - set((DOCS / "_build").rglob("*.md")))]

# What a fence may say. No other one is left for code to hide behind: `py`, `pycon` or nothing at all.
LANGUAGES = {"python", "text", "sh", "console", "rust"}
DIRECTIVES = {"{toctree}", "{include}"}


class Block(NamedTuple):
    """A fenced block: what its fence says, how far it is indented, its first line, from 0, and its lines."""

    info: str
    indent: str
    first: int
    lines: list[str]


def blocks(text: str) -> Iterator[Block]:
    block: Block | None = None
    for number, line in enumerate(text.splitlines()):
        fence = re.match(r"([\s>*\d.-]*)(?:```+|~~~+)(.*)", line)
        if fence is None:
            if block is not None:
                block.lines.append(line)
        elif block is None:
            block = Block(fence[2].strip(), fence[1], number + 1, [])
        else:
            yield block
            block = None
    assert block is None, f"the block at line {block and block.first} has no end"


def program(text: str) -> str:
    """The blocks of Python, each in the lines where it stands in the page, so that tracebacks point there."""
    lines = [""] * len(text.splitlines())
    for block in blocks(text):
        if block.info == "python":
            lines[block.first : block.first + len(block.lines)] = block.lines
    return "\n".join(lines) + "\n"


def printed(text: str) -> str:
    """What the program prints, by the page."""
    lines: list[str] = []
    of_python = False
    for block in blocks(text):
        if block.info == "text" and of_python:
            lines += block.lines
        elif block.info != "text":
            of_python = block.info == "python"
    return "".join(f"{line}\n" for line in lines)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    needed = re.search(r"<!-- needs: (.*) -->", text)
    require(*needed[1].split(", ") if needed else ())
    code = program(text)
    imagined = IMAGINED / f"{page.stem.lower()}.py"
    if imagined.exists():
        shutil.copy(imagined, tmp_path / "imagined.py")
        code = "from imagined import *" + code  # in the line of the heading
    script = tmp_path / f"page_{page.stem}.py"
    script.write_text(code, encoding="utf-8")
    assert output_of(tmp_path, script) == printed(text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_is_left_out(page: Path) -> None:
    """Each block says what it is, and those of Python stand at the margin, where `program` finds them."""
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.info in LANGUAGES or block.info.split()[0] in DIRECTIVES, block
        assert block.info != "python" or block.indent == "", block


def test_links_of_the_readme() -> None:
    """Sphinx looks after those of `docs/`."""
    prose = re.sub(
        r"^```.*?^```$", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    targets = re.findall(r"\]\(([^)#:]+)\)", prose)
    assert len(targets) > 20
    assert not [target for target in targets if not (ROOT / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names(page: Path) -> None:
    names = re.findall(r"`((?:tests|examples|benchmarks)/[\w./]*)`", page.read_text(encoding="utf-8"))
    assert not [name for name in names if not (ROOT / name).exists()]


def test_there_are_pages() -> None:
    assert len(PAGES) > 20


def test_blocks() -> None:
    """Those of this page: one that runs, what it prints, one that is indented, and one that runs elsewhere."""
    text = (
        "# Page\n```python\nprint(1)\n```\n```text\n1\n```\n- ```py\n  2\n  ```\n```sh\nls\n```\n```text\nfile\n```\n"
    )
    assert [block.info for block in blocks(text)] == ["python", "text", "py", "sh", "text"]
    assert [block.indent for block in blocks(text)] == ["", "", "- ", "", ""]
    assert program(text).split("\n")[2] == "print(1)"
    assert printed(text) == "1\n"
