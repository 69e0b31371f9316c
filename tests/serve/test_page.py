"""The page in a real browser: what it says before any image, and the table of answers for those chosen or dropped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from running import as_base64, gradient, serve_in_thread, wait_until

from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier
from landuse.serve.metrics import Metrics
from landuse.serve.middleware import MAX_BODY_BYTES
from landuse.serve.predictor import Predictor

pytestmark = pytest.mark.slow
IMAGE, OTHER = DATA / "forest" / "05.png", DATA / "water" / "05.png"
WIDTHS = {"desktop": 1280, "phone": 390}
ALIAS, FIRST, SECOND = "models:/scenes@champion", "models:/scenes/1", "models:/scenes/2"
NOT_AN_IMAGE = "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"
HOSTILE_NAMES = {
    "<img src=x onerror=document.title='run'>.png": "<img src=x onerror=document.title='run'>.png",
    "</script><script>document.title='run'</script>.png": "</script><script>document.title='run'</script>.png",
    "invoice\u202egnp.exe": "invoice\ufffdgnp.exe",
    f"{'long' * 60}.png": f"{'long' * 60}.png",
}
SEND_FILES = """([content, names, how]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File([bytes], name, {type: "image/png"}));
  const event = how === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
    : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


@contextmanager
def open_page(browser, url: str, width: int = WIDTHS["desktop"]) -> Iterator:
    """Open the page. Script errors, requests to other hosts and a page wider than the window fail the test."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("filechooser", lambda _: None)  # intercepts the dialogue before it opens
    page.goto(url)
    yield page
    assert errors == [] and all(request.startswith((url, "blob:", "data:")) for request in requests)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser, url: str) -> Iterator:
    """The open page at desktop and phone width."""
    with open_page(browser, url, WIDTHS[request.param]) as page:
        yield page


@pytest.fixture
def wide_page(browser, url: str) -> Iterator:
    """The open page at desktop width."""
    with open_page(browser, url) as page:
        yield page


def drop(page, content: bytes | Path, *names: str, how: str = "drop") -> None:
    """Drop or paste one content under each of the names."""
    page.evaluate(SEND_FILES, [as_base64(content), names, how])


def as_file(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def read_rows(page, count: int) -> list[list[str]]:
    """Wait until all images are done; return the cells of their rows, without the picture."""
    wait_until(lambda: page.locator(".row").count() == count and page.is_hidden("#progress"), 120)
    script = "rows => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent))"
    return page.eval_on_selector_all(".row", script)


def percent(share: float) -> str:
    text = "< 0.1 %" if share < 0.001 else "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def expected_row(image: Path, name: str = "") -> list[str]:
    answer = Classifier(MODEL).predict(image)
    next_best = ", ".join(f"{other.label} {percent(other.probability)}" for other in answer.top[1:3])
    doubt = "unsure" if answer.unsure else "no"
    return [name or image.name, answer.label, percent(answer.confidence), doubt, next_best]


def test_images_can_be_chosen_and_looked_into_with_the_keyboard_only(trained: Path, page) -> None:
    page.wait_for_selector("#model")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.localName") == "summary"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files([IMAGE, DATA / "water" / "04.png"])
    assert read_rows(page, 2) == [expected_row(IMAGE), expected_row(DATA / "water" / "04.png")]
    assert page.locator(".more").count() == 0
    page.keyboard.press("Tab")
    assert page.inner_text(":focus") == "05.png"
    for expanded in (True, False):
        page.keyboard.press("Enter")
        assert page.get_attribute(":focus", "aria-expanded") == str(expanded).lower()
        assert page.locator(".more").count() == expanded


def test_one_image_shows_at_once_what_else_it_may_be_and_what_it_is_like(trained: Path, page) -> None:
    expected = Classifier(MODEL).predict(IMAGE)
    page.set_input_files("#file", IMAGE)
    assert read_rows(page, 1) == [expected_row(IMAGE)] and expected.label == "forest"
    assert page.locator(".bars .name").all_inner_texts() == [candidate.label for candidate in expected.top]
    assert page.locator(".nearest li").count() == 6 and page.inner_text(".nearest li:first-child .name") == "forest"
    shown = "() => [...document.images].every((image) => image.naturalWidth > 0)"
    wait_until(lambda: page.evaluate(shown))
    assert page.inner_text(".more code").startswith("sha256:") and page.is_visible(".more > img")
    spoken = page.inner_text("#status")
    assert f"forest, {percent(expected.confidence)} confidence, by sha256:" in spoken
    assert page.locator("[aria-live=polite]").count() == 1


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_several_images_can_be_dropped_or_pasted(trained: Path, wide_page, how: str) -> None:
    drop(wide_page, IMAGE, "a.png", "b.png", "c.png", how=how)
    assert read_rows(wide_page, 3) == [expected_row(IMAGE, name) for name in ("a.png", "b.png", "c.png")]


def test_an_unreadable_image_has_its_reason_in_its_row_and_spoils_no_other(trained: Path, page) -> None:
    files = [as_file("a.png", IMAGE.read_bytes()), as_file("b.png", b"garbage"), as_file("c.png", OTHER.read_bytes())]
    page.set_input_files("#file", [*files, as_file("d.png", b"")])
    first, second, third, fourth = read_rows(page, 4)
    assert [first, third] == [expected_row(IMAGE, "a.png"), expected_row(OTHER, "c.png")]
    assert second == ["b.png", NOT_AN_IMAGE] and fourth[0] == "d.png" and "cannot be decoded" in fourth[1]
    assert page.inner_text("#status").startswith("2 of 4 images answered by sha256:")
    assert page.is_disabled("button:text-is('b.png')") and page.is_enabled("button:text-is('c.png')")
    page.set_input_files("#file", [as_file("e.png", b"garbage")])
    assert read_rows(page, 1) == [["e.png", NOT_AN_IMAGE]]
    assert page.inner_text("#status") == f"Not answered: {NOT_AN_IMAGE}."


def test_names_of_files_are_text_and_cannot_change_the_page(trained: Path, page) -> None:
    drop(page, IMAGE, *HOSTILE_NAMES)
    assert [row[0] for row in read_rows(page, len(HOSTILE_NAMES))] == list(HOSTILE_NAMES.values())
    drop(page, b"garbage", *HOSTILE_NAMES)
    assert [row[0] for row in read_rows(page, len(HOSTILE_NAMES))] == list(HOSTILE_NAMES.values())
    assert page.title() == "What do these images show?" and page.locator(".file img, .file script").count() == 0


def test_labels_are_text_and_cannot_change_the_page(trained: Path, browser, predictor, monkeypatch) -> None:
    labels = ["<img src=x onerror=document.title='run'>", "<b>forest</b>", "water"]
    monkeypatch.setattr(predictor.model.classifier, "labels", labels)
    same = Predictor(predictor.model, Metrics(), None, None)
    with serve_in_thread(same) as url, open_page(browser, url) as page:
        drop(page, IMAGE, "a.png")
        read_rows(page, 1)
        assert page.inner_text("#classes") == ", ".join(labels) and page.inner_text(".label") == labels[1]
        assert page.title() == "What do these images show?" and page.locator("b, [onerror]").count() == 0


def test_more_images_than_one_request_may_hold_are_all_answered(trained: Path, wide_page, monkeypatch) -> None:
    monkeypatch.setattr("landuse.serve.predictor.MAX_IMAGES", 5)
    statuses = []
    wide_page.on("response", lambda response: statuses.append(response.status))
    names = [f"{number}.png" for number in range(60)]
    drop(wide_page, IMAGE, *names)
    expected = expected_row(IMAGE)[1:]
    assert read_rows(wide_page, 60) == [[name, *expected] for name in names]
    assert set(statuses) == {200} and wide_page.inner_text("#status").startswith("60 of 60 images answered")


def test_an_image_larger_than_a_request_may_be_is_not_sent(trained: Path, wide_page, tmp_path: Path) -> None:
    assert wide_page.evaluate("MAX_BYTES") == MAX_BODY_BYTES
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", MAX_BODY_BYTES + 1)
    sent = []
    wide_page.on("request", lambda request: sent.append(request.url))
    wide_page.set_input_files("#file", [tmp_path / "large.png", IMAGE])
    reason = f"the image has more than {MAX_BODY_BYTES:,} bytes"
    assert read_rows(wide_page, 2) == [["large.png", reason], expected_row(IMAGE)]
    assert sum(url.endswith("/predict") for url in sent) == 1


def test_a_server_that_is_gone_and_a_file_that_is_gone_are_told_apart(trained: Path, wide_page) -> None:
    wide_page.route("**/predict", lambda route: route.abort())
    wide_page.set_input_files("#file", [IMAGE, OTHER])
    assert {row[1] for row in read_rows(wide_page, 2)} == {"the server does not answer"}
    wide_page.evaluate("() => { File.prototype.arrayBuffer = () => Promise.reject(new DOMException()); }")
    wide_page.set_input_files("#file", [OTHER, IMAGE])
    reason = "this browser cannot read it: a folder, or a file that has changed"
    assert {row[1] for row in read_rows(wide_page, 2)} == {reason}


def test_a_newer_choice_replaces_one_that_is_not_done(trained: Path, wide_page) -> None:
    drop(wide_page, IMAGE, *(f"{number}.png" for number in range(100)))
    drop(wide_page, OTHER, "newer.png")
    assert read_rows(wide_page, 1) == [expected_row(OTHER, "newer.png")]
    assert wide_page.inner_text("#status").startswith(expected_row(OTHER)[1])


def test_unsure_answers_are_marked_as_unsure(trained: Path, page, predictor: Predictor, monkeypatch) -> None:
    page.set_input_files("#file", [IMAGE, OTHER])
    assert [row[3] for row in read_rows(page, 2)] == ["no", "no"] and page.is_hidden("#unsure")
    monkeypatch.setattr(predictor.model.classifier, "unsure_below", 1.1)
    page.set_input_files("#file", IMAGE)
    assert read_rows(page, 1)[0][3] == "unsure" and page.inner_text("#unsure").startswith("Unsure answers")
    assert page.inner_text("#status").startswith("The model is unsure: forest")


def test_an_image_that_the_browser_cannot_show_is_classified_anyway(trained: Path, page) -> None:
    page.set_input_files("#file", [{"name": "a.tif", "mimeType": "image/tiff", "buffer": gradient("TIFF")}])
    assert len(read_rows(page, 1)[0]) == 5
    page.wait_for_selector(".more > p:first-child")
    assert page.inner_text(".more > :first-child") == "This browser does not show such files; the model saw it."
    assert page.inner_text(".unseen") == "not shown"
    page.set_input_files("#file", IMAGE)
    page.wait_for_selector(".image img", state="visible")
    assert page.locator(".unseen").count() == 0


def test_the_page_names_the_model_before_any_image_and_the_next_one_once_that_answers(
    trained: Path, browser, predictor: Predictor
) -> None:
    model = replace(predictor.model, version=FIRST)
    following = Predictor(model, Metrics(), None, None, ALIAS)
    with serve_in_thread(following) as url, open_page(browser, url) as page:
        page.wait_for_selector("#model")
        assert page.inner_text("#model").startswith(f"Answers come from {FIRST}; the server follows {ALIAS}.")
        assert page.inner_text("summary") == "It knows 3 classes"
        assert page.inner_text("#classes") == "field, forest, water"
        following.use(replace(model, version=SECOND))
        drop(page, IMAGE, "a.png", "b.png")
        read_rows(page, 2)
        assert f"answered by {SECOND}, " in page.inner_text("#status")
        page.wait_for_selector(f"#version:text-is('{SECOND}')")
        following.use(model)
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        page.wait_for_selector(f"#version:text-is('{FIRST}')")
        assert f"answered by {SECOND}, " in page.inner_text("#status")  # it did, whoever answers next


def test_the_page_says_that_a_model_without_alias_stays(page) -> None:
    page.wait_for_selector("#model")
    assert page.inner_text("#model").startswith("Answers come from sha256:")
    assert "; the server stays with it." in page.inner_text("#model")
