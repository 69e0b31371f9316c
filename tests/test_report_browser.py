"""The report of a version in a real browser: large and small, light and dark."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from landuse.core import paths
from landuse.promote.report_page import HERE
from landuse.report import charts

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
READABLE = 4.5  # contrast of text, WCAG AA
LUMINANCE = """
const channel = value => { value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const ground = node => {
  for (; node; node = node.parentElement) {
    const found = numbers(getComputedStyle(node).backgroundColor);
    if (found[3] !== 0) return found;
  }
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), pale = [];
let read = 0;
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), owner = walker.currentNode.parentElement;
  if (!text || !owner.getClientRects().length || owner.tagName === 'STYLE') continue;
  const style = getComputedStyle(owner);
  const ink = luminance(numbers(owner.closest('svg') ? style.fill : style.color)), paper = luminance(ground(owner));
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  read += 1;
  if (contrast < least) pale.push(`${text}: ${contrast.toFixed(2)}`);
}
return [read, pale];
"""


@pytest.fixture(scope="module", params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=str)
def view(request: pytest.FixtureRequest, browser, judged: Path) -> Iterator:
    """The page at one width in one colour scheme; `asked` are the addresses it asked for."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(paths.REPORT.resolve().as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    yield page
    page.close()


def test_nothing_sticks_out_of_the_page(view) -> None:
    assert view.evaluate("document.documentElement.scrollWidth") == view.viewport_size["width"]
    sticking = "[...document.querySelectorAll('body *')].filter(each => !each.closest('.scroll, .wide') && "
    sticking += "each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
    assert view.evaluate(sticking) == []


def test_every_image_is_loaded_and_has_words_in_its_place(view) -> None:
    found = view.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
    assert len(found) == 6 and all(width > 0 and alt for width, alt in found)
    drawn = view.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.closest('[role=img]')?.ariaLabel)")
    assert len(drawn) == 5 and all(drawn)


def test_no_request_leaves_the_page(view) -> None:
    assert [url for url in view.asked if not url.startswith("data:")] == [paths.REPORT.resolve().as_uri()]


def test_every_text_stands_out_from_its_ground(view) -> None:
    read, pale = view.evaluate(f"(least) => {{ {LUMINANCE} }}", READABLE)
    assert read > 200 and pale == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("color", ["good", "wrong"])
def test_a_number_stands_out_from_the_fullest_cell_of_the_confusion_matrix(scheme: str, color: str) -> None:
    found = re.findall(r"--(\w+): light-dark\(#(\w{6}), #(\w{6})\)", (HERE / "page.css").read_text())
    levels = {name: [int(pair[SCHEMES.index(scheme)][at : at + 2], 16) for at in (0, 2, 4)] for name, *pair in found}
    mixed = zip(levels[color], levels["sheet"], strict=True)
    cell = [charts.STRONG * ink + (1 - charts.STRONG) * paper for ink, paper in mixed]
    lights = sorted([luminance(levels["ink"]), luminance(cell)])
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= READABLE


def luminance(levels: list[float]) -> float:
    """Of red, green and blue (0-255), as WCAG has it."""
    linear = [level / 255 / 12.92 if level <= 10 else ((level / 255 + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_headings_are_in_order(view) -> None:
    levels = view.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_what_is_wider_than_a_phone_scrolls_in_a_box_that_the_keyboard_reaches(view) -> None:
    boxes = "[...document.querySelectorAll('.scroll, .wide')]"
    found = view.evaluate(f"{boxes}.map(each => [each.scrollWidth > each.clientWidth, each.tabIndex])")
    assert all(index == 0 for _, index in found)
    assert any(scrolls for scrolls, _ in found) == (view.viewport_size["width"] == min(WIDTHS))
