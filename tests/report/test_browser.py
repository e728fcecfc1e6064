"""The page in a real Chromium, light and dark, narrow and wide: it loads nothing, nothing is cut off or covered, and
the keyboard reaches its points."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.report.page import Page
from tests.report import chromium

CHROMIUM = chromium.find()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]

# Where the screenshots are kept, for whoever wants to look at them; a folder of the test's own where it is not said.
SCREENSHOTS = os.environ.get("OFA_EDGE_SCREENSHOTS")
SIGHTS = [(width, dark) for width in (390, 1400) for dark in (False, True)]
NAMES = [f"{width}-{'dark' if dark else 'light'}" for width, dark in SIGHTS]

# Boxes of the texts that are seen in each figure, in pixels of the page, and the figure's own.
TEXTS = """
[...document.querySelectorAll("main svg")].filter(s => s.getBoundingClientRect().width > 60).map(s => {
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
  const texts = [...s.querySelectorAll("text")].filter(t => !t.closest(".tip") && t.textContent.trim());
  return {name: s.querySelector("title")?.textContent, box: box(s),
          size: Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().a)),
          texts: texts.map(t => [t.textContent, ...box(t)])};
})
"""
FOCUSED = """(() => { const e = document.activeElement, t = e.querySelector?.(".tip");
return [e.tagName, e.getAttribute("aria-label"), e.getAttribute("class"), t && getComputedStyle(t).visibility] })()"""


@pytest.fixture(scope="module")
def report(whole: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two boards and what was chosen for each."""
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_bytes(whole.content)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    assert CHROMIUM is not None
    with chromium.start(CHROMIUM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), SIGHTS, ids=NAMES)
def test_it_loads_without_a_word_and_without_a_network(
    browser: chromium.Browser, report: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    tab = browser.open(report, width, dark=dark)
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"report-{width}-{'dark' if dark else 'light'}.png"
    tab.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert tab.messages == []
    assert tab.requests == []
    shade = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(shade) < 60) if dark else (min(shade) > 230)


@pytest.mark.parametrize("width", [360, 390, 800, 1400])
def test_nothing_is_cut_off_covered_or_too_small(browser: chromium.Browser, report: Path, width: int) -> None:
    tab = browser.open(report, width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    figures = tab.evaluate(TEXTS)
    assert len(figures) >= 8
    for figure in figures:
        left, top, right, bottom = figure["box"]
        assert right - left >= 100
        assert figure["size"] >= 9, figure["name"]
        for text, *box in figure["texts"]:
            inside = box[0] >= left - 8 and box[1] >= top - 4 and box[2] <= right + 8 and box[3] <= bottom + 4
            assert inside, (figure["name"], text, box, figure["box"])
        for a, b in itertools.combinations(figure["texts"], 2):
            assert not overlap(a[1:], b[1:]), (figure["name"], a, b)


def overlap(a: list[float], b: list[float]) -> bool:
    """Whether two boxes share more than the rims of their lines."""
    return min(a[2], b[2]) - max(a[0], b[0]) > 1.5 and min(a[3], b[3]) - max(a[1], b[1]) > 4


@pytest.mark.parametrize("width", [390, 1400])
def test_the_keyboard_reaches_the_points_and_they_speak(browser: chromium.Browser, report: Path, width: int) -> None:
    tab = browser.open(report, width)
    reached: list[list[Any]] = []
    for _ in range(400):
        tab.press("Tab", 9)
        found = tab.evaluate(FOCUSED)
        reached.append(found)
        if found[0] == "BODY":  # past the last one
            break
    assert reached[0][2] == "skip"
    points = [(label, shown) for _, label, class_, shown in reached if class_ == "p"]
    visible = tab.evaluate("[...document.querySelectorAll('.p')].filter(e => e.getClientRects().length).length")
    assert len(points) == visible >= 20
    assert all(label and shown == "visible" for label, shown in points)
    assert any("Other Board" in label for label, _ in points)


def test_paper_is_light_and_has_the_wide_figures(browser: chromium.Browser, report: Path) -> None:
    tab = browser.open(report, 390, dark=True)
    tab.call("Emulation.setEmulatedMedia", {"media": "print"})
    shade = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert min(shade) > 230
    assert tab.evaluate("[...document.querySelectorAll('.narrow')].every(e => !e.getClientRects().length)")
    assert len(tab.call("Page.printToPDF", {"printBackground": True})["data"]) > 10_000
