"""Which images are held out, and what probabilities are worth."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from landuse.ml.metrics import calibration_error, held_out_images, scores


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(6) / 2, 200).astype(np.float32)
    actual = random.integers(0, 6, 200)
    found = scores(actual, probabilities, bins=15)
    predicted = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx((predicted == actual).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))
    assert found["top_3_accuracy"] == pytest.approx(top_k_accuracy_score(actual, probabilities, k=3, labels=range(6)))


def test_scores_are_those_worked_out_by_hand() -> None:
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    found = scores(np.array([0, 0, 3, 1]), probabilities.astype(np.float32), bins=10)
    assert found["accuracy"] == 0.5 and found["top_3_accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((0.8 + 0 + 0) / 3)


@pytest.mark.parametrize("mistaken_for", [1, 2])
def test_a_class_without_images_does_not_count_in_macro_f1_whatever_is_taken_for_it(mistaken_for: int) -> None:
    probabilities = np.eye(3, dtype=np.float32)[[0, mistaken_for, 1]]
    expected = {1: (2 / 3 + 2 / 3) / 2, 2: (2 / 3 + 1) / 2}[mistaken_for]
    assert scores(np.array([0, 0, 1]), probabilities, bins=10)["macro_f1"] == pytest.approx(expected)


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
def test_the_calibration_error_is_how_far_confidence_is_from_accuracy(
    correct: list[bool], confidence: list[float], expected: float
) -> None:
    assert calibration_error(np.array(correct), np.array(confidence), bins=10) == pytest.approx(expected, abs=1e-9)


def test_the_calibration_error_is_that_of_a_loop_over_the_bins() -> None:
    random = np.random.default_rng(3)
    confidence, correct, total = random.uniform(0.2, 1, 500), random.random(500) < 0.7, 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(correct, confidence, bins=15) == pytest.approx(total)


def test_the_test_subset_is_held_out_or_validation_where_there_is_none() -> None:
    splits = pd.DataFrame({"path": [*"abcd"], "subset": ["train", "validation", "test", "test"]})
    assert held_out_images(splits)["path"].tolist() == ["c", "d"]
    assert held_out_images(splits[splits["subset"] != "test"])["path"].tolist() == ["b"]
