"""Metrics: the held-out images, and classification, selective and calibration metrics."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TOP = 3


def held_out_images(splits: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test subset, or of the validation subset if there is no test subset."""
    subset = "test" if (splits["subset"] == "test").any() else "validation"
    return splits[splits["subset"] == subset]


def classification_metrics(actual: NDArray[np.intp], probabilities: NDArray[np.float32], bins: int) -> dict[str, float]:
    """Compute accuracy, macro F1, top-3 accuracy and expected calibration error of probabilities [images, classes].

    Macro F1 averages over the classes that have images.
    """
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(axis=1)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return {
        "accuracy": float((predicted == actual).mean()),
        "macro_f1": float(f1_score(actual, predicted, labels=np.unique(actual), average="macro")),
        "top_3_accuracy": float((top == actual[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(predicted == actual, probabilities.max(axis=1), bins),
    }


def selective_metrics(
    actual: NDArray[np.intp], probabilities: NDArray[np.float32], unsure_below: float
) -> dict[str, float]:
    """Compute the coverage, the share of images not marked unsure, and the accuracy on these, if there are any."""
    sure = probabilities.max(axis=1) >= unsure_below
    correct = probabilities.argmax(axis=1) == actual
    coverage = {"coverage": float(sure.mean())}
    return coverage | {"sure_accuracy": float(correct[sure].mean())} if sure.any() else coverage


def confidence_bins(correct: NDArray[np.bool_], confidence: NDArray[np.floating], bins: int) -> pd.DataFrame:
    """Bin images by confidence: one row per non-empty bin of equal width, with images, confidence, accuracy."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = pd.DataFrame({"confidence": confidence.astype(float), "correct": correct}).groupby(index)
    means = rows.mean()
    return pd.DataFrame({"images": rows.size(), "confidence": means["confidence"], "accuracy": means["correct"]})


def calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.floating], bins: int) -> float:
    """Compute the expected calibration error over equal-width bins: mean |accuracy - confidence| weighted by images."""
    table = confidence_bins(correct, confidence, bins)
    return float(((table["accuracy"] - table["confidence"]).abs() * table["images"]).sum() / len(correct))
