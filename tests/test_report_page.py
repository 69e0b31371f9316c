"""The report of a version: what it says is what was measured, and it can be read in a browser, large or small."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from shutil import copytree, ignore_patterns

import pandas as pd
import pytest
import tiny
from conftest import enter
from gallery import NAME, crown
from mlflow import MlflowClient

from landuse import paths, registry, tracking
from landuse.errors import Refused
from landuse.gate.blessing import Blessing
from landuse.params import load_params
from landuse.promote import promote
from landuse.promote.dossier import Dossier, open_dossier
from landuse.promote.page import HERE, render
from landuse.registry import ask, fresh
from landuse.report import charts

CHROMIUM = shutil.which("chromium")
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


@pytest.fixture(scope="module")
def judged(gallery_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project as the folder in use, in which version 1 replaced version 3, which is blind to water."""
    folder = tmp_path_factory.mktemp("judged") / "project"
    copytree(gallery_store, folder, ignore=ignore_patterns("mlruns"))
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, folder, patch)
        patch.setattr(fresh, "ask", ask.answers)
        crown(3)
        judge("1")
        yield folder


def judge(number: str) -> Blessing:
    params = load_params()
    return promote(params.promote, params.evaluate, NAME, number, tell=lambda check: None)


@pytest.fixture
def html(judged: Path) -> str:
    return paths.REPORT.read_text("utf-8")


@pytest.fixture
def dossier(judged: Path) -> Dossier:
    with tracking.store():
        return open_dossier(registry.get_version(NAME, "1"))


def blessing() -> Blessing:
    return Blessing.of(json.loads(paths.BLESSING.read_text()))


def words(html: str) -> str:
    """What is left to read without the marks."""
    plain = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def again(dossier: Dossier, **changes) -> str:
    """The page, had something else been on record."""
    return render(replace(dossier, **changes), blessing(), load_params().evaluate)


# What it says


def test_the_headline_is_the_accuracy_of_the_metrics_and_the_verdict(html: str, dossier: Dossier) -> None:
    assert dossier.metrics["accuracy"] == 1 and dossier.metrics["images"] == 60
    assert "<h1>100.0% of 60 held-out images are right</h1>" in html
    assert '<p class="verdict">It passed the gate and is the champion.</p>' in html


def test_every_check_of_the_blessing_is_a_row_with_its_figures(html: str) -> None:
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1].split("</tr>")[:-1]
    rows = [[words(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in body]
    for (name, verdict, value, threshold, sentence), check in zip(rows, blessing().checks, strict=True):
        assert (name, sentence) == (check.name, check.sentence)
        assert verdict == ("✓ passed" if check.passed else "✕ failed")
        for shown, figure in ((value, check.value), (threshold, check.threshold)):
            assert shown == "–" if figure is None else float(shown.replace(",", "")) == pytest.approx(figure, rel=0.05)


def test_the_duel_shows_both_scores_the_votes_the_interval_and_the_classes_that_changed(html: str) -> None:
    told, found = words(html), blessing()
    duel, votes = found.detail("difference"), found.detail("mcnemar")
    assert (duel["this"], duel["champion"]) == (1, pytest.approx(2 / 3)) and votes == {"this": 20, "champion": 0}
    assert "100.0% version 1 66.7% version 3, the champion" in told
    assert f"{duel['low']:+.1%} to {duel['high']:+.1%} difference, 95 % interval" in told
    assert "20 : 0 right only by this : only by the champion (McNemar p = 0.000)" in told
    assert "water 0.0% 100.0% +100.0%" in told and "forest 100.0%" not in told


def test_the_slices_drawn_are_those_of_the_blessing(html: str) -> None:
    drawn = re.findall(r">([\d.]+% of \d+)<", html)
    expected = [
        f"{found['accuracy']:.1%} of {found['images']}"
        for check in blessing().checks
        if check.name.startswith("slice_")
        for found in check.detail.values()
    ]
    assert sorted(drawn) == sorted(expected) and len(expected) >= 8


def test_the_data_are_counted_by_class_and_subset(html: str, dossier: Dossier) -> None:
    counts = pd.crosstab(dossier.splits["label"], dossier.splits["subset"])[["train", "validation", "test"]]
    for label, row in counts.iterrows():
        assert " ".join([label, *map(str, row), str(row.sum())]) in words(html)


def test_the_lineage_names_data_code_run_and_environment(html: str, dossier: Dossier) -> None:
    tags = dossier.run.data.tags
    for fact in (tags["data.md5"], tags["git.commit"], tags["model.sha256"], tags["params.sha256"]):
        assert fact in html
    assert dossier.version.run_id in html and f"keras {dossier.versions['keras']}" in html
    assert "train.learning_rate" in html


def test_where_a_file_lay_on_a_machine_is_not_told(html: str, dossier: Dossier) -> None:
    weights = dossier.run.data.params["extract.weights"]
    assert weights.startswith("/") and weights not in html and Path(weights).name in html
    assert str(Path.cwd()) not in html


def test_least_certain_images_are_shown_with_what_they_were_taken_for(html: str, dossier: Dossier) -> None:
    first = dossier.predictions.sort_values("confidence", kind="stable").iloc[0]
    section = html[html.index("The least certain images") :]
    assert re.search(r'alt="([^"]+)"', section)[1] == first["path"]
    assert f"{first['predicted']} {first['confidence']:.0%} right" in words(section)
    assert section.count("<figure") == 6 and "6 of 60 images" in words(section)


def test_html_in_a_class_name_is_shown_and_not_obeyed(dossier: Dossier) -> None:
    evil = "<script>alert(1)</script>"
    label = {"water": evil}
    page = again(
        dossier,
        predictions=dossier.predictions.replace(label),
        per_class=dossier.per_class.replace(label),
        splits=dossier.splits.replace(label),
        card=dossier.card | {"labels": ["field", "forest", evil]},
    )
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_a_class_name_is_not_taken_for_a_formula(dossier: Dossier) -> None:
    page = again(dossier, predictions=dossier.predictions.replace({"water": r"$\frac{$"}))
    assert page.count(r"$\frac{$</text>") == 2


def test_drawn_images_are_called_drawn_in_the_headline(dossier: Dossier, html: str) -> None:
    MlflowClient().set_tag(dossier.version.run_id, "data.kind", "sample")
    with tracking.store():
        page = again(open_dossier(dossier.version))
    MlflowClient().set_tag(dossier.version.run_id, "data.kind", "real")
    assert "drawn by a program. This is no real data" in re.search(r"<header.*?</header>", page, re.DOTALL)[0]
    assert "drawn" not in words(html)


# Where it lies


def test_the_run_keeps_the_page_and_the_slices_and_the_version_leads_there(html: str, dossier: Dossier) -> None:
    client, run = MlflowClient(), dossier.run.info
    kept = {item.path for folder in (None, "pictures") for item in client.list_artifacts(run.run_id, folder)}
    assert {"report.html", "pictures/slices.png"} <= kept
    version = registry.get_version(NAME, "1")
    assert version.tags["report"] == f"runs:/{run.run_id}/report.html"
    link = f"[Report](#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report.html)"
    assert version.description == f"It passed the gate and is the champion. {link}"


def test_the_page_of_the_champion_is_made_again_as_it_was(html: str, dossier: Dossier) -> None:
    MlflowClient().log_text(dossier.version.run_id, "of a trial before", "report.html")
    paths.REPORT.unlink()
    judge("1")
    assert paths.REPORT.read_text("utf-8") == html


def test_with_other_images_in_data_the_page_of_the_champion_is_the_one_its_run_keeps(html: str) -> None:
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace(tiny.DATA_MD5, "f" * 32 + ".dir"))
    paths.REPORT.write_text("of another version")
    judge("1")
    paths.DATA_DVC.write_text(record)
    assert paths.REPORT.read_text("utf-8") == html


# What else may happen to a version


@pytest.fixture
def other(registry_copy: Path, at_hand: None) -> Path:
    """Another copy of the project and its store, to change at will."""
    return registry_copy


def test_a_refused_version_has_a_page_that_says_why(other: Path) -> None:
    with pytest.raises(Refused):
        judge("2")
    first = blessing().first_failure()
    assert f"The gate refused it: {first.sentence}." in words(paths.REPORT.read_text("utf-8"))
    assert "There was no champion to compare with." in words(paths.REPORT.read_text("utf-8"))


def test_a_version_of_before_with_little_on_record_is_promoted_and_the_page_says_what_is_missing(other: Path) -> None:
    run = MlflowClient().get_run(registry.get_version(NAME, "1").run_id)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    kept = copytree(folder, other / "kept")
    try:
        for name in ("metrics.json", "history.csv", "per_class.csv", "versions.json"):
            (folder / name).unlink()
        (folder / "predictions.csv").write_text("path,label\nfield/00.png,field\n")
        shutil.rmtree(folder / "validation")
        assert judge("1").promoted
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
    told = words(paths.REPORT.read_text("utf-8"))
    for missing in (
        "Confusion matrix: how many images of each class were taken for which: not recorded",
        "Recall of every class, the lowest on top: not recorded",
        "Loss and accuracy by epoch, on training and validation images: not recorded",
        "Depthwise filters of every block: the weakest, the median, and which are dead: not recorded",
        "Predictions: not recorded",
        "Validation not recorded",
        "Copies not recorded",
        "Environment not recorded",
        "Network not recorded",
    ):
        assert missing in told


def test_a_description_that_people_wrote_stays(other: Path) -> None:
    MlflowClient().update_model_version(NAME, "1", "Ask Ann before you use it")
    judge("1")
    assert registry.get_version(NAME, "1").description == "Ask Ann before you use it"


def test_an_image_that_is_gone_leaves_a_place_with_a_word(dossier: Dossier) -> None:
    moved = dossier.predictions.assign(path="gone/" + dossier.predictions["path"])
    page = again(dossier, predictions=moved)
    assert page.count("not at hand") == 6 and "<img" not in page


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=str)
def view(request: pytest.FixtureRequest, judged: Path) -> Iterator:
    """The page at one width in one colour scheme; `asked` are the addresses it asked for."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    width, scheme = request.param
    browser = request.getfixturevalue("browser")
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
