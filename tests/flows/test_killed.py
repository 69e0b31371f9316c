"""kill -9 at the worst moments: after a restart the next run completes and repeats no finished stage."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count

import psutil
import pytest
from fresh import Fresh, running_project, signed_in
from mlflow import MlflowClient
from workspace import Workspace, copy_project

pytestmark = pytest.mark.slow
EPOCHS = 20
CHANGES = count(3)  # values of views and seed that are new to every run, so that DVC has no cached result


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, untouched: Workspace) -> Iterator[Fresh]:
    """A running project whose training is long enough to be killed halfway."""
    with running_project(copy_project(untouched, tmp_path_factory.mktemp("killed") / "project")) as fresh:
        fresh.work.change(lambda params: params["train"].update(epochs=EPOCHS, patience=EPOCHS))
        fresh.pipelines("up")
        yield fresh


def flow_process(fresh: Fresh) -> psutil.Process:
    """Return the process of the current flow: the parent of its command."""
    job = psutil.Process(int(json.loads((fresh.work.folder / ".services" / "job.json").read_text())["process.id"]))
    return job.parent()


def kill_flow(fresh: Fresh) -> None:
    os.kill(flow_process(fresh).pid, signal.SIGKILL)


def kill_worker(fresh: Fresh) -> None:
    fresh.kill("worker")


def kill_server(fresh: Fresh) -> None:
    fresh.kill("prefect")


def kill_flow_and_worker(fresh: Fresh) -> None:
    """Kill both at once, so that neither can report the other."""
    flow, worker = flow_process(fresh).pid, fresh.pid("worker")
    for pid in (worker, flow):
        os.kill(pid, signal.SIGKILL)


EXPECTED_STATES = {
    kill_flow: {"CRASHED"},
    kill_worker: {"CRASHED", "COMPLETED"},
    kill_server: {"CRASHED", "COMPLETED", "FAILED"},  # FAILED if the flow is just calling it
    kill_flow_and_worker: {"CRASHED"},
}


def kill_during(fresh: Fresh, kill: Callable[[Fresh], None], text: str, since: int) -> str:
    """Trigger a retraining, kill once the log has `text` after character `since`, restart, and return the run's ID.

    A run that survives the first kill may be the one that logs the text, and leave nothing to do for the second run.
    """
    run = fresh.trigger("retraining")
    fresh.wait_for_log(text, since)
    kill(fresh)
    fresh.pipelines("up")
    return run


def statuses(fresh: Fresh) -> list[str]:
    """Return the status of every training run in MLflow; an empty list before the first."""
    client = MlflowClient(fresh.store, fresh.store)
    with signed_in(fresh):
        experiments = client.search_experiments(filter_string="name = 'landuse'")
        return [run.info.status for each in experiments for run in client.search_runs([each.experiment_id])]


@pytest.mark.parametrize("kill", EXPECTED_STATES)
def test_after_a_kill_the_next_run_completes(fresh: Fresh, kill: Callable[[Fresh], None]) -> None:
    change, trained = next(CHANGES), statuses(fresh).count("FINISHED")
    fresh.work.change(lambda params: params["train"].update(seed=change))
    fresh.work.change(lambda params: params["extract"].update(views=change))
    since = len(fresh.worker_log())
    first = kill_during(fresh, kill, "extract 39/399", since)
    second = kill_during(fresh, kill, f"epoch   2/{EPOCHS}", since)
    run = fresh.wait_until_completed(fresh.trigger("retraining"))
    assert fresh.task_states(run["id"]).get("extract", "Cached") == "Cached", "a finished stage is not repeated"
    assert fresh.work.stale() == {}
    after = statuses(fresh)
    assert "RUNNING" not in after and after.count("FINISHED") == trained + 1
    registration = json.loads((fresh.work.folder / "artifacts" / "registration.json").read_text())
    with signed_in(fresh):
        newest = MlflowClient(fresh.store, fresh.store).get_model_version_by_alias(registration["model"], "challenger")
    assert str(newest.version) == registration["version"]
    assert {fresh.wait_until_finished(each)["state_type"] for each in (first, second)} <= EXPECTED_STATES[kill], (
        "runs that were still waiting have run"
    )
    running = fresh.api("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
    assert running == [], "neither an orphaned run nor its subflows occupy a slot"
