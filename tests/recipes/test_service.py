"""`examples/service.py` keeps its claims."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from recipes import ROOT, output_of, require


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_it_keeps_its_claims(tmp_path: Path) -> None:
    require("aiohttp")
    output = output_of(tmp_path, "-W", "error", ROOT / "examples" / "service.py", "--seconds", "1")
    assert (len(re.findall(r"^  yes ", output, re.MULTILINE)), output.count("NO ")) == (11, 0)
    assert re.findall(r"connections: (\d) opened, (\d) closed", output) == [("4", "4"), ("4", "0")]
    assert len(re.findall(r"late: p50 +[\d.]+ ms, p99 +[\d.]+ ms", output)) == 4
