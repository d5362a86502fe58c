"""The page in a headless Chromium, from the file system, without a network. PICTURES=FOLDER keeps the screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recordings import everything, many

from stateful_executor.trace import Recording

pytest.importorskip("bokeh", reason="pip install 'stateful-executor[page]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'stateful-executor[pictures]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Playwright's, about event loops
]

DRAWN = "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
# Where the middle of the first task's bar is on the screen.
MIDDLE = """
() => {
    for (const view of Bokeh.index.query(() => true)) {
        const data = view.model.data_source?.data;
        if (view.model.type !== "GlyphRenderer" || !data?.took || !view.model.visible) continue;
        const bar = data.name.findIndex((name, n) => /load/.test(name) && data.right[n] > data.left[n]);
        const plot = view.parent, box = plot.canvas_view.el.getBoundingClientRect();
        return [
            box.left + view.coordinates.x_scale.compute((data.left[bar] + data.right[bar]) / 2),
            box.top + view.coordinates.y_scale.compute(data.y[bar]),
        ];
    }
}
"""
TOOLTIP = "() => [...Bokeh.index.query(() => true)].map(view => view.el?.shadowRoot?.textContent ?? '').join(' ')"
SHOWN = """
() => [...Bokeh.index.query(() => true)].map(view => view.model)
    .filter(model => model.type === "GlyphRenderer" && model.visible && model.data_source.data.took)
    .map(model => model.data_source.data.left.length)
"""
RANGE = "() => { const plot = Bokeh.documents[0].roots()[0].children[1]; return plot.x_range.end - plot.x_range.start }"


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser: Any, recording: Recording, path: Path) -> Any:
    recording.html(path)
    page = browser.new_page(viewport={"width": 1200, "height": 650})
    page.context.set_offline(True)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or page.faults.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    return page


def keep(page: Any, name: str, tmp_path: Path) -> None:
    picture = Path(os.environ.get("PICTURES", tmp_path)) / name
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000


def test_it_opens_and_names_each_task_on_hover(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, everything(), tmp_path / "timeline.html")
    x, y = page.evaluate(MIDDLE)
    page.mouse.move(x, y)
    page.wait_for_function("text => document.body && (" + TOOLTIP + ")().includes(text)", arg="waited")
    assert "load" in page.evaluate(TOOLTIP)
    keep(page, "page.png", tmp_path)
    assert page.faults == []
    page.close()


def test_many_tasks_are_drawn_together_until_one_zooms_in(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, many(30_000), tmp_path / "timeline.html")
    (together,) = page.evaluate(SHOWN)
    assert together < 10_000
    keep(page, "page_many.png", tmp_path)
    whole = page.evaluate(RANGE)
    page.mouse.move(600, 150)
    while page.evaluate(SHOWN) == [together]:
        before = page.evaluate(RANGE)
        page.mouse.wheel(0, -300)
        page.wait_for_function("before => (" + RANGE + ")() < before", arg=before)
    assert page.evaluate(SHOWN)[0] >= 30_000
    assert page.evaluate(RANGE) < whole
    keep(page, "page_zoomed.png", tmp_path)
    assert page.faults == []
    page.close()
