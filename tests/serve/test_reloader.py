"""The champion changes: the server follows without a restart, and keeps what works where the new one does not."""

import json
from collections.abc import Iterator
from pathlib import Path

import gallery
import pytest
from mlflow import MlflowClient
from running import ask, in_this_process, score, sent

from landuse import registry, tracking
from landuse.core import paths
from landuse.core.errors import LanduseError
from landuse.ml.classifier import MODEL_FILE
from landuse.registry import resolve
from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.predictor import Answers
from landuse.serve.reloader import Follower

ALIAS = f"models:/{gallery.NAME}@champion"
IMAGE = paths.DATA / "forest" / "05.png"


def crown(number: int) -> None:
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, str(number))


@pytest.fixture
def follower(registry_copy: Path) -> Iterator[Follower]:
    """A follower of the first version, not started: it looks when it is told to."""
    crown(1)
    yield Follower(ALIAS, False, 0.05, Answers(load(ALIAS), Metrics(), None, None))


def following(follower: Follower) -> float:
    return follower.answers.metrics.registry.get_sample_value("landuse_following")


def test_the_next_request_after_a_promotion_is_answered_by_the_new_version(follower: Follower) -> None:
    image = sent(IMAGE)
    with in_this_process(follower.answers) as place:
        first = score(place, image)
        crown(2)
        assert score(place, image).version == first.version == f"models:/{gallery.NAME}/1"
        follower.look()
        second = score(place, image)
    assert second.version == f"models:/{gallery.NAME}/2" and following(follower) == 1
    said = [reply.content["predictions"][0]["label"] for reply in (first, second)]
    assert said == ["forest", "field"]  # version 2 takes the one for the other


def test_a_model_of_before_there_were_examples_is_answered_without_them(follower: Follower) -> None:
    with in_this_process(follower.answers) as place:
        answer = ask(place, "/look", IMAGE.read_bytes()).content
    assert answer["prediction"]["label"] == "forest" and answer["nearest"] == []


def test_a_damaged_version_is_not_let_in_which_is_said_once_and_shown(
    follower: Follower, capfd: pytest.CaptureFixture
) -> None:
    with tracking.store():
        source = Path(MlflowClient().get_model_version_download_uri(gallery.NAME, "2").removeprefix("file://"))
    file = source / registry.MODEL_FOLDER / MODEL_FILE
    content = file.read_bytes()
    crown(2)
    try:
        file.write_bytes(content[:-100])
        for _ in range(3):
            follower.look()
    finally:
        file.write_bytes(content)
    assert follower.answers.model.version == f"models:/{gallery.NAME}/1" and following(follower) == 0
    said = capfd.readouterr().err
    assert said.count("/1 goes on answering: gallery version 2 is damaged") == 1
    follower.look()
    assert follower.answers.model.version == f"models:/{gallery.NAME}/2" and following(follower) == 1
    assert "/2 answers now" in capfd.readouterr().err


def test_a_registry_that_is_down_or_empty_changes_nothing(
    follower: Follower, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "resolve", lambda _: (_ for _ in ()).throw(LanduseError("the registry is down")))
        for _ in range(3):
            follower.look()
    assert capfd.readouterr().err.count("goes on answering: the registry is down") == 1 and following(follower) == 0
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, None)
    follower.look()
    assert f"no version of {gallery.NAME} is champion" in capfd.readouterr().err
    crown(1)
    follower.look()
    assert following(follower) == 1 and follower.answers.model.version == f"models:/{gallery.NAME}/1"


@pytest.mark.parametrize(
    ("name", "follows"), [(ALIAS, True), ("models:/landuse/3", False), ("artifacts/model", False), ("models:/x", False)]
)
def test_only_an_alias_is_followed(name: str, follows: bool) -> None:
    assert resolve.follows(name) == follows


def test_a_model_that_does_not_run_is_refused(trained_copy: Path) -> None:
    file = paths.MODEL / MODEL_FILE
    file.write_bytes(file.read_bytes()[:200_000])
    with pytest.raises(LanduseError, match="artifacts/model/model.tflite is damaged"):
        load(str(paths.MODEL))


def test_a_model_with_another_number_of_classes_than_it_says_is_refused(trained_copy: Path) -> None:
    card = json.loads((paths.MODEL / "model.json").read_text())
    (paths.MODEL / "model.json").write_text(json.dumps(card | {"labels": card["labels"][:2]}))
    with pytest.raises(LanduseError, match="does not answer with one probability for each of its classes"):
        load(str(paths.MODEL))


def test_int8_answers_with_the_int8_file_and_where_there_is_none_it_says_so(trained_copy: Path) -> None:
    plain, small = load(str(paths.MODEL)), load(str(paths.MODEL), int8=True)
    probabilities = [model.classifier.probabilities(IMAGE) for model in (plain, small)]
    assert 0 < abs(probabilities[0] - probabilities[1]).max() < 0.2
    assert " in int8" not in plain.version and small.version.endswith(" in int8")
    (paths.MODEL / "model.int8.tflite").unlink()
    with pytest.raises(LanduseError, match="model.int8.tflite is not here"):
        load(str(paths.MODEL), int8=True)
