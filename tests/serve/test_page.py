"""The page in a real browser: an image is dropped, pasted or chosen with the keyboard only, and the answer read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import drawn, sent

from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier
from landuse.serve.predictor import Answers

pytestmark = pytest.mark.slow
IMAGE = DATA / "forest" / "05.png"
WIDTHS = {"desktop": 1280, "phone": 390}
GIVE = """([content, how]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "scene.png", {type: "image/png"}));
  const event = how === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
    : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser, place: str) -> Iterator[object]:
    """The page as it opens, at desktop and at phone width; whatever it complains of fails the test."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 800})
    complaints, elsewhere = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: elsewhere.append(asked.url))
    page.on("filechooser", lambda _: None)  # the browser is told in time that no dialogue is wanted
    page.goto(place)
    yield page
    assert complaints == [] and all(url.startswith((place, "blob:", "data:")) for url in elsewhere)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.close()


def read_answer(page) -> str:
    """The answer, once it is there; what is seen and what is spoken say the same."""
    page.wait_for_selector("#answer:not([hidden])")
    label = page.inner_text("#label")
    assert label in page.text_content("#status") and page.locator("[aria-live=polite]").count() == 1
    return label


def test_with_the_keyboard_only_an_image_is_chosen_and_the_answer_read(trained: Path, page) -> None:
    said = Classifier(MODEL).predict(IMAGE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(IMAGE)
    assert read_answer(page) == said.label == "forest"
    bars = page.locator("#bars li")
    assert [bars.nth(index).locator(".name").inner_text() for index in range(3)] == [c.label for c in said.top]
    assert f"{100 * said.confidence:.1f} %" in page.inner_text("#confidence")
    assert page.locator("#nearest li").count() == 6 and page.inner_text("#nearest li:first-child .name") == "forest"
    page.wait_for_function("[...document.querySelectorAll('#nearest img')].every((image) => image.naturalWidth > 0)")
    assert page.inner_text("#version").startswith("sha256:")
    page.wait_for_selector("#image", state="visible")
    assert page.is_visible("#unsure") == said.unsure


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(trained: Path, page, how: str) -> None:
    page.evaluate(GIVE, [sent(IMAGE), how])
    assert read_answer(page) == "forest"


def test_what_is_no_image_is_said_in_words_and_the_next_one_is_answered(trained: Path, page) -> None:
    page.set_input_files("#file", files=[{"name": "a.png", "mimeType": "image/png", "buffer": b"rubbish"}])
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"
    assert page.get_attribute("#error", "role") == "alert" and page.is_hidden("#answer")
    page.set_input_files("#file", IMAGE)
    assert read_answer(page) == "forest" and page.is_hidden("#error")


def test_an_unsure_answer_is_said_to_be_one(trained: Path, page, answers: Answers, monkeypatch) -> None:
    monkeypatch.setattr(answers.model.classifier, "unsure_below", 1.1)
    page.set_input_files("#file", IMAGE)
    read_answer(page)
    assert "Unsure." in page.inner_text("#unsure") and page.text_content("#status").startswith("The model is unsure: ")


def test_an_image_that_browsers_do_not_show_is_answered_all_the_same(trained: Path, page) -> None:
    page.set_input_files("#file", files=[{"name": "a.tif", "mimeType": "image/tiff", "buffer": drawn("TIFF")}])
    assert read_answer(page)
    page.wait_for_selector("#image", state="hidden")
    assert page.inner_text("#unseen") == "This browser does not show such files; the model saw it."
    page.set_input_files("#file", IMAGE)
    page.wait_for_selector("#image", state="visible")
    assert not page.is_visible("#unseen")
