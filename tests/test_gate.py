"""Tests of the gate: small real models make every check pass and fail."""

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
from records import set_facts

from landuse import registry, sample, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import read_table
from landuse.gate import check_rollback, judge
from landuse.gate.blessing import Blessing, Check
from landuse.gate.consistency import check_formats
from landuse.gate.scoring import (
    data_unchanged,
    near_duplicates_of,
    score_version,
    seen_in_training,
    verified_held_out,
)
from landuse.ml.network import keras_probabilities
from landuse.ml.perceptual_hash import difference_hashes
from landuse.params import load_params
from landuse.project import lineage
from landuse.registry import audit_log, smoke_test
from landuse.registry.version_record import read_splits
from landuse.train.export import save_keras

GOOD, CONFUSED, BLIND, UNDERCONFIDENT = "1", "2", "3", "4"
SLICES = {"slice_brightness", "slice_contrast", "slice_size", "slice_families"}
SCORES = {"accuracy", "macro_f1", "class_recall", "calibration_error"}
COMPARISON = {"mcnemar", "difference", "class_fall", "better"}


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test its own project and registry."""


def bless(number: object, champion: object = None, **changes: object) -> Blessing:
    """Judge a version, with some params changed."""
    params = load_params()
    with tracking.store():
        version = registry.get_version(gallery.NAME, str(number))
        opponent = None if champion is None else registry.get_version(gallery.NAME, str(champion))
        return judge(version, opponent, replace(params.promote, **changes), params.evaluate, lambda check: None)


def checks_of(number: object, champion: object = None, **changes: object) -> dict[str, Check]:
    """Return the checks of a version by name."""
    return {check.name: check for check in bless(number, champion, **changes).checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.failed}


def files_of(version: ModelVersion) -> Path:
    """Return the folder in which the registry keeps the files of a version."""
    model = MlflowClient().get_logged_model(version.source.rpartition("/")[2])
    return Path(model.artifact_location.removeprefix("file://"))


def test_a_good_first_model_passes_without_a_champion(smoke_in_process: None) -> None:
    blessing = bless(GOOD)
    assert [str(check) for check in blessing.checks if not check.passed] == []
    assert (blessing.verdict, blessing.champion, blessing.compared_on) == ("passed", None, 60)
    assert "there is no champion to compare with" in blessing.checks[-1].sentence
    assert blessing.data == tiny.DATA_MD5


def test_a_better_model_than_the_champion_passes(smoke_in_process: None) -> None:
    checks = checks_of(GOOD, CONFUSED)
    assert failed(checks) == set() and checks.keys() >= COMPARISON | {"images"}
    assert "right only by this version: 40, only by the champion: 0 (p < 0.001)" in checks["mcnemar"].sentence


def test_a_model_that_confuses_two_classes_fails_alone_and_against_the_champion(smoke_in_process: None) -> None:
    blessing = bless(CONFUSED, GOOD)
    checks = {check.name: check for check in blessing.checks}
    assert blessing.verdict == "refused" and failed(checks) == SCORES | SLICES | COMPARISON
    assert checks["accuracy"].value == pytest.approx(1 / 3) and checks["class_recall"].value == 0


def test_the_class_that_a_model_never_predicts_is_named(smoke_in_process: None) -> None:
    checks = checks_of(BLIND, GOOD, min_accuracy=0.6, min_macro_f1=0.5)
    assert {"class_recall", "class_fall"} <= failed(checks) and not {"accuracy", "macro_f1"} & failed(checks)
    assert "water" in checks["class_recall"].sentence and "recall of water falls most" in checks["class_fall"].sentence


def test_an_underconfident_model_fails_for_its_calibration_and_since_it_is_sure_of_nothing(
    smoke_in_process: None,
) -> None:
    checks = checks_of(UNDERCONFIDENT, GOOD)
    assert failed(checks) == {"calibration_error", "coverage_fall", "better"}
    assert "it is sure of 0.0% of the images, the champion of 100.0%" in checks["coverage_fall"].sentence


def test_an_equal_model_of_the_same_data_stays_challenger(smoke_in_process: None) -> None:
    blessing = bless(gallery.register_twin(1).version, GOOD)
    assert [check.name for check in blessing.failures()] == ["better"]
    assert "it must be, as the champion was trained on the same data" in blessing.summarize_failures()
    assert blessing.standing == "not worse than the champion"


def test_a_version_of_other_data_passes_as_not_worse(smoke_in_process: None) -> None:
    with tracking.store():
        set_facts(gallery.NAME, GOOD, data_md5="other data")
    blessing = bless(gallery.register_twin(1).version, GOOD)
    assert (blessing.verdict, blessing.standing) == ("passed", "not worse than the champion")
    assert bless(gallery.register_twin(2).version, GOOD, requires="better").verdict == "refused"
    shrinkage = next(check for check in blessing.checks if check.name == "shrinkage")
    assert shrinkage.passed and "as many images as the 120 images of the champion's data" in shrinkage.sentence


@pytest.mark.slow
def test_judging_is_deterministic(smoke_in_process: None) -> None:
    first, second = checks_of(BLIND, GOOD), checks_of(BLIND, GOOD)
    for checks in (first, second):
        del checks["latency_ms"]
    assert first == second


def test_exceeded_budgets_fail(smoke_in_process: None) -> None:
    checks = checks_of(GOOD, max_latency_ms=1e-9, max_size_mb=1e-9, min_images=61)
    assert failed(checks) == {"latency_ms", "size_mb", "images"}


def test_images_that_the_champion_was_trained_on_are_left_out_and_counted(smoke_in_process: None) -> None:
    gallery.write_splits(first_held_out=10)
    blessing = bless(GOOD, gallery.register_twin(1).version)
    check = blessing.failures()[0]
    assert (check.name, check.value, check.threshold, blessing.compared_on) == ("images", 30, 50, 30)
    assert "30 left out because the champion was trained on them" in check.sentence


@pytest.mark.slow
def test_a_champion_trained_on_every_held_out_image_cannot_be_compared_with(smoke_in_process: None) -> None:
    gallery.write_splits(first_held_out=20)
    champion = gallery.register_twin(1)
    checks = checks_of(GOOD, champion.version)
    assert failed(checks) == {"champion"}
    assert "was trained on every one of the 60 held-out images" in checks["champion"].sentence


def test_an_image_seen_under_another_name_is_recognized_by_its_content() -> None:
    held_out = pd.DataFrame({"path": ["a/1", "a/2", "a/3"], "sha256": ["one", "two", "three"]})
    held_out = held_out.assign(phash=None, phash_turned=None)
    splits = pd.DataFrame(
        {"path": ["b/9", "a/2", "a/8"], "subset": ["train", "validation", "test"], "sha256": ["one", "else", "three"]}
    )
    splits["phash"] = None
    assert list(seen_in_training(held_out, splits)) == [True, False, False]
    assert list(seen_in_training(held_out, splits.assign(sha256=None))) == [False, True, False]


def test_a_rotated_and_re_encoded_image_is_recognized_by_its_perceptual_hash() -> None:
    image, other = (sample.draw(label, 3) for label in sample.CLASSES[:2])
    image.rotate(90).save(encoded := BytesIO(), "JPEG", quality=85)
    png, jpeg, another = (difference_hashes(each.convert("L")) for each in (image, Image.open(encoded), other))
    held_out = pd.DataFrame([jpeg, another]).assign(path=["a/1.jpg", "a/2.jpg"], sha256=["one", "two"])
    splits = pd.DataFrame([png, another]).assign(path=["b/1.png", "a/3.png"], sha256=["else", "three"])
    splits["subset"] = ["train", "test"]
    assert list(seen_in_training(held_out, splits)) == [True, False]


def test_older_runs_without_hashes_of_rotated_images_use_the_plain_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, version = (
        sys.modules["landuse.registry.version_record"],
        MlflowClient().get_model_version(gallery.NAME, "1"),
    )
    now = read_splits(version)
    monkeypatch.setattr(
        module, "read_table", lambda path: read_table(path).drop(columns="phash_turned", errors="ignore")
    )
    then = read_splits(version)
    assert now["phash"].equals(then["phash"]) and then["phash_turned"].equals(then["phash"])
    assert (now["phash"] != now["phash_turned"]).any() and seen_in_training(then, then.assign(subset="train")).all()


def test_a_seen_image_excludes_its_whole_group_of_near_duplicates() -> None:
    held_out = pd.DataFrame({"group": [7, 8, 7, 9, 7, 8]})
    known = np.array([True, False, False, False, False, False])
    assert list(near_duplicates_of(held_out, known)) == [False, False, True, False, True, False]
    assert not near_duplicates_of(held_out, np.zeros(6, bool)).any()


@pytest.mark.slow
def test_near_duplicates_of_the_champions_training_images_are_left_out_and_counted(smoke_in_process: None) -> None:
    gallery.write_splits(first_held_out=10)
    champion = gallery.register_twin(1)
    gallery.write_splits(first_held_out=0, groups=np.arange(3 * gallery.IMAGES) // 4)
    check = checks_of(gallery.register_twin(2).version, champion.version)["images"]
    assert check.value == 24, "of each class images 0 to 19 are held out, 10 and up were the champion's test images"
    assert "24 of 60 held-out images count" in check.sentence
    assert "30 left out because the champion was trained on them" in check.sentence
    assert "6 because it was trained on near-duplicates of them" in check.sentence


@pytest.mark.slow
def test_a_damaged_champion_cannot_be_compared_with(smoke_in_process: None) -> None:
    champion = gallery.register_twin(1)
    path = files_of(champion) / "artifacts" / "model" / "model.tflite"
    path.write_bytes(path.read_bytes() + b"\0")
    checks = checks_of(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "is damaged" in checks["champion"].sentence


def test_a_champion_whose_run_is_gone_cannot_be_compared_with(smoke_in_process: None) -> None:
    good = registry.get_version(gallery.NAME, GOOD)
    tags = good.tags | {"git.dirty": "false"}
    champion = MlflowClient().create_model_version(gallery.NAME, good.source, "0" * 32, tags, model_id=good.model_id)
    checks = checks_of(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "has no splits.csv" in checks["champion"].sentence


def test_an_unavailable_store_is_not_a_verdict_on_the_champion(smoke_in_process: None, monkeypatch) -> None:
    fetch, champion_location = registry.copy_files, registry.location_of(registry.get_version(gallery.NAME, CONFUSED))

    def down_for_the_champion(location: str, folder: Path) -> None:
        if location == champion_location:
            raise MlflowException("API request failed: Max retries exceeded")
        fetch(location, folder)

    monkeypatch.setattr(registry, "copy_files", down_for_the_champion)
    with pytest.raises(Unavailable, match="gallery version 2 cannot be fetched, its files are there: API request"):
        bless(GOOD, CONFUSED)


def test_a_champion_with_other_classes_cannot_be_compared_with(smoke_in_process: None) -> None:
    card = gallery.GOOD / "model.json"
    card.write_text(card.read_text().replace("water", "sea"))
    champion = gallery.register_twin(1)
    checks = checks_of(GOOD, champion.version)
    assert failed(checks) == {"champion"} and "sea, water" in checks["champion"].sentence


def test_a_version_without_a_class_that_it_was_trained_on_cannot_be_judged() -> None:
    card = gallery.GOOD / "model.json"
    card.write_text(card.read_text().replace("water", "sea"))
    with pytest.raises(LanduseError, match="is damaged: it does not know the class water it was trained on"):
        bless(gallery.register_twin(1).version)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "damage"), [("model.tflite", truncate), ("model.tflite", Path.unlink), ("model.json", truncate)]
)
def test_a_version_whose_files_are_damaged_cannot_be_judged(name: str, damage: Callable[[Path], None]) -> None:
    version = gallery.register_twin(1)
    damage(files_of(version) / "artifacts" / "model" / name)
    with pytest.raises(LanduseError, match=f"gallery version {version.version} .*damaged") as refusal:
        bless(version.version)
    assert "\n" not in str(refusal.value)


def test_a_version_with_probabilities_that_are_nan_cannot_be_judged() -> None:
    weights, bias = gallery.colour_head()
    gallery.export(gallery.network((weights * np.float32("nan"), bias)), paths.MODEL)
    with pytest.raises(LanduseError, match="answers with values that are no numbers"):
        bless(gallery.register_model().version)


def test_a_version_is_judged_only_on_its_own_data_set() -> None:
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace("0123", "4567"))
    with pytest.raises(
        LanduseError, match="gallery version 1 was trained on data 0123.*: git fetch .*, or ingest tiny.zip again"
    ):
        bless(GOOD)


def test_the_remedy_names_the_commit_that_has_the_data() -> None:
    author = ("-c", "user.name=A", "-c", "user.email=a@b")
    for command in (["init", "--quiet"], ["add", "data.dvc"], [*author, "commit", "--quiet", "-m", "Data"]):
        subprocess.run(["git", *command], check=True)
    record = paths.DATA_DVC.read_text()
    paths.DATA_DVC.write_text(record.replace("0123", "4567"))
    subprocess.run(["git", *author, "commit", "--quiet", "-a", "-m", "Other data"], check=True)
    first = lineage.git("rev-parse", "--short", "HEAD~")
    with pytest.raises(LanduseError, match=f"git checkout {first} data.dvc && dvc pull data.dvc"):
        bless(GOOD)


def test_replacing_the_data_while_judging_is_detected(smoke_in_process: None) -> None:
    def ingest(_: Check) -> None:
        if not Path("before").exists():
            paths.DATA.rename("before")
            copytree("before", paths.DATA)

    params = load_params()
    with tracking.store(), pytest.raises(Unavailable, match="data/ was replaced while its images were scored"):
        judge(registry.get_version(gallery.NAME, GOOD), None, params.promote, params.evaluate, ingest)


def test_data_replaced_while_judging_is_blamed_for_any_error_that_follows() -> None:
    with pytest.raises(Unavailable, match="data/ was replaced while its images were scored"), data_unchanged():
        paths.DATA.rename("before")
        raise LanduseError("data/water/03.png cannot be read")


def test_an_image_edited_since_training_is_named() -> None:
    path = paths.DATA / "water" / "03.png"
    tiny.scene("forest", 3).save(path)
    with pytest.raises(LanduseError, match="data/water/03.png was edited since gallery version 1 was trained"):
        bless(GOOD)
    path.unlink()
    with pytest.raises(LanduseError, match="data/water/03.png.*cannot be read: dvc pull data.dvc"):
        bless(GOOD)


def test_images_of_older_runs_without_digests_are_taken_as_they_are() -> None:
    version = registry.get_version(gallery.NAME, GOOD)
    splits = read_splits(version)
    assert len(verified_held_out(version, splits.assign(sha256=None))) == 60
    some = verified_held_out(version, splits.assign(sha256=splits["sha256"].where(splits["label"] == "water")))
    assert some["sha256"].notna().all()


def test_only_the_version_that_was_rolled_back_is_promoted_by_force_alone() -> None:
    with tracking.store():
        for number, move in enumerate([("promote", "1", "2"), ("rollback", "2", "1")]):
            action, before, after = move
            entry = audit_log.open_entry(gallery.NAME, action, "a test")
            audit_log.add_tags(entry, {"number": str(number), "from": before, "to": after})
            audit_log.close_entry(entry, audit_log.DONE)
        rolled_back = {
            number: [check.name for check in check_rollback(registry.get_version(gallery.NAME, number))]
            for number in ("1", "2", "3")
        }
    assert rolled_back == {"1": [], "2": ["rolled_back"], "3": []}


def test_a_version_whose_run_lost_its_splits_is_named_with_the_remedy() -> None:
    with tracking.store():
        version = registry.get_version(gallery.NAME, GOOD)
        run = MlflowClient().create_run("0")
        version._run_id = run.info.run_id
        params = load_params()
        with pytest.raises(LanduseError, match="has no splits.csv.*dvc repro --single-item --force register"):
            judge(version, None, params.promote, params.evaluate, lambda check: None)


def register_with_keras_file(write: Callable[[Path], None]) -> ModelVersion:
    """Register the good model with a Keras file that `write` changes."""
    write(gallery.GOOD / "model.keras")
    return gallery.register_twin(1)


def test_a_keras_file_with_other_predictions_fails(smoke_in_process: None) -> None:
    head = gallery.confused(gallery.colour_head())
    checks = checks_of(register_with_keras_file(lambda path: save_keras(gallery.network(head), path)).version)
    assert failed(checks) == {"formats"} and checks["formats"].value > 0.9


def test_a_keras_file_that_differs_on_the_images_of_one_class_only_fails() -> None:
    classifier, scored = score_version(registry.get_version(gallery.NAME, GOOD), Path("fetched"))
    folder = Path("fetched") / registry.MODEL_FOLDER
    save_keras(gallery.network(gallery.blind(gallery.colour_head())), folder / "model.keras")
    check = check_formats(folder, classifier, scored)
    assert not check.passed and check.value > 0.9
    assert check_formats(folder, classifier, scored.select(scored.table["label"] != "water")).passed


@pytest.mark.slow
def test_a_damaged_keras_file_fails(smoke_in_process: None) -> None:
    checks = checks_of(register_with_keras_file(truncate).version)
    assert failed(checks) == {"formats"} and "model.keras cannot be loaded" in checks["formats"].sentence


def test_code_embedded_in_a_keras_file_is_not_executed(smoke_in_process: None, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def hostile(path: Path) -> None:
        pixels, name = keras.Input((gallery.SIDE, gallery.SIDE, 3), dtype="uint8"), str(trace)
        leave_a_trace = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(name).touch(), x)[1])
        keras.Model(pixels, leave_a_trace(pixels)).save(path)
        assert trace.exists()
        trace.unlink()

    checks = checks_of(register_with_keras_file(hostile).version)
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
def test_objects_that_a_keras_file_names_instead_of_layers_are_not_created(layer: str) -> None:
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
        keras_probabilities(folder, np.zeros((1, gallery.SIDE, gallery.SIDE, 3), np.uint8))
    assert not Path("trace").exists()


@pytest.mark.slow
def test_missing_write_permission_is_not_a_verdict_on_the_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "ask.py"
    script.write_text("raise PermissionError(13, 'Permission denied', 'mlruns/1/models')")
    monkeypatch.setattr(smoke_test, "SCRIPT", script)
    with pytest.raises(Unavailable, match=r"fresh process: PermissionError: \[Errno 13\] Permission denied"):
        smoke_test.predict_in_subprocess("models:/gallery/1")


def test_a_version_without_a_stored_example_fails_in_the_fresh_process() -> None:
    version = gallery.register_twin(1)
    (files_of(version) / "input_example.json").unlink()
    set_facts(gallery.NAME, version.version, model_files_sha256="")
    checks = checks_of(version.version)
    assert failed(checks) == {"fresh_process"}
    title = f"gallery version {version.version}"
    assert f"{title} does not load and answer in a fresh process: " in checks["fresh_process"].sentence


def test_a_blessing_survives_writing_and_reading() -> None:
    checks = (Check("accuracy", 0.5, 0.9, False, "half"), Check("champion", None, None, True, "none"))
    blessing = Blessing("m", "2", None, "refused", True, True, "so", "2026-01-01", "0.dir", 60, checks)
    blessing.write()
    content = json.loads(paths.BLESSING.read_text())
    assert Blessing.from_dict(content) == blessing
    assert list(content) == [
        "model", "version", "champion", "verdict", "promoted", "forced", "reason", "moment", "data", "compared_on",
        "checks",
    ]  # fmt: skip
    assert list(content["checks"][0]) == ["name", "value", "threshold", "passed", "sentence", "detail", "judged"]


def test_a_blessing_without_details_is_read() -> None:
    check = {"name": "accuracy", "value": 0.9, "threshold": 0.8, "passed": True, "sentence": "good"}
    old = dict.fromkeys(["model", "version", "moment", "data"], "1") | {"champion": None, "verdict": "passed"}
    old |= {"promoted": True, "forced": False, "reason": None, "compared_on": 60, "checks": [check]}
    assert Blessing.from_dict(old).detail("accuracy") == Blessing.from_dict(old).detail("mcnemar") == {}
