"""The report of a version: what it says is what was measured, where it lies, and what old versions lack."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
import tiny
from gallery import NAME, judge
from mlflow import MlflowClient

from landuse import registry, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError, Refused
from landuse.gate.blessing import Blessing, Check
from landuse.params import load_params
from landuse.promote.report_page import render
from landuse.registry.version_record import VersionRecord, read_version_record


@pytest.fixture
def html(judged: Path) -> str:
    return paths.REPORT.read_text("utf-8")


@pytest.fixture
def record(judged: Path) -> VersionRecord:
    with tracking.store():
        return read_version_record(registry.get_version(NAME, "1"))


def blessing() -> Blessing:
    return Blessing.of(json.loads(paths.BLESSING.read_text()))


def words(html: str) -> str:
    """What is left to read without the marks."""
    plain = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def again(record: VersionRecord, **changes) -> str:
    """The page, had something else been on record."""
    return render(replace(record, **changes), blessing(), load_params().evaluate)


# What it says


def test_the_headline_is_the_accuracy_of_the_metrics_and_the_verdict(html: str, record: VersionRecord) -> None:
    assert record.metrics["accuracy"] == 1 and record.metrics["images"] == 60
    assert "<h1>100.0% of 60 held-out images are right</h1>" in html
    assert '<p class="verdict">It passed the gate and became the champion.</p>' in html


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
    assert "20 : 0 right only by this : only by the champion (McNemar, p < 0.001)" in told
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


def test_the_data_are_counted_by_class_and_subset(html: str, record: VersionRecord) -> None:
    counts = pd.crosstab(record.splits["label"], record.splits["subset"])[["train", "validation", "test"]]
    for label, row in counts.iterrows():
        assert " ".join([label, *map(str, row), str(row.sum())]) in words(html)


def test_the_lineage_names_data_code_run_and_environment(html: str, record: VersionRecord) -> None:
    tags = record.run.data.tags
    for fact in (tags["data.md5"], tags["git.commit"], tags["model.sha256"], tags["params.sha256"]):
        assert fact in html
    assert record.version.run_id in html and f"keras {record.versions['keras']}" in html
    assert "train.learning_rate" in html


def test_where_a_file_lay_on_a_machine_is_not_told(html: str, record: VersionRecord) -> None:
    weights = record.run.data.params["extract.weights"]
    assert weights.startswith("/") and weights not in html and Path(weights).name in html
    assert str(Path.cwd()) not in html


def test_least_certain_images_are_shown_with_what_they_were_taken_for(html: str, record: VersionRecord) -> None:
    first = record.predictions.sort_values("confidence", kind="stable").iloc[0]
    section = html[html.index("The least certain images") :]
    assert re.search(r'alt="([^"]+)"', section)[1] == first["path"]
    assert f"{first['predicted']} {first['confidence']:.0%} right" in words(section)
    assert section.count("<figure") == 6 and "6 of 60 images" in words(section)


def test_html_in_a_class_name_is_shown_and_not_obeyed(record: VersionRecord) -> None:
    evil = "<script>alert(1)</script>"
    label = {"water": evil}
    page = again(
        record,
        predictions=record.predictions.replace(label),
        per_class=record.per_class.replace(label),
        splits=record.splits.replace(label),
        card=record.card | {"labels": ["field", "forest", evil]},
    )
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_a_class_name_is_not_taken_for_a_formula(record: VersionRecord) -> None:
    page = again(record, predictions=record.predictions.replace({"water": r"$\frac{$"}))
    assert page.count(r"$\frac{$</text>") == 2


def test_drawn_images_are_called_drawn_in_the_headline(record: VersionRecord, html: str) -> None:
    MlflowClient().set_tag(record.version.run_id, "data.kind", "sample")
    with tracking.store():
        page = again(read_version_record(record.version))
    MlflowClient().set_tag(record.version.run_id, "data.kind", "real")
    assert "drawn by a program. This is no real data" in re.search(r"<header.*?</header>", page, re.DOTALL)[0]
    assert "drawn" not in words(html)


# Where it lies


def test_the_run_keeps_the_page_and_the_slices_and_the_version_leads_there(html: str, record: VersionRecord) -> None:
    client, run = MlflowClient(), record.run.info
    kept = {item.path for folder in (None, "pictures") for item in client.list_artifacts(run.run_id, folder)}
    assert {"report.html", "pictures/slices.png"} <= kept
    version = registry.get_version(NAME, "1")
    assert version.tags["report"] == f"runs:/{run.run_id}/report.html"
    link = f"[Report](#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report.html)"
    day, _, verdict = version.description.partition(": ")
    assert day == version.tags["gate.moment"][:10]
    assert verdict == f"It passed the gate and became the champion. {link}"


def test_the_page_of_the_champion_is_made_again_as_it_was(html: str, record: VersionRecord) -> None:
    MlflowClient().log_text(record.version.run_id, "of a trial before", "report.html")
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
    first = blessing().failures()[0]
    assert f"The gate refused it: {first.sentence} ({first.key})." in words(paths.REPORT.read_text("utf-8"))
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


@pytest.mark.slow
def test_what_people_added_to_a_description_stays_and_one_they_left_alone_follows_the_verdict(other: Path) -> None:
    judge("1")
    own = registry.get_version(NAME, "1").description
    MlflowClient().update_model_version(NAME, "1", own.replace("[Report]", "and more [Report]"))
    judge("1")
    assert registry.get_version(NAME, "1").description == own
    MlflowClient().update_model_version(NAME, "1", f"{own}\nOn the drones since Monday")
    judge("1")
    assert registry.get_version(NAME, "1").description == f"{own}\nOn the drones since Monday"


def test_where_the_champion_could_not_be_compared_with_the_page_says_why(record: VersionRecord) -> None:
    sentence = "the champion cannot be compared with: gallery version 2 is damaged"
    hindrance = Check("champion", None, None, False, sentence)
    page = words(render(record, replace(blessing(), champion="2", checks=(hindrance,)), load_params().evaluate))
    assert f"Nothing was compared: {sentence}." in page and "Compared with version" not in page


def test_a_version_whose_run_is_gone_is_told_so(other: Path) -> None:
    version = registry.get_version(NAME, "1")
    version._run_id = "0" * 32
    with pytest.raises(LanduseError, match="gallery version 1: its run 0+ is gone"):
        read_version_record(version)


def test_an_image_that_is_gone_leaves_a_place_with_a_word(record: VersionRecord) -> None:
    moved = record.predictions.assign(path="gone/" + record.predictions["path"])
    page = again(record, predictions=moved)
    assert page.count("not at hand") == 6 and "<img" not in page
