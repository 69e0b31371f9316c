"""Tests of the report page in a real browser: wide and narrow, light and dark."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from landuse.core import paths
from landuse.report import charts
from landuse.report.page import STYLE

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
MIN_CONTRAST = 4.5  # of text, by WCAG AA
LUMINANCE = """
const channel = value => { value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const background = node => {
  for (; node; node = node.parentElement) {
    const color = numbers(getComputedStyle(node).backgroundColor);
    if (color[3] !== 0) return color;
  }
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), unreadable = [];
let count = 0;
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), owner = walker.currentNode.parentElement;
  if (!text || !owner.getClientRects().length || owner.tagName === 'STYLE') continue;
  const style = getComputedStyle(owner);
  const ink = luminance(numbers(owner.closest('svg') ? style.fill : style.color)), paper = luminance(background(owner));
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  count += 1;
  if (contrast < least) unreadable.push(`${text}: ${contrast.toFixed(2)}`);
}
return [count, unreadable];
"""


@pytest.fixture(scope="module", params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=str)
def view(request: pytest.FixtureRequest, browser, promoted: Path) -> Iterator:
    """Open the page at one width in one colour scheme; `requests` are the addresses that it requests."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(paths.REPORT.resolve().as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    yield page
    page.close()


def test_nothing_overflows_the_page(view) -> None:
    assert view.evaluate("document.documentElement.scrollWidth") == view.viewport_size["width"]
    overflowing = "[...document.querySelectorAll('body *')].filter(each => !each.closest('.scroll, .wide') && "
    overflowing += "each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
    assert view.evaluate(overflowing) == []


def test_every_image_is_loaded_and_has_alternative_text(view) -> None:
    images = view.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
    assert len(images) == 6 and all(width > 0 and alt for width, alt in images)
    labels = view.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.closest('[role=img]')?.ariaLabel)")
    assert len(labels) == 5 and all(labels)


def test_no_request_leaves_the_page(view) -> None:
    assert [url for url in view.requests if not url.startswith("data:")] == [paths.REPORT.resolve().as_uri()]


def test_every_text_has_enough_contrast(view) -> None:
    count, unreadable = view.evaluate(f"(least) => {{ {LUMINANCE} }}", MIN_CONTRAST)
    assert count > 200 and unreadable == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("color", ["good", "wrong"])
def test_a_number_is_readable_on_the_fullest_cell_of_the_confusion_matrix(scheme: str, color: str) -> None:
    variables = re.findall(r"--(\w+): light-dark\(#(\w{6}), #(\w{6})\)", STYLE.read_text())
    levels = {
        name: [int(pair[SCHEMES.index(scheme)][at : at + 2], 16) for at in (0, 2, 4)] for name, *pair in variables
    }
    mixed = zip(levels[color], levels["sheet"], strict=True)
    cell = [charts.MAX_ALPHA * ink + (1 - charts.MAX_ALPHA) * paper for ink, paper in mixed]
    lights = sorted([luminance(levels["ink"]), luminance(cell)])
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= MIN_CONTRAST


def luminance(levels: list[float]) -> float:
    """Compute the relative luminance of red, green and blue (0-255) by WCAG."""
    linear = [level / 255 / 12.92 if level <= 10 else ((level / 255 + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_headings_are_in_order(view) -> None:
    levels = view.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_wide_content_scrolls_in_boxes_that_the_keyboard_reaches(view) -> None:
    boxes = "[...document.querySelectorAll('.scroll, .wide')]"
    scrollable = view.evaluate(f"{boxes}.map(each => [each.scrollWidth > each.clientWidth, each.tabIndex])")
    assert all(index == 0 for _, index in scrollable)
    assert any(scrolls for scrolls, _ in scrollable) == (view.viewport_size["width"] == min(WIDTHS))
