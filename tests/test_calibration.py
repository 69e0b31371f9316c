"""The confidence comes to mean what it says, on validation images; and where it is too low, the model says so."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landuse.core.paths import DATA, MODEL, SPLITS
from landuse.ml.classifier import Classifier
from landuse.ml.metrics import calibration_error, trust
from landuse.train.calibration import NEVER, best_temperature, tempered, trusted_confidence


def drawn(images: int, classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that mean what they say, and one-hot labels drawn from them."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.3), images).clip(1e-9)
    labels = np.array([random.choice(classes, p=row / row.sum()) for row in probabilities])
    return probabilities, np.eye(classes)[labels]


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_how_far_a_network_is_from_meaning_what_it_says(wrong: float) -> None:
    honest, actual = drawn(4000, 6)
    logits = (wrong * np.log(honest)).astype(np.float32)
    temperature = best_temperature(logits, actual)
    assert temperature == pytest.approx(wrong, rel=0.1)
    right = logits.argmax(axis=1) == actual.argmax(axis=1)
    assert calibration_error(right, tempered(logits, temperature).max(axis=1), 15) < 0.03


def test_a_network_that_errs_nowhere_does_not_become_sure_beyond_what_its_images_show() -> None:
    actual = np.eye(3)[np.arange(9) % 3]
    logits = (50 * actual).astype(np.float32)
    confidence = tempered(logits, best_temperature(logits, actual)).max(axis=1)
    assert confidence == pytest.approx((9 + 1 / 3) / 10, abs=0.01)


@pytest.mark.parametrize(
    ("confidence", "right", "share", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 1.0, 0.6),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 1.0, 0.8),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 0.75, 0.6),
        ([0.6, 0.9, 0.7, 0.8], [1, 1, 0, 1], 1.0, 0.8),
        ([0.9, 0.9, 0.7, 0.6], [1, 0, 0, 0], 0.6, NEVER),
        ([0.9, 0.8], [0, 1], 0.99, NEVER),
    ],
)
def test_the_trusted_confidence_is_the_lowest_from_which_enough_images_are_right(
    confidence: list[float], right: list[int], share: float, expected: float
) -> None:
    assert trusted_confidence(np.array(confidence), np.array(right, bool), share) == expected


def test_the_trusted_confidence_is_that_of_trying_every_one() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        confidence, right = random.integers(5, 10, 30) / 10, random.random(30) < 0.9
        good = [value for value in confidence if right[confidence >= value].mean() >= 0.95]
        assert trusted_confidence(confidence, right, 0.95) == min(good, default=NEVER)


def test_where_none_is_trusted_not_even_one_of_which_the_network_is_certain_is() -> None:
    certain = np.array([[0, 1]], np.float32)
    assert trust(np.array([0]), certain, NEVER) == {"coverage": 0.0}
    assert float(certain.max()) < NEVER == float(np.float32(NEVER))


def test_coverage_is_the_share_of_sure_images_and_their_accuracy_that_among_them() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], np.float32)
    actual = np.array([0, 1, 0, 1])
    assert trust(actual, probabilities, 0.65) == {"coverage": 0.75, "sure_accuracy": pytest.approx(2 / 3)}
    assert trust(actual, probabilities, 1.0) == {"coverage": 0.0}


def test_the_temperature_and_trusted_confidence_of_the_card_are_those_of_the_validation_images(trained: Path) -> None:
    classifier, splits = Classifier(MODEL), pd.read_csv(SPLITS)
    rows = splits[splits["subset"] == "validation"]
    told = np.stack(list(classifier.probabilities_of(DATA / path for path in rows["path"])))
    actual = np.eye(3)[[classifier.labels.index(label) for label in rows["label"]]]
    assert best_temperature(np.log(told), actual) == pytest.approx(1, abs=0.01), (
        "what is exported is calibrated already"
    )
    right = told.argmax(axis=1) == actual.argmax(axis=1)
    assert classifier.unsure_below == pytest.approx(trusted_confidence(told.max(axis=1), right, 0.99), abs=1e-3)
    assert json.loads((MODEL / "model.json").read_text("utf-8"))["temperature"] != 1
