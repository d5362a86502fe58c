"""Each page of recipes and of migrations runs as one program, and prints what the page says.

The `python` blocks of a page are one after the other in that program; its `text` blocks are what it prints. A page says
in a comment at its top what it needs: `<!-- needs: module, module -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipes import ROOT, output_of, require

PAGES = sorted(path for room in ("recipes", "migration") for path in (ROOT / "docs" / room).glob("*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def program(text: str) -> str:
    """The blocks of Python, each in the lines where it stands in the page, so that tracebacks point there."""
    lines = [""] * text.count("\n")
    for block in FENCED.finditer(text):
        if block[1] == "python":
            first = text.count("\n", 0, block.start(2))
            code = block[2].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_page(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    needed = re.search(r"<!-- needs: (.*) -->", text)
    require(*needed[1].split(", ") if needed else ())
    script = tmp_path / f"page_{page.stem}.py"
    script.write_text(program(text), encoding="utf-8")
    assert output_of(tmp_path, script) == "".join(block[2] for block in FENCED.finditer(text) if block[1] == "text")


def test_there_are_pages() -> None:
    assert len(PAGES) > 10
