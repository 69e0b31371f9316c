"""Reloading: the server follows the champion without a restart, or keeps the old one if the new one fails."""

import json
from collections.abc import Iterator
from pathlib import Path

import gallery
import numpy as np
import pytest
from mlflow import MlflowClient
from running import as_base64, fetch, score, serve_in_thread

from landuse import registry, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError
from landuse.ml.classifier import MODEL_FILE
from landuse.registry import resolve
from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.predictor import Predictor
from landuse.serve.reloader import Reloader

ALIAS = f"models:/{gallery.NAME}@champion"
IMAGE = paths.DATA / "forest" / "05.png"


def set_champion(number: int) -> None:
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, str(number))


@pytest.fixture
def reloader(registry_copy: Path) -> Iterator[Reloader]:
    """A reloader that serves version 1; not started, so that tests poll explicitly."""
    set_champion(1)
    yield Reloader(ALIAS, False, 0.05, Predictor(load(ALIAS), Metrics(), None, None))


def following_gauge(reloader: Reloader) -> float:
    return reloader.predictor.metrics.registry.get_sample_value("landuse_following")


def test_the_first_request_after_a_reload_gets_the_new_version(reloader: Reloader) -> None:
    image = as_base64(IMAGE)
    with serve_in_thread(reloader.predictor) as url:
        first = score(url, image)
        set_champion(2)
        assert score(url, image).version == first.version == f"models:/{gallery.NAME}/1"
        reloader.reload()
        second = score(url, image)
    assert second.version == f"models:/{gallery.NAME}/2" and following_gauge(reloader) == 1
    labels = [reply.content["predictions"][0]["label"] for reply in (first, second)]
    assert labels == ["forest", "field"]  # version 2 confuses the two


def test_a_model_without_training_examples_is_served_without_them(reloader: Reloader) -> None:
    with serve_in_thread(reloader.predictor) as url:
        answer = fetch(url, "/predict", IMAGE.read_bytes()).content
    assert answer["prediction"]["label"] == "forest" and answer["nearest"] == []


def test_a_damaged_version_is_not_loaded_and_is_reported_once(reloader: Reloader, capfd: pytest.CaptureFixture) -> None:
    with tracking.store():
        source = Path(MlflowClient().get_model_version_download_uri(gallery.NAME, "2").removeprefix("file://"))
    file = source / registry.MODEL_FOLDER / MODEL_FILE
    content = file.read_bytes()
    set_champion(2)
    try:
        file.write_bytes(content[:-100])
        for _ in range(3):
            reloader.reload()
    finally:
        file.write_bytes(content)
    assert reloader.predictor.model.version == f"models:/{gallery.NAME}/1" and following_gauge(reloader) == 0
    logged = capfd.readouterr().err
    assert logged.count("/1 goes on answering: gallery version 2 is damaged") == 1
    reloader.reload()
    assert reloader.predictor.model.version == f"models:/{gallery.NAME}/2" and following_gauge(reloader) == 1
    assert "/2 answers now" in capfd.readouterr().err


def test_a_registry_that_is_down_or_empty_changes_nothing(
    reloader: Reloader, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "resolve", lambda _: (_ for _ in ()).throw(LanduseError("the registry is down")))
        for _ in range(3):
            reloader.reload()
    assert capfd.readouterr().err.count("goes on answering: the registry is down") == 1
    assert following_gauge(reloader) == 0
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, None)
    reloader.reload()
    assert f"no version of {gallery.NAME} is champion" in capfd.readouterr().err
    set_champion(1)
    reloader.reload()
    assert following_gauge(reloader) == 1 and reloader.predictor.model.version == f"models:/{gallery.NAME}/1"


def test_a_registry_that_fails_is_asked_less_often(reloader: Reloader, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    failures = iter([None, "the registry is down", "the registry is down", None])
    monkeypatch.setattr(reloader, "reload", lambda: setattr(reloader, "failure", next(failures)))
    monkeypatch.setattr(reloader.closed, "wait", lambda seconds: pauses.append(seconds) or len(pauses) == 5)
    reloader.run()
    assert pauses == pytest.approx([0.05, 0.05, 0.3, 0.3, 0.05])


@pytest.mark.parametrize(
    ("name", "follows"), [(ALIAS, True), ("models:/landuse/3", False), ("artifacts/model", False), ("models:/x", False)]
)
def test_only_an_alias_is_reloaded(name: str, follows: bool) -> None:
    assert resolve.is_alias(name) == follows


def test_a_model_that_does_not_run_is_refused(trained_copy: Path) -> None:
    file = paths.MODEL / MODEL_FILE
    file.write_bytes(file.read_bytes()[:200_000])
    with pytest.raises(LanduseError, match="artifacts/model/model.tflite is damaged"):
        load(str(paths.MODEL))


def test_a_model_whose_outputs_do_not_match_its_classes_is_refused(trained_copy: Path) -> None:
    card = json.loads((paths.MODEL / "model.json").read_text())
    (paths.MODEL / "model.json").write_text(json.dumps(card | {"labels": card["labels"][:2]}))
    with pytest.raises(LanduseError, match="does not answer with one probability for each of its classes"):
        load(str(paths.MODEL))


def test_a_model_whose_outputs_are_no_numbers_is_refused(registry_copy: Path) -> None:
    weights, bias = gallery.colour_head()
    gallery.export(gallery.network((weights * np.float32("nan"), bias)), Path("broken"))
    with pytest.raises(LanduseError, match="does not answer with one probability for each of its classes"):
        load("broken")


def test_int8_uses_the_int8_file_and_names_it_if_missing(trained_copy: Path) -> None:
    plain, small = load(str(paths.MODEL)), load(str(paths.MODEL), int8=True)
    probabilities = [model.classifier.probabilities(IMAGE) for model in (plain, small)]
    assert 0 < abs(probabilities[0] - probabilities[1]).max() < 0.2
    assert " in int8" not in plain.version and small.version.endswith(" in int8")
    (paths.MODEL / "model.int8.tflite").unlink()
    with pytest.raises(LanduseError, match="model.int8.tflite is not here"):
        load(str(paths.MODEL), int8=True)
