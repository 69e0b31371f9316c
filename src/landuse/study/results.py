"""The results of a network of a study: what its stages wrote, and what is measured of its exported files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run
from numpy.typing import NDArray

from landuse.core.files import read_record, read_table
from landuse.core.paths import METRICS, MODEL, PREDICTIONS, SPLITS
from landuse.core.progress import track
from landuse.gate.comparison import paired_difference
from landuse.gate.scoring import ScoredImages
from landuse.ml.classifier import CARD_FILE, INT8_FILE, Classifier, measure_latencies
from landuse.ml.metrics import held_out_images
from landuse.study.networks import Network
from landuse.tracking.names import epoch_metric

KERNELS = {  # columns of the table, by their names in metrics.json
    "depthwise_kernels": "filters",
    "dead_kernels": "dead",
    "dead_kernels_int8": "dead_int8",
    "silent_kernels": "silent",
    "silent_kernels_int8": "silent_int8",
}
ROUNDS = 5  # the files take turns, so that a busy moment of the machine slows all of them


@dataclass(frozen=True)
class NetworkResult:
    """A trained network: its run, the folder of its model, and its predictions of the held-out images.

    `scored` holds those of the float32 file, `int8_correct` [images] says where the int8 file is right.
    `train_seconds` is None if the store no longer has the run of the training.
    """

    network: Network
    run_id: str
    train_seconds: float | None
    model: Path
    metrics: dict[str, Any]
    scored: ScoredImages
    int8_correct: NDArray[np.bool_]

    @property
    def card(self) -> dict[str, Any]:
        """The model card."""
        return read_record(self.model / CARD_FILE)


def read_result(network: Network, run: Run, copy: Path, folder: Path) -> NetworkResult:
    """Read what the stages wrote in a copy of the project, keep the model in a new folder, and score its int8 file."""
    model, logged = copytree(copy / MODEL, folder), run.data.metrics
    train_seconds = logged.get(epoch_metric("train_seconds"), logged.get("train_seconds"))  # the latter in earlier runs
    scored = read_scored(copy)
    classifier = Classifier(model, int8=True)
    images = [copy / path for path in scored.images]
    probabilities = track(classifier.probabilities_of(images), len(images), "int8")
    predicted = np.array([each.argmax() for each in probabilities])
    metrics = read_record(copy / METRICS)
    return NetworkResult(network, run.info.run_id, train_seconds, model, metrics, scored, predicted == scored.actual)


def read_scored(copy: Path) -> ScoredImages:
    """Read the predictions of the held-out images, with the groups of near-duplicates."""
    predictions, table = read_table(copy / PREDICTIONS), held_out_images(read_table(copy / SPLITS))
    columns = [column for column in map(str, predictions) if column.startswith("p_")]
    labels = [column.removeprefix("p_") for column in columns]
    actual = np.array([labels.index(label) for label in predictions["actual"]])
    return ScoredImages(table.reset_index(drop=True), labels, actual, predictions[columns].to_numpy(np.float32))


def table(results: list[NetworkResult], latencies: list[tuple[float, float]]) -> pd.DataFrame:
    """Return one row per network. Differences are to the first one, on the same images, near-duplicates together."""
    rows = [row(result, results[0], *pair) for result, pair in zip(results, latencies, strict=True)]
    return pd.DataFrame(rows)


def row(result: NetworkResult, first: NetworkResult, latency: float, int8_latency: float) -> dict[str, Any]:
    """Return the row of a network."""
    metrics, card = result.metrics, result.card
    paired = paired_difference(result.scored, first.scored)
    int8_accuracy = float(result.int8_correct.mean())
    return {
        "network": result.network.name,
        **result.network.settings | {"weights": Path(result.network.settings["weights"]).name},
        "run": result.run_id,
        "images": metrics["images"],
        "accuracy": metrics["accuracy"],
        "difference": metrics["accuracy"] - first.metrics["accuracy"],
        "difference_low": paired.low,
        "difference_high": paired.high,
        "wins": paired.wins,
        "losses": paired.losses,
        "p_value": paired.p_value,
        "macro_f1": metrics["macro_f1"],
        "calibration_error": metrics["calibration_error"],
        "int8_accuracy": int8_accuracy,
        "int8_loss": metrics["accuracy"] - int8_accuracy,
        "parameters": card["parameters"],
        "trained_parameters": card["trained_parameters"],
        "multiply_adds": card["multiply_adds"],
        "size_mb": metrics["size_mb"],
        "int8_size_mb": (result.model / INT8_FILE).stat().st_size / 1e6,
        "latency_ms": latency,
        "int8_latency_ms": int8_latency,
        "train_seconds": result.train_seconds,
        **{column: count_kernels(metrics, key) for column, key in KERNELS.items()},
        "silent_images": metrics["silent_images"],
    }


def count_kernels(metrics: dict[str, Any], key: str) -> int:
    """Add up the depthwise kernels of all blocks."""
    return sum(block[key] for block in metrics["depthwise"])


def measure(models: Iterable[Path], images: list[Path], runs: int) -> list[tuple[float, float]]:
    """Measure the median milliseconds per image of each model's float32 and int8 file, on one core."""
    classifiers = [Classifier(model, int8=int8) for model in models for int8 in (False, True)]
    times: list[list[float]] = [[] for _ in classifiers]
    count = -(-runs // ROUNDS)
    for start in track(range(0, ROUNDS * count, count), ROUNDS, "latency"):
        ahead = start % len(images)
        for classifier, taken in zip(classifiers, times, strict=True):
            taken += measure_latencies(classifier, images[ahead:] + images[:ahead], count).tolist()
    medians = [float(np.median(taken)) for taken in times]
    return list(zip(medians[::2], medians[1::2], strict=True))
