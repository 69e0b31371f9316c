"""Scores: which images are held out, and what the probabilities a model gives them are worth."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TOP = 3


def held_out_images(splits: pd.DataFrame) -> pd.DataFrame:
    """The test subset, or the validation subset where there is no test subset."""
    subset = "test" if (splits["subset"] == "test").any() else "validation"
    return splits[splits["subset"] == subset]


def scores(actual: NDArray[np.intp], probabilities: NDArray[np.float32], bins: int) -> dict[str, float]:
    """Accuracy, macro F1, top-3 accuracy and expected calibration error of [images, classes] probabilities.

    F1 is the mean over the classes that there are images of.
    """
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(axis=1)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return {
        "accuracy": float((predicted == actual).mean()),
        "macro_f1": float(f1_score(actual, predicted, labels=np.unique(actual), average="macro")),
        "top_3_accuracy": float((best == actual[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(predicted == actual, probabilities.max(axis=1), bins),
    }


def trust(actual: NDArray[np.intp], probabilities: NDArray[np.float32], unsure_below: float) -> dict[str, float]:
    """The share of the images that are not marked unsure and, where there are any, how many of these are right."""
    sure = probabilities.max(axis=1) >= unsure_below
    right = probabilities.argmax(axis=1) == actual
    coverage = {"coverage": float(sure.mean())}
    return coverage | {"sure_accuracy": float(right[sure].mean())} if sure.any() else coverage


def confidence_bins(correct: NDArray[np.bool_], confidence: NDArray, bins: int) -> pd.DataFrame:
    """Images by confidence, in bins of equal width: one row per bin that has any, with images, confidence, accuracy."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = pd.DataFrame({"confidence": confidence.astype(float), "correct": correct}).groupby(index)
    means = rows.mean()
    return pd.DataFrame({"images": rows.size(), "confidence": means["confidence"], "accuracy": means["correct"]})


def calibration_error(correct: NDArray[np.bool_], confidence: NDArray, bins: int) -> float:
    """Expected calibration error over bins of equal width: mean |accuracy - confidence|, weighted by images."""
    found = confidence_bins(correct, confidence, bins)
    return float(((found["accuracy"] - found["confidence"]).abs() * found["images"]).sum() / len(correct))
