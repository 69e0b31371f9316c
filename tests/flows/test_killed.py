"""kill -9 at the worst moments: after a restart the next run completes, and nothing that was finished is done twice."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count

import psutil
import pytest
from fresh import Fresh, kept_fresh, signed_in
from mlflow import MlflowClient

pytestmark = pytest.mark.slow
EPOCHS = 20
CHANGES = count(3)  # of views and seeds that no run had before, or DVC's cache would have the result


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """A new project, up, whose training is long enough to be killed in the middle."""
    with kept_fresh(tmp_path_factory.mktemp("killed")) as fresh:
        fresh.work.change(lambda params: params["train"].update(epochs=EPOCHS, patience=EPOCHS))
        fresh.pipelines("up")
        yield fresh


def flow_process(fresh: Fresh) -> psutil.Process:
    """The process in which a flow runs now."""
    job = psutil.Process(int(json.loads((fresh.work.folder / ".services" / "job.json").read_text())["process.id"]))
    return job.parent()


def kill_flow(fresh: Fresh) -> None:
    os.kill(flow_process(fresh).pid, signal.SIGKILL)


def kill_worker(fresh: Fresh) -> None:
    fresh.kill("worker")


def kill_server(fresh: Fresh) -> None:
    fresh.kill("prefect")


def kill_flow_and_worker(fresh: Fresh) -> None:
    """At once, so that neither tells of the other."""
    flow, worker = flow_process(fresh).pid, fresh.pid("worker")
    for pid in (worker, flow):
        os.kill(pid, signal.SIGKILL)


ENDS = {
    kill_flow: {"CRASHED"},
    kill_worker: {"CRASHED", "COMPLETED"},
    kill_server: {"CRASHED", "COMPLETED", "FAILED"},  # the last where the flow asks it just then
    kill_flow_and_worker: {"CRASHED"},
}


def killed_at(fresh: Fresh, kill: Callable[[Fresh], None], words: str, since: int) -> str:
    """A retraining, and a kill when some run logs these words, after so many characters of the log; then all goes on.

    A run that outlives the first kill may be the one that gets so far, and leave nothing to do for the second.
    """
    run = fresh.trigger("retraining")
    fresh.logged(words, since)
    kill(fresh)
    fresh.pipelines("up")
    return run


def statuses(fresh: Fresh) -> list[str]:
    """How the trainings of the project stand in MLflow, which knows of none at first."""
    client = MlflowClient(fresh.store, fresh.store)
    with signed_in(fresh):
        experiments = client.search_experiments(filter_string="name = 'landuse'")
        return [run.info.status for each in experiments for run in client.search_runs([each.experiment_id])]


@pytest.mark.parametrize("kill", ENDS)
def test_whatever_is_killed_the_next_run_completes(fresh: Fresh, kill: Callable[[Fresh], None]) -> None:
    change, trained = next(CHANGES), statuses(fresh).count("FINISHED")
    fresh.work.change(lambda params: params["train"].update(seed=change))
    fresh.work.change(lambda params: params["extract"].update(views=change))
    since = len(fresh.worker_log())
    first = killed_at(fresh, kill, "extract 40/400", since)
    second = killed_at(fresh, kill, f"epoch   2/{EPOCHS}", since)
    run = fresh.completed(fresh.trigger("retraining"))
    assert fresh.states(run["id"]).get("extract", "Cached") == "Cached", "what was finished is not done again"
    assert fresh.work.stale() == {}
    after = statuses(fresh)
    assert "RUNNING" not in after and after.count("FINISHED") == trained + 1
    registration = json.loads((fresh.work.folder / "artifacts" / "registration.json").read_text())
    with signed_in(fresh):
        champion = MlflowClient(fresh.store, fresh.store).get_model_version_by_alias(registration["model"], "champion")
    assert str(champion.version) == registration["version"]
    assert {fresh.finished(each)["state_type"] for each in (first, second)} <= ENDS[kill], (
        "whoever still waited had its turn"
    )
    running = fresh.ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
    assert running == [], "a lost run holds no place, and no flow within it"
