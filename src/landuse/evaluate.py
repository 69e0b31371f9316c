"""Evaluate the exported model on the image files of the held-out subset."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse import report, tracking
from landuse.core.errors import LanduseError
from landuse.core.files import read_record, read_table
from landuse.core.paths import DATA, METRICS, MODEL, PER_CLASS, PICTURES, PREDICTIONS, RUN, SPLITS
from landuse.core.progress import track
from landuse.ml.activity import dead_channels, silent_channels
from landuse.ml.classifier import INT8_FILE, MODEL_FILE, Classifier, measure_latencies, unsure_key
from landuse.ml.images import evenly_spaced
from landuse.ml.metrics import classification_metrics, held_out_images, selective_metrics
from landuse.params import EvaluateParams
from landuse.project import lineage

WATCHED_IMAGES = 100  # images on which a silent channel is silent; some seconds


def evaluate(params: EvaluateParams) -> dict[str, Any]:
    """Write `artifacts/metrics.json`, `predictions.csv` (one row per held-out image), `per_class.csv` and pictures.

    Continues the MLflow run of the training; returns the metrics. Latencies are logged to the run only, so that the
    same model gives the same files. Raises LanduseError if data/ is another version than the model was trained on.
    """
    refuse_other_data()
    classifier = Classifier(MODEL)
    held_out = held_out_images(read_table(SPLITS))
    images = [DATA / path for path in held_out["path"]]
    probabilities = np.stack(list(track(classifier.probabilities_of(images), len(images), "evaluate")))
    actual = np.array([classifier.labels.index(label) for label in held_out["label"]])
    metrics: dict[str, Any] = {"subset": held_out["subset"].iloc[0], "images": len(held_out)}
    metrics |= classification_metrics(actual, probabilities, params.calibration_bins)
    metrics |= selective_metrics(actual, probabilities, classifier.card[unsure_key(int8=False)])
    metrics |= {"dead_kernels": classifier.card["dead_kernels"], "size_mb": classifier.megabytes}
    metrics |= depthwise_activity(classifier, images[evenly_spaced(len(images), WATCHED_IMAGES)])
    write_tables(metrics, held_out, actual, probabilities, classifier.labels)
    report.save_pictures(PICTURES, params, classifier.card.get("depthwise_filters"), metrics)
    with tracking.continued_run():
        tracking.log_evaluation(metrics)
        tracking.log_latency(measure_latencies(classifier, images, params.latency_runs))
    return metrics


def depthwise_activity(classifier: Classifier, images: list[Path]) -> dict[str, Any]:
    """Count the depthwise filters that are dead, and those silent on these images, in float32 and in int8.

    By block, and as shares of all.

    Empty for a model whose card does not list its depthwise filters.
    """
    filters = classifier.card.get("depthwise_filters")
    if not filters:
        return {}
    silent, silent_int8 = (
        silent_channels(MODEL / file, images, classifier.image_size) for file in (MODEL_FILE, INT8_FILE)
    )
    masks = {"dead_int8": dead_channels(MODEL / INT8_FILE), "silent": silent, "silent_int8": silent_int8}
    blocks: list[dict[str, Any]] = [  # a list, which DVC leaves out of its tables of metrics
        {"block": block, "filters": counts["filters"], "dead": counts["dead"]} for block, counts in filters.items()
    ]
    for name, layers in masks.items():
        for counts, mask in zip(blocks, layers, strict=True):
            counts[name] = int(mask.sum())
    return {
        "dead_kernels_int8": float(np.concatenate(masks["dead_int8"]).mean()),
        "silent_kernels": float(np.concatenate(silent).mean()),
        "silent_kernels_int8": float(np.concatenate(silent_int8).mean()),
        "silent_images": len(images),
        "depthwise": blocks,
    }


def refuse_other_data() -> None:
    """Raise LanduseError if data/ was replaced since the training: a path may belong to another image now."""
    trained, current = read_record(RUN)["tags"]["data.md5"], lineage.data_record()["md5"]
    if trained != current:
        raise LanduseError(f"the model was trained on version {trained} of data/, which is {current} now: dvc repro")


def write_tables(
    metrics: dict[str, Any],
    held_out: pd.DataFrame,
    actual: NDArray[np.intp],
    probabilities: NDArray[np.float32],
    labels: list[str],
) -> None:
    """Write the metrics, one row per image, and one row per class."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = probabilities.argmax(axis=1)
    rows = {"path": held_out["path"], "actual": held_out["label"], "predicted": np.array(labels)[predicted]}
    confidence = {"confidence": probabilities.max(axis=1).round(6)}
    columns = {f"p_{label}": probabilities[:, index].round(6) for index, label in enumerate(labels)}
    pd.DataFrame(rows | confidence | columns).to_csv(PREDICTIONS, index=False)
    scores = precision_recall_fscore_support(actual, predicted, labels=range(len(labels)), zero_division=0)
    names = ("precision", "recall", "f1", "support")
    pd.DataFrame({"class": labels} | dict(zip(names, scores, strict=True))).to_csv(PER_CLASS, index=False)
    METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
