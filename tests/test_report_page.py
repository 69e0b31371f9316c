"""Tests of the report page of a version: its contents, where it is stored, and what old versions lack."""

import json
import re
import shutil
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
import tiny
from gallery import NAME, make_champion, promote_version
from mlflow import MlflowClient

from landuse import registry, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError, Refused
from landuse.gate.blessing import Blessing, Check
from landuse.params import load_params
from landuse.project.listings import compare_listings
from landuse.promote.report_page import render
from landuse.registry.version_record import VersionRecord, read_version_record
from landuse.tracking.names import facts_of


@pytest.fixture
def html(promoted: Path) -> str:
    return paths.REPORT.read_text("utf-8")


@pytest.fixture
def record(promoted: Path) -> VersionRecord:
    with tracking.store():
        return read_version_record(registry.get_version(NAME, "1"))


def blessing() -> Blessing:
    return Blessing.from_dict(json.loads(paths.BLESSING.read_text()))


def visible_text(html: str) -> str:
    """Return the visible text of a page, without the charts."""
    plain = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def render_with(record: VersionRecord, **changes) -> str:
    """Render the page with changes to the record."""
    return render(replace(record, **changes), blessing(), load_params().evaluate)


# Contents


def test_the_header_shows_accuracy_and_verdict(html: str, record: VersionRecord) -> None:
    assert record.metrics["accuracy"] == 1 and record.metrics["images"] == 60
    assert "<h1>100.0% of 60 held-out images are right</h1>" in html
    assert (
        '<p class="verdict">It passed the gate, better than the champion before, and became the champion.</p>' in html
    )


def test_every_check_of_the_blessing_is_a_row_with_its_figures(html: str) -> None:
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1].split("</tr>")[:-1]
    rows = [[visible_text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in body]
    for (name, verdict, value, threshold, sentence), check in zip(rows, blessing().checks, strict=True):
        assert (name, sentence) == (check.name, check.sentence)
        assert verdict == ("✓ passed" if check.passed else "✕ failed")
        for shown, figure in ((value, check.value), (threshold, check.threshold)):
            assert shown == "–" if figure is None else float(shown.replace(",", "")) == pytest.approx(figure, rel=0.05)


def test_the_comparison_shows_scores_counts_interval_and_changed_classes(html: str) -> None:
    text, current = visible_text(html), blessing()
    difference, counts = current.detail("difference"), current.detail("mcnemar")
    assert (difference["this"], difference["champion"]) == (1, pytest.approx(2 / 3))
    assert counts == {"this": 20, "champion": 0}
    assert "100.0% version 1 66.7% version 3, the champion" in text
    assert f"{difference['low']:+.1%} to {difference['high']:+.1%} difference, 95 % interval" in text
    assert "20 : 0 right only by this : only by the champion (McNemar, p < 0.001)" in text
    assert "water 0.0% 100.0% +100.0%" in text and "forest 100.0%" not in text


def test_the_chart_of_slices_shows_those_of_the_blessing(html: str) -> None:
    shown = re.findall(r">([\d.]+% of \d+)<", html)
    expected = [
        f"{figures['accuracy']:.1%} of {figures['images']}"
        for check in blessing().checks
        if check.name.startswith("slice_")
        for figures in check.detail.values()
    ]
    assert sorted(shown) == sorted(expected) and len(expected) >= 8


def test_the_data_are_counted_by_class_and_subset(html: str, record: VersionRecord) -> None:
    counts = pd.crosstab(record.splits["label"], record.splits["subset"])[["train", "validation", "test"]]
    for label, row in counts.iterrows():
        assert " ".join([label, *map(str, row), str(row.sum())]) in visible_text(html)


def test_the_lineage_names_data_code_run_and_environment(html: str, record: VersionRecord) -> None:
    tags = record.facts
    for fact in (tags["data.md5"], tags["git.commit"], tags["model.sha256"], tags["params.sha256"]):
        assert fact in html
    assert record.version.run_id in html and f"keras {record.versions['keras']}" in html
    assert "train.learning_rate" in html


def test_folders_of_the_machine_are_not_shown(html: str, record: VersionRecord) -> None:
    weights = record.run.data.params["extract.weights"]
    assert weights.startswith("/") and weights not in html and Path(weights).name in html
    assert str(Path.cwd()) not in html


def test_least_certain_images_are_shown_with_their_predictions(html: str, record: VersionRecord) -> None:
    first = record.predictions.sort_values("confidence", kind="stable").iloc[0]
    section = html[html.index("The least certain images") :]
    assert re.search(r'alt="([^"]+)"', section)[1] == first["path"]
    assert f"{first['predicted']} {first['confidence']:.0%} right" in visible_text(section)
    assert section.count("<figure") == 6 and "6 of 60 images" in visible_text(section)


def test_html_in_a_class_name_is_escaped(record: VersionRecord) -> None:
    evil = "<script>alert(1)</script>"
    label = {"water": evil}
    page = render_with(
        record,
        predictions=record.predictions.replace(label),
        per_class=record.per_class.replace(label),
        splits=record.splits.replace(label),
        card=record.card | {"labels": ["field", "forest", evil]},
    )
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_a_class_name_is_not_parsed_as_a_formula(record: VersionRecord) -> None:
    page = render_with(record, predictions=record.predictions.replace({"water": r"$\frac{$"}))
    assert page.count(r"$\frac{$</text>") == 2


def test_the_header_says_that_sample_images_are_drawn(record: VersionRecord, html: str) -> None:
    MlflowClient().set_tag(record.version.run_id, "landuse.data.kind", "sample")
    with tracking.store():
        page = render_with(read_version_record(record.version))
    MlflowClient().set_tag(record.version.run_id, "landuse.data.kind", "real")
    assert "drawn by a program. This is no real data" in re.search(r"<header.*?</header>", page, re.DOTALL)[0]
    assert "drawn" not in visible_text(html)


def test_the_page_tells_what_changed_since_the_champions_data(html: str, record: VersionRecord) -> None:
    assert "Since the champion's data no images changed" in visible_text(html)
    change = compare_listings({"field/a.png": "A"}, {"field/b.png": "B", "water/a.png": "A"})
    page = visible_text(render(record, blessing(), load_params().evaluate, change))
    assert "Since the champion's data +1 image (field +1), 1 relabelled Validation" in page
    assert "Since the champion's data" not in visible_text(render_with(record))


def test_the_page_tells_what_became_of_images_held_out_for_the_champion(html: str, record: VersionRecord) -> None:
    kept = r"Images held out for the champion none of the \d+ that are still here changed its subset"
    assert re.search(kept, visible_text(html))
    assert "Images held out for the champion" not in visible_text(render_with(record))


# Where it is stored


def test_the_run_keeps_the_page_and_the_chart_of_slices_and_the_version_links_there(
    html: str, record: VersionRecord
) -> None:
    client, run = MlflowClient(), record.run.info
    logged = {item.path for folder in (None, "pictures") for item in client.list_artifacts(run.run_id, folder)}
    assert {"report.html", "pictures/slices.png"} <= logged
    version = registry.get_version(NAME, "1")
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    links = f"[Version](#/models/{NAME}/versions/1) · [Run]({page}) · "
    links += f"[Validation]({page}/artifacts/validation/validation.html) · [Report]({page}/artifacts/report.html)"
    day, _, text = version.description.partition(": ")
    assert day == facts_of(version.tags)["gate.moment"][:10]
    assert text == (
        "It passed the gate, better than the champion before, and became the champion. 100.0% of 60 held-out images "
        f"are right; data {tiny.DATA_MD5[:6]} from tiny.zip, code in no commit. {links}"
    )
    assert client.get_run(run.run_id).data.tags["mlflow.note.content"] == version.description


def test_the_champions_page_is_rebuilt_unchanged(html: str, record: VersionRecord) -> None:
    MlflowClient().log_text(record.version.run_id, "of a trial before", "report.html")
    paths.REPORT.unlink()
    promote_version("1")
    assert paths.REPORT.read_text("utf-8") == html


def test_with_other_data_the_champions_page_is_restored_from_its_run(html: str) -> None:
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace(tiny.DATA_MD5, "f" * 32 + ".dir"))
    paths.REPORT.write_text("of another version")
    promote_version("1")
    paths.DATA_DVC.write_text(record)
    assert paths.REPORT.read_text("utf-8") == html


# Unusual versions


@pytest.fixture
def other(registry_copy: Path, smoke_in_process: None) -> Path:
    """A separate copy of the project and its store that a test may change."""
    return registry_copy


def test_a_refused_version_has_a_page_that_says_why(other: Path) -> None:
    with pytest.raises(Refused):
        promote_version("2")
    first = blessing().failures()[0]
    assert f"The gate refused it: {first.sentence} ({first.threshold_key})." in visible_text(
        paths.REPORT.read_text("utf-8")
    )
    assert "There was no champion to compare with." in visible_text(paths.REPORT.read_text("utf-8"))


def test_the_description_tells_what_changed_since_the_champions_data(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_champion(3)
    change = compare_listings({}, {"field/b.png": "B"})
    monkeypatch.setattr(sys.modules["landuse.promote.publish"], "compare_versions", lambda *_: change)
    promote_version("1")
    described = registry.get_version(NAME, "1").description
    assert f"data {tiny.DATA_MD5[:6]} from tiny.zip (+1 image (field +1) since the champion's), code" in described


def test_an_old_version_with_little_on_record_is_promoted_and_gaps_are_named(other: Path) -> None:
    run = MlflowClient().get_run(registry.get_version(NAME, "1").run_id)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    backup = copytree(folder, other / "kept")
    try:
        for name in ("metrics.json", "history.csv", "per_class.csv", "versions.json"):
            (folder / name).unlink()
        (folder / "predictions.csv").write_text("path,label\nfield/00.png,field\n")
        shutil.rmtree(folder / "validation")
        assert promote_version("1").promoted
    finally:
        shutil.rmtree(folder)
        backup.rename(folder)
    text = visible_text(paths.REPORT.read_text("utf-8"))
    for missing in (
        "Confusion matrix: how many images of each class were taken for which: not recorded",
        "Recall of every class, the lowest on top: not recorded",
        "Loss and accuracy by epoch, on training and validation images: not recorded",
        "Depthwise filters of every block: the weakest, the median, and which are dead: not recorded",
        "Predictions: not recorded",
        "Validation not recorded",
        "Exact duplicates not recorded",
        "Environment not recorded",
        "Network not recorded",
    ):
        assert missing in text


def test_a_description_written_by_a_person_is_kept(other: Path) -> None:
    MlflowClient().update_model_version(NAME, "1", "Ask Ann before you use it")
    promote_version("1")
    assert registry.get_version(NAME, "1").description == "Ask Ann before you use it"


@pytest.mark.slow
def test_an_edited_description_is_kept_and_an_unedited_one_follows_the_verdict(other: Path) -> None:
    promote_version("1")
    generated = registry.get_version(NAME, "1").description
    MlflowClient().update_model_version(NAME, "1", generated.replace("[Report]", "and more [Report]"))
    promote_version("1")
    assert registry.get_version(NAME, "1").description == generated
    MlflowClient().update_model_version(NAME, "1", f"{generated}\nOn the drones since Monday")
    promote_version("1")
    assert registry.get_version(NAME, "1").description == f"{generated}\nOn the drones since Monday"


def test_the_page_says_why_the_champion_could_not_be_compared_with(record: VersionRecord) -> None:
    sentence = "the champion cannot be compared with: gallery version 2 is damaged"
    obstacle = Check("champion", None, None, False, sentence)
    page = visible_text(render(record, replace(blessing(), champion="2", checks=(obstacle,)), load_params().evaluate))
    assert f"Nothing was compared: {sentence}." in page and "Compared with version" not in page


def test_a_version_whose_run_is_gone_is_named(other: Path) -> None:
    version = registry.get_version(NAME, "1")
    version._run_id = "0" * 32
    with pytest.raises(LanduseError, match="gallery version 1: its run 0+ is gone"):
        read_version_record(version)


def test_a_missing_image_leaves_a_placeholder(record: VersionRecord) -> None:
    moved = record.predictions.assign(path="gone/" + record.predictions["path"])
    page = render_with(record, predictions=moved)
    assert page.count("not available") == 6 and "<img" not in page
