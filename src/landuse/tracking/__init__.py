"""MLflow: one run per training, found again by the model it made, continued by evaluate and register."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import Metric, Param, Run
from numpy.typing import NDArray

from landuse.core import process
from landuse.core.addresses import public_values
from landuse.core.files import made, read_record, read_table, sha256_of
from landuse.core.paths import (
    DATA,
    DATA_DOCS,
    DOCS_OF,
    HISTORY,
    MANIFEST,
    METRICS,
    PARAMS,
    PER_CLASS,
    PICTURES,
    PREDICTIONS,
    RUN,
    SPLITS,
    VALIDATION,
    VALIDATION_PAGE,
)
from landuse.project import lineage
from landuse.tracking.backend_store import EXPERIMENT, store

MODEL_TAG = "model.sha256"
SCORE = "best_validation_accuracy"  # of a trial; of a search, that of its best trial
METRICS_AT_ONCE = 900  # MLflow takes up to a thousand


@contextmanager
def training_run(facts: dict[str, Any], **used: Any) -> Iterator[dict[str, Any]]:
    """A new run with data, code and params as tags, parameters and dataset; yields what `run.json` is to hold.

    `used` are the sections of params that are at work, by name.
    """
    tags, params = lineage.tags(**used) | facts, lineage.params_record(**used)
    record = {"tags": tags, "params": params, "versions": lineage.versions()}
    with store():
        end_lost_runs()
        with mlflow.start_run(run_name=run_name(record), tags=process.identity()):
            log_record(record)
            yield record


def end_lost_runs() -> None:
    """Mark runs as killed whose process on this machine ended without a word."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
        if process.is_gone(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def run_name(record: dict[str, Any]) -> str:
    """Data version and what is trained, such as `a1b2c3-block_14`."""
    return f"{record['tags']['data.md5'][:6]}-{record['params']['train.unfreeze_from']}"


def log_record(record: dict[str, Any]) -> None:
    """Tags, parameters and data set of the run at hand."""
    mlflow.set_tags(record["tags"])
    mlflow.log_params(public_values(record["params"]))  # an older run.json may say more
    mlflow.log_dict(record["versions"], "versions.json")
    source = LocalArtifactDatasetSource(str(DATA.resolve()))
    mlflow.log_input(MetaDataset(source, name="data", digest=record["tags"]["data.md5"]), context="training")


def log_epoch(row: dict[str, float]) -> None:
    """The metrics of one epoch (counted from 1, under `epoch`)."""
    mlflow.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"]))


def finish_training(record: dict[str, Any], model_sha256: str) -> None:
    """Mark the run with the model it made, and write `artifacts/run.json`."""
    record["tags"][MODEL_TAG] = model_sha256
    mlflow.set_tag(MODEL_TAG, model_sha256)
    log_training_files()
    RUN.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def log_training_files() -> None:
    """Split and history, as artifacts."""
    for path in (SPLITS, HISTORY):
        mlflow.log_artifact(str(made(path)))


@contextmanager
def continued_run() -> Iterator[mlflow.ActiveRun]:
    """The run that made the model in `artifacts/`. In a store that does not have it, it is recorded again first."""
    record = read_record(RUN)
    with store():
        end_lost_runs()
        found = find_run(record["tags"][MODEL_TAG])
        with mlflow.start_run(run_id=found.info.run_id if found else record_again(record)) as run:
            mlflow.set_tags(process.identity())
            yield run


def find_run(model_sha256: str) -> Run | None:
    """The latest run that made this model."""
    return latest_run(f"tags.`{MODEL_TAG}` = '{model_sha256}'")


def latest_run(condition: str) -> Run | None:
    """The latest run of which a condition holds, in the words of MLflow's search."""
    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=condition,
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return runs[0] if runs else None


def record_again(record: dict[str, Any]) -> str:
    """A run of this store for a model that was trained with another one; returns its id."""
    with mlflow.start_run(run_name=run_name(record), tags={"recorded": "again, from artifacts/run.json"}) as run:
        log_record(record)
        for row in read_table(HISTORY).to_dict("records"):
            log_epoch(row)
        log_training_files()
        if METRICS.exists():
            log_evaluation(read_record(METRICS))
    return run.info.run_id


def log_evaluation(metrics: dict[str, Any]) -> None:
    """Metrics, predictions, pictures of the held-out subset, and the params that all came from, on the run at hand."""
    mlflow.log_metrics({name: value for name, value in metrics.items() if isinstance(value, int | float)})
    mlflow.set_tag("evaluated.subset", metrics["subset"])
    mlflow.log_dict(lineage.params_with(read_record(RUN)["params"]), PARAMS.name)
    for path in (METRICS, PREDICTIONS, PER_CLASS):
        mlflow.log_artifact(str(made(path)))
    mlflow.log_artifacts(str(made(PICTURES)), "pictures")


def log_validation() -> None:
    """Manifest, verdict, page and, where they are of this manifest, Data Docs, on the run at hand."""
    for path in (MANIFEST, VALIDATION, VALIDATION_PAGE):
        mlflow.log_artifact(str(path), "validation")
    if DOCS_OF.exists() and DOCS_OF.read_text("utf-8") == sha256_of(MANIFEST):
        mlflow.log_artifacts(str(DATA_DOCS), f"validation/{DATA_DOCS.name}")


def log_latency(milliseconds: NDArray[np.float64]) -> None:
    """Median and 95th percentile of the time one prediction took, on the run at hand."""
    median, slow = np.percentile(milliseconds, [50, 95])
    mlflow.log_metrics({"latency_ms_median": median, "latency_ms_p95": slow})


@contextmanager
def tuning_run(earlier: str | None) -> Iterator[str]:
    """A run that the trials of a study hang below: the earlier one, unless code, params or store are others; its id."""
    tags = lineage.tags()
    with store():
        end_lost_runs()
        found = latest_run(f"attributes.run_id = '{earlier}'")
        run_id = earlier if found and tags.items() <= found.data.tags.items() else None
        name = f"{tags['data.md5'][:6]}-tune"
        with mlflow.start_run(run_id, run_name=name, tags=tags | process.identity()) as run:
            mlflow.log_params(lineage.params_record())
            yield run.info.run_id


def log_trial(
    parent: str, name: str, values: dict[str, Any], rows: list[dict[str, float]], score: float | None, outcome: str
) -> None:
    """One trial as a run of its own: the values it tried, the metrics of its epochs, its score, and how it ended."""
    client, now = MlflowClient(), int(time.time() * 1000)
    tags = {"mlflow.parentRunId": parent, "outcome": outcome} | process.identity()
    run = client.create_run(client.get_run(parent).info.experiment_id, run_name=name, tags=tags)
    metrics = [
        Metric(key, value, now, int(row["epoch"])) for row in rows for key, value in row.items() if key != "epoch"
    ]
    metrics += [Metric(SCORE, score, now, 0)] if score is not None else []
    params = [Param(f"train.{key}", str(value)) for key, value in values.items()]
    client.log_batch(run.info.run_id, params=params)
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run.info.run_id, metrics[start : start + METRICS_AT_ONCE])
    client.set_terminated(run.info.run_id)


def finish_tuning(values: dict[str, Any], score: float, folder: Path) -> None:
    """The best values, their score and the pictures of the study, on the run at hand."""
    mlflow.log_metric(SCORE, score)
    mlflow.set_tags({f"best.{key}": value for key, value in values.items()})
    for picture in sorted(folder.glob("*.png")):
        mlflow.log_artifact(str(picture), "pictures")
