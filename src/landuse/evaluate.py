"""Evaluate: the exported model on the image files of the held-out subset."""

import json
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse import report, tracking
from landuse.classifier import Classifier
from landuse.files import made
from landuse.params import EvaluateParams
from landuse.paths import DATA, METRICS, MODEL, PER_CLASS, PICTURES, PREDICTIONS, SPLITS
from landuse.progress import track

TOP = 3
MEGABYTE = 1e6


def evaluate(params: EvaluateParams) -> dict[str, Any]:
    """Write `artifacts/metrics.json`, `predictions.csv` (one row per held-out image), `per_class.csv` and pictures.

    Continues the MLflow run of the training; returns the metrics. The time a prediction takes goes to the run only,
    so that the files are the same whenever the model is.
    """
    classifier = Classifier(MODEL)
    held_out = held_out_images(pd.read_csv(made(SPLITS)))
    images = [DATA / path for path in held_out["path"]]
    probabilities = np.stack(list(track(classifier.probabilities_of(images), len(images), "evaluate")))
    actual = np.array([classifier.labels.index(label) for label in held_out["label"]])
    metrics = {"subset": held_out["subset"].iloc[0], "images": len(held_out)}
    metrics |= scores(actual, probabilities, params.calibration_bins)
    metrics |= trust(actual, probabilities, classifier.unsure_below)
    metrics |= {"dead_kernels": classifier.card["dead_kernels"], "size_mb": classifier.size / MEGABYTE}
    write_tables(metrics, held_out, actual, probabilities, classifier.labels)
    report.draw_pictures(PICTURES, params.mistakes)
    with tracking.continued_run():
        tracking.log_evaluation(metrics)
        tracking.log_latency(latencies(classifier, images, params.latency_runs))
    return metrics


def held_out_images(splits: pd.DataFrame) -> pd.DataFrame:
    """The test subset, or the validation subset where there is no test subset."""
    subset = "test" if (splits["subset"] == "test").any() else "validation"
    return splits[splits["subset"] == subset]


def scores(actual: NDArray[np.intp], probabilities: NDArray[np.float32], bins: int) -> dict[str, float]:
    """Accuracy, macro F1, top-3 accuracy and expected calibration error of [images, classes] probabilities."""
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(axis=1)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return {
        "accuracy": float((predicted == actual).mean()),
        "macro_f1": float(f1_score(actual, predicted, average="macro")),
        "top_3_accuracy": float((best == actual[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(predicted == actual, probabilities.max(axis=1), bins),
    }


def trust(actual: NDArray[np.intp], probabilities: NDArray[np.float32], unsure_below: float) -> dict[str, float | None]:
    """The share of the images that are not marked unsure, and how many of these are right, if there are any."""
    sure = probabilities.max(axis=1) >= unsure_below
    right = probabilities.argmax(axis=1) == actual
    return {"coverage": float(sure.mean()), "sure_accuracy": float(right[sure].mean()) if sure.any() else None}


def calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.float32], bins: int) -> float:
    """Expected calibration error over bins of equal width: mean |accuracy - confidence|, weighted by images."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=correct - confidence.astype(float), minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))


def write_tables(
    metrics: dict[str, Any], held_out: pd.DataFrame, actual: NDArray, probabilities: NDArray, labels: list[str]
) -> None:
    """Write the metrics, one row per image, and one row per class."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = probabilities.argmax(axis=1)
    rows = {"path": held_out["path"], "actual": held_out["label"], "predicted": np.array(labels)[predicted]}
    confidence = {"confidence": probabilities.max(axis=1).round(6)}
    columns = {f"p_{label}": probabilities[:, index].round(6) for index, label in enumerate(labels)}
    pd.DataFrame(rows | confidence | columns).to_csv(PREDICTIONS, index=False)
    figures = precision_recall_fscore_support(actual, predicted, labels=range(len(labels)), zero_division=0)
    names = ("precision", "recall", "f1", "support")
    pd.DataFrame({"class": labels} | dict(zip(names, figures, strict=True))).to_csv(PER_CLASS, index=False)
    METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def latencies(classifier: Classifier, images: list, runs: int) -> NDArray[np.float64]:
    """Milliseconds from an image file to its probabilities, one image at a time on one core."""
    classifier.probabilities(images[0])
    times = []
    for index in range(runs):
        start = perf_counter()
        classifier.probabilities(images[index % len(images)])
        times.append((perf_counter() - start) * 1000)
    return np.array(times)
