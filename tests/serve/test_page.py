"""The page in a real browser: drop, paste or choose an image with the keyboard only, and read the answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import as_base64, gradient

from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier
from landuse.serve.predictor import Predictor

pytestmark = pytest.mark.slow
IMAGE = DATA / "forest" / "05.png"
WIDTHS = {"desktop": 1280, "phone": 390}
SEND_FILE = """([content, how]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "scene.png", {type: "image/png"}));
  const event = how === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
    : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser, url: str) -> Iterator[object]:
    """The open page at desktop and phone width. Script errors and requests to other hosts fail the test."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 800})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("filechooser", lambda _: None)  # intercepts the dialogue before it opens
    page.goto(url)
    yield page
    assert errors == [] and all(request.startswith((url, "blob:", "data:")) for request in requests)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.close()


def read_answer(page) -> str:
    """Wait for the answer and return it; the visible text and the live region must agree."""
    page.wait_for_selector("#answer:not([hidden])")
    label = page.inner_text("#label")
    assert label in page.text_content("#status") and page.locator("[aria-live=polite]").count() == 1
    return label


def test_an_image_can_be_chosen_and_classified_with_the_keyboard_only(trained: Path, page) -> None:
    expected = Classifier(MODEL).predict(IMAGE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(IMAGE)
    assert read_answer(page) == expected.label == "forest"
    bars = page.locator("#bars li")
    assert [bars.nth(index).locator(".name").inner_text() for index in range(3)] == [c.label for c in expected.top]
    assert f"{100 * expected.confidence:.1f} %" in page.inner_text("#confidence")
    assert page.locator("#nearest li").count() == 6 and page.inner_text("#nearest li:first-child .name") == "forest"
    page.wait_for_function("[...document.querySelectorAll('#nearest img')].every((image) => image.naturalWidth > 0)")
    assert page.inner_text("#version").startswith("sha256:")
    page.wait_for_selector("#image", state="visible")
    assert page.is_visible("#unsure") == expected.unsure


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_an_image_can_be_dropped_or_pasted(trained: Path, page, how: str) -> None:
    page.evaluate(SEND_FILE, [as_base64(IMAGE), how])
    assert read_answer(page) == "forest"


def test_an_invalid_image_shows_an_error_and_the_next_one_is_classified(trained: Path, page) -> None:
    page.set_input_files("#file", files=[{"name": "a.png", "mimeType": "image/png", "buffer": b"garbage"}])
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"
    assert page.get_attribute("#error", "role") == "alert" and page.is_hidden("#answer")
    page.set_input_files("#file", IMAGE)
    assert read_answer(page) == "forest" and page.is_hidden("#error")


def test_an_unsure_answer_is_marked_as_unsure(trained: Path, page, predictor: Predictor, monkeypatch) -> None:
    monkeypatch.setattr(predictor.model.classifier, "unsure_below", 1.1)
    page.set_input_files("#file", IMAGE)
    read_answer(page)
    assert "Unsure." in page.inner_text("#unsure") and page.text_content("#status").startswith("The model is unsure: ")


def test_an_image_that_the_browser_cannot_show_is_classified_anyway(trained: Path, page) -> None:
    page.set_input_files("#file", files=[{"name": "a.tif", "mimeType": "image/tiff", "buffer": gradient("TIFF")}])
    assert read_answer(page)
    page.wait_for_selector("#image", state="hidden")
    assert page.inner_text("#unseen") == "This browser does not show such files; the model saw it."
    page.set_input_files("#file", IMAGE)
    page.wait_for_selector("#image", state="visible")
    assert not page.is_visible("#unseen")
