"""The MLflow runs of a study: a parent run, and below it the run of each network's training."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from landuse import tracking
from landuse.core import process
from landuse.core.paths import STUDY_PAGE, STUDY_TABLE
from landuse.project import lineage
from landuse.study.networks import Network
from landuse.tracking import names

STUDY_TAG, NETWORK_TAG = "study.sha256", "study.network"
PARENT_TAG = "mlflow.parentRunId"
MEASURED = ("int8_accuracy", "int8_size_mb", "int8_latency_ms", "multiply_adds")  # columns of the table


@contextmanager
def study_run(networks: list[Network]) -> Iterator[str]:
    """Start the parent run of a study and yield its id; continue that of the same networks, data, code and params."""
    settings = json.dumps([asdict(network) for network in networks], sort_keys=True)
    facts = lineage.tags() | {STUDY_TAG: hashlib.sha256(settings.encode()).hexdigest()}
    with tracking.store():
        tracking.end_lost_runs()
        previous = tracking.latest_run(f"tags.`{names.PREFIX}{STUDY_TAG}` = '{facts[STUDY_TAG]}'")
        goes_on = previous and facts.items() <= names.facts_of(previous.data.tags).items()
        name = f"{facts['data.md5'][:6]}-study"
        tags = names.tags_for_people(facts) | names.machine_tags(facts | process.identity())
        with mlflow.start_run(previous.info.run_id if previous and goes_on else None, run_name=name, tags=tags) as run:
            mlflow.log_params(lineage.params_record())
            yield run.info.run_id


def adopt(run: Run, parent: str, network: Network, split_by: Network) -> None:
    """Put the run of a network's training below the parent run, and tag whose embeddings its split is based on."""
    facts, split_tag = {NETWORK_TAG: network.name}, f"{names.PREFIX}{lineage.SPLIT_TAG}"
    if network is not split_by:
        facts[lineage.SPLIT_TAG] = split_by.name
    elif split_tag in run.data.tags:  # of an earlier study, in which another network came first
        MlflowClient().delete_tag(run.info.run_id, split_tag)
    for key, value in ({PARENT_TAG: parent} | names.machine_tags(facts)).items():
        MlflowClient().set_tag(run.info.run_id, key, value)


def log_results(networks: pd.DataFrame) -> None:
    """Log page and table to the parent run, and to the run of each network what only the study measured."""
    for path in (STUDY_PAGE, STUDY_TABLE):
        mlflow.log_artifact(str(path))
    now = int(time.time() * 1000)
    for row in networks.to_dict("records"):
        metrics = [Metric(names.evaluation_metric(name, "test"), row[name], now, 0) for name in MEASURED]
        MlflowClient().log_batch(row["run"], metrics)
