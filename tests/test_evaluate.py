"""Metrics of the exported model on held-out images, and their tables and pictures."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from sklearn.metrics import recall_score

from landuse import tracking
from landuse.core import paths
from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.evaluate import evaluate
from landuse.ml.classifier import Classifier
from landuse.params import EvaluateParams, load_params
from landuse.split import split
from landuse.tracking.names import facts_of
from landuse.train import train
from landuse.validate import validate

EVALUATE = EvaluateParams(**tiny.CHANGES["evaluate"])
TABLES = [paths.METRICS, paths.PREDICTIONS, paths.PER_CLASS]


def metrics() -> dict:
    return json.loads(paths.METRICS.read_text("utf-8"))


def test_the_metrics_are_of_the_exported_model_on_held_out_images(trained: Path) -> None:
    classifier, splits = Classifier(paths.MODEL), pd.read_csv(paths.SPLITS)
    rows, actual = splits[splits["subset"] == "test"], metrics()
    probabilities = np.stack([classifier.probabilities(paths.DATA / path) for path in rows["path"]])
    correct = np.array(classifier.labels)[probabilities.argmax(axis=1)] == rows["label"]
    assert (actual["subset"], actual["images"]) == ("test", 9)
    assert actual["accuracy"] == pytest.approx(correct.mean()) and actual["accuracy"] >= 0.8
    assert actual["size_mb"] == (paths.MODEL / "model.tflite").stat().st_size / 1e6
    assert actual["dead_kernels"] == classifier.card["dead_kernels"]


def test_there_is_one_prediction_per_held_out_image(trained: Path) -> None:
    table, splits = pd.read_csv(paths.PREDICTIONS), pd.read_csv(paths.SPLITS)
    assert table["path"].tolist() == splits["path"][splits["subset"] == "test"].tolist()
    assert list(table.columns) == ["path", "actual", "predicted", "confidence", *(f"p_{x}" for x in tiny.LABELS)]
    probabilities = table[[f"p_{label}" for label in tiny.LABELS]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert table["confidence"].tolist() == probabilities.max(axis=1).tolist()
    assert table["predicted"].tolist() == [tiny.LABELS[code] for code in probabilities.argmax(axis=1)]


def test_there_is_one_row_per_class_with_its_scores(trained: Path) -> None:
    table, predictions = pd.read_csv(paths.PER_CLASS), pd.read_csv(paths.PREDICTIONS)
    assert list(table.columns) == ["class", "precision", "recall", "f1", "support"]
    assert table["class"].tolist() == list(tiny.LABELS) and table["support"].tolist() == [3, 3, 3]
    recalls = recall_score(predictions["actual"], predictions["predicted"], average=None, labels=list(tiny.LABELS))
    assert table["recall"].tolist() == pytest.approx(recalls.tolist())


def test_evaluating_again_gives_the_same_files_and_continues_the_run(trained_copy: Path) -> None:
    before = [path.read_bytes() for path in TABLES]
    runs = mlflow.search_runs(experiment_names=["landuse"], output_format="list")
    returned = evaluate(EVALUATE)
    assert [path.read_bytes() for path in TABLES] == before and returned == metrics()
    assert len(mlflow.search_runs(experiment_names=["landuse"], output_format="list")) == len(runs)


def test_the_training_run_has_metrics_latency_and_pictures(trained: Path) -> None:
    runs = mlflow.search_runs(experiment_names=["landuse"], output_format="list")
    run = next(run for run in runs if facts_of(run.data.tags).get("model.sha256") == Classifier(paths.MODEL).digest)
    logged = run.data.metrics
    assert logged["test/accuracy"] == metrics()["accuracy"] and facts_of(run.data.tags)["evaluated.subset"] == "test"
    assert 0 < logged["tflite/latency_ms_median"] <= logged["tflite/latency_ms_p95"] < 1000
    client = mlflow.MlflowClient()
    names = {file.path for folder in (None, "pictures") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"metrics.json", "predictions.csv", "per_class.csv", "history.csv", "pictures/confusion.png"} <= names


def test_without_a_test_subset_the_validation_images_are_evaluated(trained_copy: Path) -> None:
    splits = pd.read_csv(paths.SPLITS)
    splits[splits["subset"] != "test"].to_csv(paths.SPLITS, index=False)
    evaluate(EVALUATE)
    assert metrics()["subset"] == "validation" and metrics()["images"] == 9
    expected = splits["path"][splits["subset"] == "validation"].tolist()
    assert pd.read_csv(paths.PREDICTIONS)["path"].tolist() == expected


def test_data_replaced_since_the_training_is_refused(trained_copy: Path) -> None:
    before = [path.read_bytes() for path in TABLES]
    paths.DATA_DVC.write_text(paths.DATA_DVC.read_text().replace(tiny.DATA_MD5, "f" * 32 + ".dir"))
    with pytest.raises(LanduseError, match=f"trained on version {tiny.DATA_MD5} of data/, which is f{{32}}.dir now"):
        evaluate(EVALUATE)
    assert [path.read_bytes() for path in TABLES] == before


def test_the_run_keeps_its_training_params_after_the_file_was_edited(trained_copy: Path) -> None:
    learning_rate, bins = tiny.CHANGES["train"]["learning_rate"], EVALUATE.calibration_bins + 1
    tiny.write_params(
        trained_copy, tiny.params_with({"train": {"learning_rate": 0.5}, "evaluate": {"calibration_bins": bins}})
    )
    evaluate(load_params().evaluate)
    run = tracking.find_run(json.loads(paths.RUN.read_text("utf-8"))["tags"]["model.sha256"])
    logged = yaml.safe_load(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/params.yaml"))
    assert (logged["train"]["learning_rate"], logged["evaluate"]["calibration_bins"]) == (learning_rate, bins)
    assert logged.keys() == yaml.safe_load(paths.PARAMS.read_text("utf-8")).keys()


@pytest.mark.slow
def test_class_names_may_look_like_numbers_or_missing_values(trained_copy: Path) -> None:
    names = dict(zip(tiny.LABELS, ("1", "NA", "None"), strict=True))
    for label, name in names.items():
        (paths.DATA / label).rename(paths.DATA / name)
    tiny.write_params(trained_copy, tiny.params_with({"validate": {"classes": list(names.values())}}))
    params = load_params()
    validate(params.validate)
    tiny.mark_features_current()
    split(params.split)
    train(params.train)
    actual = evaluate(params.evaluate)
    assert Classifier(paths.MODEL).labels == ["1", "NA", "None"] and actual["accuracy"] > 0.8
    assert set(read_table(paths.PREDICTIONS)["actual"]) == {"1", "NA", "None"}
