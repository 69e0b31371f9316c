"""The MLflow runs of a search: one for all of it, whoever works on it, and below that one for each trial."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import optuna
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from landuse import tracking
from landuse.core import process
from landuse.core.paths import TUNE
from landuse.project import lineage
from landuse.tracking import names
from landuse.tune.plots import plot_study
from landuse.tune.search import PROCESS, Search
from landuse.tune.storage import LOCK
from landuse.tune.study import VALUES, count_ended, has_best_trial

RUNS, FINISHED = "runs", "finished"  # attributes of a study: its MLflow runs, and the number of trials logged there
SCORE = "best_validation_accuracy"  # metric of a trial; a search has the value of its best trial
METRICS_PER_BATCH = 900  # MLflow accepts up to a thousand


@contextmanager
def search_run(search: Search) -> Iterator[str]:
    """Join the run of the search in this MLflow store, or start it; yield its id.

    Those who start at once agree on one. At the end, the results are logged to it.
    """
    tags = lineage.tags()
    labels = names.tags_for_people(tags) | names.machine_tags(tags | process.identity())
    with tracking.store():
        tracking.end_lost_runs()
        with search.exclusive():
            earlier = find_run(search.study.user_attrs.get(RUNS, []), tags)
            run = mlflow.start_run(earlier, run_name=f"{tags['data.md5'][:6]}-tune", tags=labels)
            if earlier is None:
                search.study.set_user_attr(RUNS, [*search.study.user_attrs.get(RUNS, []), run.info.run_id])
                mlflow.log_params(lineage.params_record())
        with run:
            yield run.info.run_id
            finish(search)


def find_run(run_ids: list[str], tags: dict[str, str]) -> str | None:
    """Return the first of these runs that is in this store and has these tags; None if there is none."""
    found = filter(None, (tracking.latest_run(f"attributes.run_id = '{run_id}'") for run_id in run_ids))
    return next((run.info.run_id for run in found if tags.items() <= names.facts_of(run.data.tags).items()), None)


@contextmanager
def trial_run(
    parent: str, number: int, values: dict[str, Any], rows: list[dict[str, float]], score: float | None, outcome: str
) -> Iterator[None]:
    """Log a trial as a run below the parent: values, metrics of each epoch, score, outcome. An exception deletes it."""
    client, now = MlflowClient(), int(time.time() * 1000)
    tags = {"mlflow.parentRunId": parent, "outcome": outcome} | names.machine_tags(process.identity())
    experiment = client.get_run(parent).info.experiment_id
    run_id = client.create_run(experiment, run_name=f"trial-{number:03}", tags=tags).info.run_id
    metrics = [
        Metric(names.epoch_metric(key), value, now, int(row["epoch"]))
        for row in rows
        for key, value in row.items()
        if key != "epoch"
    ]
    metrics += [Metric(SCORE, score, now, 0)] if score is not None else []
    try:
        client.log_batch(run_id, params=[Param(f"train.{key}", str(value)) for key, value in values.items()])
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            client.log_batch(run_id, metrics[start : start + METRICS_PER_BATCH])
        client.set_terminated(run_id)
        yield
    except BaseException:
        client.delete_run(run_id)
        raise


def finish(search: Search) -> None:
    """Log pictures and best values of a search to its run, unless that is done, and end it if nobody else is at work.

    Several processes of this project do so in turn.
    """
    with FileLock(LOCK):
        ended = count_ended(search.study)
        if has_best_trial(search.study) and search.study.user_attrs.get(FINISHED) != ended:
            log_results(search.study)
        if others := search.trials_elsewhere():
            mlflow.set_tags(names.machine_tags(others[0].user_attrs[PROCESS]))
        mlflow.end_run("RUNNING" if others else "FINISHED")
        search.study.set_user_attr(FINISHED, ended)


def log_results(study: optuna.Study) -> None:
    """Log plots, best values and their score to the active run."""
    plot_study(study, TUNE)
    mlflow.log_metric(SCORE, study.best_value)
    mlflow.set_tags({f"best.{key}": value for key, value in study.best_trial.user_attrs[VALUES].items()})
    for picture in sorted(TUNE.glob("*.png")):
        mlflow.log_artifact(str(picture), "pictures")
