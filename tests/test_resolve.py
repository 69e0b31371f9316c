"""Tests of resolving model names: aliases and versions of the registry, and folders."""

import gc
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from landuse.core.errors import LanduseError
from landuse.core.paths import MODEL
from landuse.ml.classifier import Classifier
from landuse.registry import resolve


@pytest.mark.parametrize("model", ["models:/served@champion", "models:/served/1"])
def test_an_alias_and_a_version_resolve_to_the_registered_files(served: Path, model: str) -> None:
    name, classifier = resolve.load(model)
    assert name == "models:/served/1" and classifier.digest == Classifier(MODEL).digest


def test_a_folder_is_named_by_the_digest_of_its_model(served: Path) -> None:
    name, classifier = resolve.load("artifacts/model")
    assert name == f"sha256:{classifier.digest[:16]}"


def test_the_name_says_if_the_model_runs_in_int8(served: Path) -> None:
    name, classifier = resolve.load("models:/served@champion", int8=True)
    assert name == "models:/served/1 in int8"
    assert classifier.digest == Classifier(MODEL, int8=True).digest != Classifier(MODEL).digest


def test_an_older_model_without_an_int8_threshold_runs_in_float32_only(trained_copy: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    del card["int8_unsure_below"]
    (MODEL / "model.json").write_text(json.dumps(card), "utf-8")
    resolve.load("artifacts/model")
    with pytest.raises(LanduseError, match="artifacts/model has no int8_unsure_below in its model.json: train and"):
        resolve.load("artifacts/model", int8=True)


def test_a_moved_alias_takes_effect_at_once(served: Path) -> None:
    client = MlflowClient()
    source = client.get_model_version("served", "1").source
    second = client.create_model_version("served", source, tags=client.get_model_version("served", "1").tags)
    try:
        client.set_registered_model_alias("served", "champion", second.version)
        assert resolve.load("models:/served@champion")[0] == f"models:/served/{second.version}"
    finally:
        client.set_registered_model_alias("served", "champion", "1")
        client.delete_model_version("served", second.version)


def test_files_from_the_registry_are_removed_after_use(served: Path) -> None:
    with resolve.model_folder("models:/served@champion") as (_, folder):
        assert {path.name for path in folder.iterdir()} >= {"model.tflite", "model.int8.tflite", "model.keras"}
    assert not folder.exists()


@pytest.mark.parametrize("card", ["{}", '{"labels": 1, "image_size": 32}'])
def test_the_error_for_another_folder_does_not_suggest_dvc_repro(card: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(card)
    with pytest.raises(LanduseError, match=f"^{tmp_path}/model") as caught:
        resolve.load(str(tmp_path))
    assert "dvc repro" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.tflite", "model.int8.tflite", "model.keras", "model.json"])
def test_a_registered_file_that_was_changed_is_refused(served: Path, name: str) -> None:
    source = MlflowClient().get_model_version("served", "1").source.rpartition("/")[2]
    location = MlflowClient().get_logged_model(source).artifact_location.removeprefix("file://")
    file = Path(location, "artifacts", "model", name)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(LanduseError, match="served version 1 is damaged or lost: "):
            resolve.load("models:/served@champion")
    finally:
        file.write_bytes(content)
    resolve.load("models:/served@champion")


def test_garbage_collection_is_enabled_again_after_importing_mlflow(served: Path) -> None:
    resolve.load("models:/served@champion")
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "models:/served@chmpion",
            "no version of served is chmpion: version 1 is the challenger: landuse promote judges it, --model",
        ),
        ("models:/served/99", "served has no version 99 in the registry"),
        ("models:/nobody@champion", "the registry has no model nobody: dvc repro registers one"),
        ("models:/served", "name a model as models:/NAME@ALIAS, models:/NAME/VERSION or a folder"),
        ("models:served@champion", "name a model as models:/NAME@ALIAS"),
        ("no/such/folder", "no/such/folder is no folder with model.json; name a model as models:/NAME@ALIAS, "),
    ],
)
def test_an_unknown_model_is_reported_with_a_remedy(served: Path, model: str, message: str) -> None:
    with pytest.raises(LanduseError, match=message) as caught:
        resolve.load(model)
    assert "\n" not in str(caught.value)


def test_a_missing_registry_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(LanduseError, match="there is no registry at sqlite:///mlflow.db yet: dvc repro makes it"):
        resolve.load("models:/served@champion")
    assert list(tmp_path.iterdir()) == []
