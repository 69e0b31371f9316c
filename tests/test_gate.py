"""The gate: every check is driven to pass and to fail by small real models."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from shutil import copytree

import gallery
import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from landuse import registry, sample, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import read_table
from landuse.gate import judge
from landuse.gate.blessing import Blessing, Check
from landuse.gate.scoring import lookalikes, seen
from landuse.ml.network import saved_probabilities
from landuse.ml.perceptual_hash import difference_hashes
from landuse.params import load_params
from landuse.project import lineage
from landuse.registry import smoke_test
from landuse.registry.version_record import splits_of
from landuse.train.export import save_keras

GOOD, CONFUSED, BLIND, TIMID = "1", "2", "3", "4"
SLICES = {"slice_brightness", "slice_contrast", "slice_size", "slice_families"}
SCORES = {"accuracy", "macro_f1", "class_recall", "calibration_error"}
DUEL = {"mcnemar", "difference", "class_fall"}


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Every test has a project and a registry of its own."""


def blessed(number: object, champion: object = None, **changes: object) -> Blessing:
    """What the gate says of a version, with some params changed."""
    params = load_params()
    with tracking.store():
        version = registry.get_version(gallery.NAME, str(number))
        rival = None if champion is None else registry.get_version(gallery.NAME, str(champion))
        return judge(version, rival, replace(params.promote, **changes), params.evaluate, lambda check: None)


def judged(number: object, champion: object = None, **changes: object) -> dict[str, Check]:
    """The checks of a version by name."""
    return {check.name: check for check in blessed(number, champion, **changes).checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def files_of(version: ModelVersion) -> Path:
    """Where the registry keeps the files of a version."""
    model = MlflowClient().get_logged_model(version.source.rpartition("/")[2])
    return Path(model.artifact_location.removeprefix("file://"))


def test_a_good_first_model_passes_and_the_blessing_says_that_there_was_no_champion(at_hand: None) -> None:
    blessing = blessed(GOOD)
    assert [str(check) for check in blessing.checks if not check.passed] == []
    assert (blessing.verdict, blessing.champion, blessing.compared_on) == ("passed", None, 60)
    assert "there is no champion to compare with" in blessing.checks[-1].sentence
    assert blessing.data == tiny.DATA_MD5


def test_a_better_model_than_the_champion_passes(at_hand: None) -> None:
    checks = judged(GOOD, CONFUSED)
    assert failed(checks) == set() and checks.keys() >= DUEL | {"images"}
    assert "right only by this version: 40, only by the champion: 0 (p < 0.001)" in checks["mcnemar"].sentence


def test_a_model_that_confuses_two_classes_fails_alone_and_beside_the_champion(at_hand: None) -> None:
    checks = judged(CONFUSED, GOOD)
    assert failed(checks) == SCORES | SLICES | DUEL
    assert checks["accuracy"].value == pytest.approx(1 / 3) and checks["class_recall"].value == 0


def test_a_model_that_is_blind_to_a_class_is_told_which(at_hand: None) -> None:
    checks = judged(BLIND, GOOD, accuracy=0.6, macro_f1=0.5)
    assert {"class_recall", "class_fall"} <= failed(checks) and not {"accuracy", "macro_f1"} & failed(checks)
    assert "water" in checks["class_recall"].sentence and "recall of water falls most" in checks["class_fall"].sentence


def test_a_model_that_is_never_sure_fails_by_its_calibration_alone(at_hand: None) -> None:
    assert failed(judged(TIMID, GOOD)) == {"calibration_error"}


@pytest.mark.slow
def test_judging_again_finds_the_same(at_hand: None) -> None:
    first, second = judged(BLIND, GOOD), judged(BLIND, GOOD)
    for checks in (first, second):
        del checks["latency_ms"]
    assert first == second


def test_budgets_that_are_not_kept_fail(at_hand: None) -> None:
    checks = judged(GOOD, latency_ms=1e-9, size_mb=1e-9, images=61)
    assert failed(checks) == {"latency_ms", "size_mb", "images"}


def test_images_that_the_champion_was_trained_on_are_left_out_and_counted(at_hand: None) -> None:
    gallery.write_splits(first_held_out=10)
    blessing = blessed(GOOD, gallery.hang_twin(1).version)
    check = blessing.failures()[0]
    assert (check.name, check.value, check.threshold, blessing.compared_on) == ("images", 30, 50, 30)
    assert "30 left out because the champion was trained on them" in check.sentence


@pytest.mark.slow
def test_a_champion_that_was_trained_on_every_held_out_image_is_nothing_to_compare_with(at_hand: None) -> None:
    gallery.write_splits(first_held_out=20)
    champion = gallery.hang_twin(1)
    checks = judged(GOOD, champion.version)
    assert failed(checks) == {"champion"}
    assert "was trained on every one of the 60 held-out images" in checks["champion"].sentence


def test_an_image_that_was_seen_under_another_name_is_known_by_its_content() -> None:
    held_out = pd.DataFrame({"path": ["a/1", "a/2", "a/3"], "sha256": ["one", "two", "three"]})
    held_out = held_out.assign(phash=None, phash_turned=None)
    splits = pd.DataFrame(
        {"path": ["b/9", "a/2", "a/8"], "subset": ["train", "validation", "test"], "sha256": ["one", "else", "three"]}
    )
    splits["phash"] = None
    assert list(seen(held_out, splits)) == [True, False, False]
    assert list(seen(held_out, splits.assign(sha256=None))) == [False, True, False]


def test_an_image_that_was_seen_turned_and_in_another_encoding_is_known_by_how_it_looks() -> None:
    image, other = (sample.draw(label, 3) for label in sample.CLASSES[:2])
    image.rotate(90).save(anew := BytesIO(), "JPEG", quality=85)
    png, jpeg, another = (difference_hashes(each.convert("L")) for each in (image, Image.open(anew), other))
    held_out = pd.DataFrame([jpeg, another]).assign(path=["a/1.jpg", "a/2.jpg"], sha256=["one", "two"])
    splits = pd.DataFrame([png, another]).assign(path=["b/1.png", "a/3.png"], sha256=["else", "three"])
    splits["subset"] = ["train", "test"]
    assert list(seen(held_out, splits)) == [True, False]


def test_of_a_run_that_knew_no_hashes_of_turned_images_the_plain_ones_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, version = sys.modules["landuse.registry.version_record"], MlflowClient().get_model_version(gallery.NAME, "1")
    now = splits_of(version)
    monkeypatch.setattr(room, "read_table", lambda path: read_table(path).drop(columns="phash_turned", errors="ignore"))
    then = splits_of(version)
    assert now["phash"].equals(then["phash"]) and then["phash_turned"].equals(then["phash"])
    assert (now["phash"] != now["phash_turned"]).any() and seen(then, then.assign(subset="train")).all()


def test_what_looks_like_a_known_image_is_known_by_its_whole_group() -> None:
    held_out = pd.DataFrame({"group": [7, 8, 7, 9, 7, 8]})
    known = np.array([True, False, False, False, False, False])
    assert list(lookalikes(held_out, known)) == [False, False, True, False, True, False]
    assert not lookalikes(held_out, np.zeros(6, bool)).any()


@pytest.mark.slow
def test_near_duplicates_of_what_the_champion_was_trained_on_are_left_out_and_counted(at_hand: None) -> None:
    gallery.write_splits(first_held_out=10)
    champion = gallery.hang_twin(1)
    gallery.write_splits(first_held_out=0, groups=np.arange(3 * gallery.IMAGES) // 4)
    check = judged(gallery.hang_twin(2).version, champion.version)["images"]
    assert check.value == 24, "of each class images 0 to 19 are held out, 10 and up were the champion's test images"
    assert "24 of 60 held-out images count" in check.sentence
    assert "30 left out because the champion was trained on them" in check.sentence
    assert "6 because it was trained on near-duplicates of them" in check.sentence


@pytest.mark.slow
def test_a_damaged_champion_is_nothing_to_compare_with(at_hand: None) -> None:
    champion = gallery.hang_twin(1)
    path = files_of(champion) / "artifacts" / "model" / "model.tflite"
    path.write_bytes(path.read_bytes() + b"\0")
    checks = judged(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "is damaged" in checks["champion"].sentence


def test_a_champion_whose_run_is_gone_is_nothing_to_compare_with_and_can_be_overruled(at_hand: None) -> None:
    good = registry.get_version(gallery.NAME, GOOD)
    tags = good.tags | {"git.dirty": "false"}
    champion = MlflowClient().create_model_version(gallery.NAME, good.source, "0" * 32, tags, model_id=good.model_id)
    checks = judged(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "has no splits.csv" in checks["champion"].sentence


def test_a_store_that_is_out_for_a_while_is_no_verdict_on_the_champion(at_hand: None, monkeypatch) -> None:
    fetch, champions = registry.copy_files, registry.location_of(registry.get_version(gallery.NAME, CONFUSED))

    def down_for_the_champion(location: str, folder: Path) -> None:
        if location == champions:
            raise MlflowException("API request failed: Max retries exceeded")
        fetch(location, folder)

    monkeypatch.setattr(registry, "copy_files", down_for_the_champion)
    with pytest.raises(Unavailable, match="gallery version 2 cannot be fetched, its files are there: API request"):
        blessed(GOOD, CONFUSED)


def test_a_champion_of_other_classes_is_nothing_to_compare_with(at_hand: None) -> None:
    card = gallery.GOOD / "model.json"
    card.write_text(card.read_text().replace("water", "sea"))
    champion = gallery.hang_twin(1)
    checks = judged(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "sea, water" in checks["champion"].sentence


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(("name", "harm"), [("model.tflite", cut), ("model.tflite", Path.unlink), ("model.json", cut)])
def test_a_version_whose_files_are_damaged_cannot_be_judged(name: str, harm: Callable[[Path], None]) -> None:
    version = gallery.hang_twin(1)
    harm(files_of(version) / "artifacts" / "model" / name)
    with pytest.raises(LanduseError, match=f"gallery version {version.version} .*damaged") as refusal:
        blessed(version.version)
    assert "\n" not in str(refusal.value)


def test_a_version_that_answers_with_no_numbers_cannot_be_judged() -> None:
    weights, bias = gallery.colour_head()
    gallery.export(gallery.network((weights * np.float32("nan"), bias)), paths.MODEL)
    with pytest.raises(LanduseError, match="answers with values that are no numbers"):
        blessed(gallery.hang().version)


def test_a_version_of_another_data_set_is_judged_only_beside_its_own_data() -> None:
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace("0123", "4567"))
    with pytest.raises(
        LanduseError, match="gallery version 1 was trained on data 0123.*: git fetch .*, or ingest tiny.zip again"
    ):
        blessed(GOOD)


def test_the_remedy_names_the_commit_that_has_the_data() -> None:
    author = ("-c", "user.name=A", "-c", "user.email=a@b")
    for command in (["init", "--quiet"], ["add", "data.dvc"], [*author, "commit", "--quiet", "-m", "Data"]):
        subprocess.run(["git", *command], check=True)
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace("0123", "4567"))
    subprocess.run(["git", *author, "commit", "--quiet", "-a", "-m", "Other data"], check=True)
    first = lineage.git("rev-parse", "--short", "HEAD~")
    with pytest.raises(LanduseError, match=f"git checkout {first} data.dvc && dvc pull data.dvc"):
        blessed(GOOD)


def test_images_that_take_the_place_of_others_meanwhile_are_no_evidence(at_hand: None) -> None:
    def ingest(_: Check) -> None:
        if not Path("before").exists():
            paths.DATA.rename("before")
            copytree("before", paths.DATA)

    params = load_params()
    with tracking.store(), pytest.raises(Unavailable, match="data/ was replaced while its images were looked at"):
        judge(registry.get_version(gallery.NAME, GOOD), None, params.promote, params.evaluate, ingest)


def test_an_image_that_was_edited_since_is_named() -> None:
    path = paths.DATA / "water" / "03.png"
    tiny.scene("forest", 3).save(path)
    with pytest.raises(LanduseError, match="data/water/03.png was edited since gallery version 1 was trained"):
        blessed(GOOD)
    path.unlink()
    with pytest.raises(LanduseError, match="data/water/03.png.*cannot be read: dvc pull data.dvc"):
        blessed(GOOD)


def test_a_version_whose_run_lost_its_split_is_named_with_the_remedy() -> None:
    with tracking.store():
        version = registry.get_version(gallery.NAME, GOOD)
        run = MlflowClient().create_run("0")
        version._run_id = run.info.run_id
        params = load_params()
        with pytest.raises(LanduseError, match="has no splits.csv.*dvc repro --single-item --force register"):
            judge(version, None, params.promote, params.evaluate, lambda check: None)


def hang_with_keras_file(write: Callable[[Path], None]) -> ModelVersion:
    """Register the good model beside a Keras file of another kind."""
    write(gallery.GOOD / "model.keras")
    return gallery.hang_twin(1)


def test_a_keras_file_that_says_something_else_fails(at_hand: None) -> None:
    head = gallery.confused(gallery.colour_head())
    checks = judged(hang_with_keras_file(lambda path: save_keras(gallery.network(head), path)).version)
    assert failed(checks) == {"formats"} and checks["formats"].value > 0.9


@pytest.mark.slow
def test_a_damaged_keras_file_fails(at_hand: None) -> None:
    checks = judged(hang_with_keras_file(cut).version)
    assert failed(checks) == {"formats"} and "model.keras cannot be loaded" in checks["formats"].sentence


def test_code_that_hides_in_a_keras_file_is_not_run(at_hand: None, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def hostile(path: Path) -> None:
        pixels, name = keras.Input((gallery.SIDE, gallery.SIDE, 3), dtype="uint8"), str(trace)
        leave_a_trace = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(name).touch(), x)[1])
        keras.Model(pixels, leave_a_trace(pixels)).save(path)
        assert trace.exists()
        trace.unlink()

    checks = judged(hang_with_keras_file(hostile).version)
    assert failed(checks) == {"formats"} and "model.keras cannot be loaded" in checks["formats"].sentence
    assert not trace.exists()


HOSTILE_LAYERS = {
    "a class of Python": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", "trace"]}},
    "a function of Python": {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
    "a class by its registered name": {
        "module": None, "class_name": "Own", "registered_name": "package>Own", "config": {}
    },
    "a function of Keras that downloads": {
        "module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"
    },
}  # fmt: skip


@pytest.mark.parametrize("layer", HOSTILE_LAYERS)
def test_what_a_keras_file_names_instead_of_a_layer_is_not_made(layer: str) -> None:
    folder = Path("hostile")
    gallery.export(gallery.network(gallery.colour_head()), folder)
    with zipfile.ZipFile(folder / "model.keras") as saved:
        members = {name: saved.read(name) for name in saved.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1] |= HOSTILE_LAYERS[layer]
    with zipfile.ZipFile(folder / "model.keras", "w") as hostile:
        for name, content in (members | {"config.json": json.dumps(config).encode()}).items():
            hostile.writestr(name, content)
    with pytest.raises(LanduseError, match=r"model\.keras cannot be loaded"):
        saved_probabilities(folder, np.zeros((1, gallery.SIDE, gallery.SIDE, 3), np.uint8))
    assert not Path("trace").exists()


@pytest.mark.slow
def test_a_version_is_not_refused_because_this_user_may_not_write_where_mlflow_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "ask.py"
    script.write_text("raise PermissionError(13, 'Permission denied', 'mlruns/1/models')")
    monkeypatch.setattr(smoke_test, "SCRIPT", script)
    with pytest.raises(Unavailable, match=r"fresh process: PermissionError: \[Errno 13\] Permission denied"):
        smoke_test.ask("models:/gallery/1")


def test_a_version_without_an_example_in_the_registry_fails_in_the_fresh_process() -> None:
    version = gallery.hang_twin(1)
    (files_of(version) / "input_example.json").unlink()
    MlflowClient().delete_model_version_tag(gallery.NAME, version.version, registry.FILES_TAG)
    checks = judged(version.version)
    assert failed(checks) == {"fresh_process"}
    title = f"gallery version {version.version}"
    assert f"{title} does not load and answer in a fresh process: " in checks["fresh_process"].sentence


def test_a_blessing_is_the_same_after_it_was_written_and_read() -> None:
    checks = (Check("accuracy", 0.5, 0.9, False, "half"), Check("champion", None, None, True, "none"))
    blessing = Blessing("m", "2", None, "refused", True, True, "so", "2026-01-01", "0.dir", 60, checks)
    blessing.write()
    content = json.loads(paths.BLESSING.read_text())
    assert Blessing.of(content) == blessing
    assert list(content) == [
        "model", "version", "champion", "verdict", "promoted", "forced", "reason", "moment", "data", "compared_on",
        "checks",
    ]  # fmt: skip
    assert list(content["checks"][0]) == ["name", "value", "threshold", "passed", "sentence", "detail"]


def test_a_blessing_of_before_there_were_details_is_read() -> None:
    check = {"name": "accuracy", "value": 0.9, "threshold": 0.8, "passed": True, "sentence": "good"}
    old = dict.fromkeys(["model", "version", "moment", "data"], "1") | {"champion": None, "verdict": "passed"}
    old |= {"promoted": True, "forced": False, "reason": None, "compared_on": 60, "checks": [check]}
    assert Blessing.of(old).detail("accuracy") == Blessing.of(old).detail("mcnemar") == {}
