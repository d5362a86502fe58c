"""The bar in a real notebook: an ipykernel that runs cells, and what it leaves in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from child import PATHS

pytest.importorskip("ipykernel", reason="pip install 'stateful-executor[pictures]'")
pytest.importorskip("rich", reason="pip install 'stateful-executor[progress]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'stateful-executor[pictures]'")
nbformat = pytest.importorskip("nbformat", reason="pip install 'stateful-executor[pictures]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Jupyter's own

CELL = """

from stateful_executor import StatefulThreadPoolExecutor, progress

with StatefulThreadPoolExecutor(2, "w") as pool:
    with progress.bar(pool, 20, workers=True, interval=0.001):
        print(sum(progress.track(pool.map(abs, range(20)), pool, 20, description="a map")))

"""


def test_a_bar_is_one_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(PATHS))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3").execute()
    outputs: list[Any] = notebook.cells[0].outputs
    bars = [output.data for output in outputs if output.output_type == "display_data"]
    assert len(bars) == 2  # each drawn anew in its place, the kernel has no ipywidgets
    assert "w " in bars[0]["text/html"]
    assert "20 of 20 done" in bars[0]["text/plain"]
    assert "w_1" in bars[0]["text/html"]
    assert "a map" in bars[1]["text/html"]
    assert "20 of 20 done" in bars[1]["text/html"]
    assert [output.text for output in outputs if output.output_type == "stream"] == ["190\n"]
