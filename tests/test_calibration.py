"""Calibration: the confidence matches the accuracy on validation images, and answers below the threshold are unsure."""

import json
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landuse.core.paths import DATA, MODEL, SPLITS
from landuse.ml.classifier import Classifier
from landuse.ml.metrics import calibration_error, selective_metrics
from landuse.train.calibration import UNREACHABLE, confidence_threshold, fit_temperature, scaled_softmax


def calibrated_sample(images: int, classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sample probabilities, and one-hot labels distributed as these say."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), images).clip(1e-9)
    labels = np.array([rng.choice(classes, p=row / row.sum()) for row in probabilities])
    return probabilities, np.eye(classes)[labels]


@pytest.mark.parametrize("distortion", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_over_and_underconfidence(distortion: float) -> None:
    probabilities, labels = calibrated_sample(4000, 6)
    logits = (distortion * np.log(probabilities)).astype(np.float32)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(distortion, rel=0.1)
    correct = logits.argmax(axis=1) == labels.argmax(axis=1)
    assert calibration_error(correct, scaled_softmax(logits, temperature).max(axis=1), 15) < 0.03


def test_a_network_without_errors_does_not_become_infinitely_confident() -> None:
    labels = np.eye(3)[np.arange(9) % 3]
    logits = (50 * labels).astype(np.float32)
    confidence = scaled_softmax(logits, fit_temperature(logits, labels)).max(axis=1)
    assert confidence == pytest.approx((9 + 1 / 3) / 10, abs=0.01)


def lower_bound(right: int, images: int) -> float:
    """Find the accuracy at which so many or more would be right with a probability of 5 %, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(comb(images, k) * middle**k * (1 - middle) ** (images - k) for k in range(right, images + 1))
        low, high = (middle, high) if tail < 0.05 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("correct", "target", "sure", "bound"),
    [
        ([1] * 400, 0.99, 400, 0.9925),  # all right, and enough of them
        ([1] * 100, 0.99, 100, 0.9705),  # all right, but a hundred images cannot promise more
        ([1] * 60 + [0] + [1] * 9, 0.99, 60, 0.9513),  # one more would be wrong
        ([1] * 60 + [0] + [1] * 200, 0.99, 261, 0.9819),  # the more images outweigh the wrong one
        ([1, 1, 0, 0], 0.5, 2, 0.2236),
    ],
)
def test_the_threshold_promises_no_more_than_its_images_can_show(
    correct: list[int], target: float, sure: int, bound: float
) -> None:
    confidence = 1 - np.arange(len(correct)) / 1000
    threshold = confidence_threshold(confidence, np.array(correct, bool), target)
    assert (confidence >= threshold.confidence).sum() == sure
    assert threshold.accuracy_at_least == pytest.approx(bound, abs=1e-4)
    assert threshold.accuracy_at_least == pytest.approx(lower_bound(sum(correct[:sure]), sure), abs=1e-9)


@pytest.mark.parametrize(("confidence", "correct"), [([0.9, 0.9, 0.7], [1, 0, 0]), ([0.9, 0.8], [0, 1]), ([0.9], [0])])
def test_a_target_that_no_confidence_reaches_makes_every_answer_unsure(
    confidence: list[float], correct: list[int]
) -> None:
    assert confidence_threshold(np.array(confidence), np.array(correct, bool), 0.99) == (UNREACHABLE, 0.0)


def test_the_threshold_equals_that_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        confidence, correct = rng.integers(5, 10, 30) / 10, rng.random(30) < 0.9
        sets = {value: correct[confidence >= value] for value in confidence}
        bounds = {
            value: lower_bound(int(right.sum()), len(right)) for value, right in sets.items() if right.mean() >= 0.6
        }
        target = min(0.6, max(bounds.values(), default=0))
        expected = min((value for value, bound in bounds.items() if bound >= target - 1e-9), default=UNREACHABLE)
        assert confidence_threshold(confidence, correct, 0.6).confidence == expected


def test_not_even_certainty_reaches_the_unreachable_threshold() -> None:
    certain = np.array([[0, 1]], np.float32)
    assert selective_metrics(np.array([0]), certain, UNREACHABLE) == {"coverage": 0.0}
    assert float(certain.max()) < UNREACHABLE == float(np.float32(UNREACHABLE))


def test_selective_metrics_are_the_share_and_the_accuracy_of_sure_images() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], np.float32)
    actual = np.array([0, 1, 0, 1])
    assert selective_metrics(actual, probabilities, 0.65) == {"coverage": 0.75, "sure_accuracy": pytest.approx(2 / 3)}
    assert selective_metrics(actual, probabilities, 1.0) == {"coverage": 0.0}


def test_the_model_is_exported_calibrated_with_its_validation_threshold(trained: Path) -> None:
    classifier, splits = Classifier(MODEL), pd.read_csv(SPLITS)
    rows = splits[splits["subset"] == "validation"]
    probabilities = np.stack(list(classifier.probabilities_of(DATA / path for path in rows["path"])))
    labels = np.eye(3)[[classifier.labels.index(label) for label in rows["label"]]]
    assert fit_temperature(np.log(probabilities), labels) == pytest.approx(1, abs=0.01)
    correct = probabilities.argmax(axis=1) == labels.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    threshold = confidence_threshold(confidence, correct, 0.99)
    assert classifier.unsure_below == pytest.approx(threshold.confidence, abs=1e-3)
    assert classifier.card["sure_accuracy_at_least"] == pytest.approx(threshold.accuracy_at_least)
    assert json.loads((MODEL / "model.json").read_text("utf-8"))["temperature"] != 1
