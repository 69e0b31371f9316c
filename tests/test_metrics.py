"""Metrics: the held-out images, and classification and calibration metrics against references."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from landuse.ml.metrics import calibration_error, classification_metrics, held_out_images


def test_classification_metrics_match_scikit_learn() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(6) / 2, 200).astype(np.float32)
    actual = random.integers(0, 6, 200)
    metrics = classification_metrics(actual, probabilities, bins=15)
    predicted = probabilities.argmax(axis=1)
    assert metrics["accuracy"] == pytest.approx((predicted == actual).mean())
    assert metrics["macro_f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))
    assert metrics["top_3_accuracy"] == pytest.approx(top_k_accuracy_score(actual, probabilities, k=3, labels=range(6)))


def test_classification_metrics_match_values_computed_by_hand() -> None:
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    metrics = classification_metrics(np.array([0, 0, 3, 1]), probabilities.astype(np.float32), bins=10)
    assert metrics["accuracy"] == 0.5 and metrics["top_3_accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0 + 0) / 3)


@pytest.mark.parametrize("mistaken_for", [1, 2])
def test_macro_f1_ignores_a_class_without_images_even_if_predicted(mistaken_for: int) -> None:
    probabilities = np.eye(3, dtype=np.float32)[[0, mistaken_for, 1]]
    expected = {1: (2 / 3 + 2 / 3) / 2, 2: (2 / 3 + 1) / 2}[mistaken_for]
    assert classification_metrics(np.array([0, 0, 1]), probabilities, bins=10)["macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("correct", "confidence", "expected"),
    [
        ([True] * 4, [1.0] * 4, 0),
        ([False] * 4, [1.0] * 4, 1),
        ([True, False, True, True], [0.75] * 4, 0),
        ([True, True, False, False], [0.95, 0.95, 0.55, 0.55], (0.05 + 0.55) / 2),
        ([True, False], [0.51, 0.59], 0.05),
    ],
)
def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy(
    correct: list[bool], confidence: list[float], expected: float
) -> None:
    assert calibration_error(np.array(correct), np.array(confidence), bins=10) == pytest.approx(expected, abs=1e-9)


def test_the_calibration_error_matches_a_loop_over_the_bins() -> None:
    random = np.random.default_rng(3)
    confidence, correct, total = random.uniform(0.2, 1, 500), random.random(500) < 0.7, 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(correct, confidence, bins=15) == pytest.approx(total)


def test_the_test_subset_is_held_out_or_else_the_validation_subset() -> None:
    splits = pd.DataFrame({"path": [*"abcd"], "subset": ["train", "validation", "test", "test"]})
    assert held_out_images(splits)["path"].tolist() == ["c", "d"]
    assert held_out_images(splits[splits["subset"] != "test"])["path"].tolist() == ["b"]
