"""Smoke test of a registered model: what it answers in the registry is what its own model file answers."""

from pathlib import Path

import gallery
import pytest
from mlflow.entities.model_registry import ModelVersion

from landuse import registry, tracking
from landuse.core.errors import LanduseError
from landuse.ml.classifier import TOLERANCE, Classifier
from landuse.registry import load_and_predict, smoke_test
from landuse.registry.smoke_test import check_answers

FOLDER = Path("fetched")


@pytest.fixture
def version(registry_copy: Path, smoke_in_process: None) -> ModelVersion:
    """A good version, with its files in FOLDER."""
    with tracking.store():
        version = registry.get_version(gallery.NAME, "1")
        registry.fetch_model(version, FOLDER)
    return version


def test_a_version_that_answers_as_its_own_model_file_passes(version: ModelVersion) -> None:
    assert check_answers(version, FOLDER, Classifier(FOLDER / registry.MODEL_FOLDER)) < TOLERANCE


def test_a_version_that_answers_otherwise_than_its_model_file_is_refused(version: ModelVersion) -> None:
    other = gallery.export(gallery.network(gallery.confused(gallery.colour_head())), Path("other"))
    with pytest.raises(LanduseError, match="gallery version 1 answers otherwise than its own model file, by 1 in a"):
        check_answers(version, FOLDER, other)


@pytest.mark.parametrize("probability", [float("nan"), None], ids=["no number", "no answer"])
def test_a_version_that_gives_no_answer_is_refused(
    version: ModelVersion, monkeypatch: pytest.MonkeyPatch, probability: float | None
) -> None:
    def predict(folder: str) -> dict:
        output = load_and_predict.predict_example(folder)
        if probability is None:
            return {"example": [], "answers": []}
        return output | {"answers": [dict.fromkeys(answer, probability) for answer in output["answers"]]}

    monkeypatch.setattr(smoke_test, "predict_in_subprocess", predict)
    with pytest.raises(LanduseError, match="answers otherwise than its own model file, by nan in a probability"):
        check_answers(version, FOLDER, Classifier(FOLDER / registry.MODEL_FOLDER))
