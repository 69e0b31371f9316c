"""MLflow tracking: one run per training, identified by the model it made, continued by evaluate and register."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient, MlflowException
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made on import
from mlflow.entities import Run
from numpy.typing import NDArray

from landuse.core import process
from landuse.core.addresses import public_values
from landuse.core.files import read_record, read_table, require, sha256_of
from landuse.core.paths import (
    DATA,
    DATA_DOCS,
    DATA_DOCS_SOURCE,
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
from landuse.tracking import names
from landuse.tracking.backend_store import EXPERIMENT
from landuse.tracking.backend_store import store as store

MODEL_TAG = "model.sha256"


@contextmanager
def training_run(facts: dict[str, Any], **used: Any) -> Iterator[dict[str, Any]]:
    """Start a run that records data, code and params as tags, parameters and dataset; yield the content for `run.json`.

    `facts` are further tags; `used` are the params sections in use, by name.
    """
    tags, params = lineage.tags(**used) | facts, lineage.params_record(**used)
    record = {"tags": tags, "params": params, "versions": lineage.versions()}
    with store():
        end_lost_runs()
        labels = names.tags_for_people(tags) | names.machine_tags(process.identity())
        with mlflow.start_run(run_name=run_name(record), tags=labels):
            log_record(record)
            yield record


def end_lost_runs() -> None:
    """Mark running runs whose process on this machine died as killed."""
    client = MlflowClient()
    if (experiment := client.get_experiment_by_name(EXPERIMENT)) is None:
        return
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
        if process.is_gone(names.facts_of(run.data.tags)):
            client.set_terminated(run.info.run_id, "KILLED")


def run_name(record: dict[str, Any]) -> str:
    """Name a run after its data, its first trained layer, and what differs from the training before."""
    before = latest_run(f"attributes.status = 'FINISHED' and tags.`{names.PREFIX}{MODEL_TAG}` LIKE '%'")
    return names.run_name(record["tags"], record["params"], before.data.params if before else {})


def log_record(record: dict[str, Any]) -> None:
    """Log tags, parameters, package versions and dataset to the active run."""
    mlflow.set_tags(names.tags_for_people(record["tags"]) | names.machine_tags(record["tags"]))
    mlflow.log_params(public_values(record["params"]))  # an older run.json may hold secrets of addresses
    mlflow.log_dict(record["versions"], "versions.json")
    source, digest = LocalArtifactDatasetSource(str(DATA.resolve())), record["tags"]["data.md5"]
    dataset = MetaDataset(source, name="data", digest=digest)  # type: ignore[abstract]  # MLflow left `profile` abstract in it
    log_dataset(dataset)


def log_dataset(dataset: MetaDataset) -> None:
    """Log the dataset of the active run, again if another machine was logging the same one for the first time."""
    try:
        mlflow.log_input(dataset, context="training")
    except MlflowException as error:
        if not re.search("UniqueViolation|UNIQUE constraint", str(error)):
            raise
        mlflow.log_input(dataset, context="training")


def log_epoch(row: dict[str, float]) -> None:
    """Log the metrics of one epoch; `epoch` in the row counts from 1."""
    values = {names.epoch_metric(name): value for name, value in row.items() if name != "epoch"}
    mlflow.log_metrics(values, step=int(row["epoch"]))


def finish_training(record: dict[str, Any], model_sha256: str, seconds: float) -> None:
    """Tag the active run with the digest of its model, log its files, and write `artifacts/run.json`.

    `seconds` is the time of the epochs; it goes to the run alone, so that the same model gives the same files.
    """
    mlflow.log_metric(names.epoch_metric("train_seconds"), seconds)
    record["tags"][MODEL_TAG] = model_sha256
    mlflow.set_tags(names.machine_tags({MODEL_TAG: model_sha256}))
    log_training_files()
    RUN.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def log_training_files() -> None:
    """Log split and history as artifacts."""
    for path in (SPLITS, HISTORY):
        mlflow.log_artifact(str(require(path)))


@contextmanager
def continued_run() -> Iterator[mlflow.ActiveRun]:
    """Continue the run that made the model in `artifacts/`, recreating it first if the store does not have it."""
    record = read_record(RUN)
    with store():
        end_lost_runs()
        logged = find_run(record["tags"][MODEL_TAG])
        with mlflow.start_run(run_id=logged.info.run_id if logged else recreate_run(record)) as run:
            mlflow.set_tags(names.machine_tags(process.identity()))
            yield run


def find_run(model_sha256: str) -> Run | None:
    """Return the latest run that made this model, or None."""
    tags = (f"{names.PREFIX}{MODEL_TAG}", MODEL_TAG)  # the second one in an earlier run
    return next(filter(None, (latest_run(f"tags.`{tag}` = '{model_sha256}'") for tag in tags)), None)


def latest_run(condition: str) -> Run | None:
    """Return the latest run that matches an MLflow search condition, or None."""
    runs: list[Run] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=condition,
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return runs[0] if runs else None


def recreate_run(record: dict[str, Any]) -> str:
    """Create a run for a model that was trained with another store, from the files in `artifacts/`; return its id."""
    tags = names.machine_tags({"recorded": "again, from artifacts/run.json"})
    with mlflow.start_run(run_name=run_name(record), tags=tags) as run:
        log_record(record)
        for row in read_table(HISTORY).to_dict("records"):
            log_epoch({str(name): value for name, value in row.items()})
        log_training_files()
        if METRICS.exists():
            log_evaluation(read_record(METRICS))
    return str(run.info.run_id)


def log_evaluation(metrics: dict[str, Any]) -> None:
    """Log metrics, predictions and pictures of the held-out subset to the active run, and the params behind them."""
    subset = metrics["subset"]
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    mlflow.log_metrics({names.evaluation_metric(name, subset): value for name, value in numbers.items()})
    mlflow.set_tags(names.machine_tags({"evaluated.subset": subset}))
    mlflow.log_dict(lineage.params_with(read_record(RUN)["params"]), PARAMS.name)
    for path in (METRICS, PREDICTIONS, PER_CLASS):
        mlflow.log_artifact(str(require(path)))
    mlflow.log_artifacts(str(require(PICTURES)), "pictures")


def log_validation() -> None:
    """Log manifest, validation result and page to the active run, and Data Docs if they are of this manifest."""
    for path in (MANIFEST, VALIDATION, VALIDATION_PAGE):
        mlflow.log_artifact(str(path), "validation")
    if DATA_DOCS_SOURCE.exists() and DATA_DOCS_SOURCE.read_text("utf-8") == sha256_of(MANIFEST):
        mlflow.log_artifacts(str(DATA_DOCS), f"validation/{DATA_DOCS.name}")


def log_latency(milliseconds: NDArray[np.float64]) -> None:
    """Log median and 95th percentile of prediction times [images], in milliseconds, to the active run."""
    median, slow = np.percentile(milliseconds, [50, 95])
    times = {"latency_ms_median": median, "latency_ms_p95": slow}
    mlflow.log_metrics({names.evaluation_metric(name, "test"): value for name, value in times.items()})
