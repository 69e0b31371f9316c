"""End to end: one project on real servers retrains and promotes by itself. The tests run in order.

The first ones are part of `make test`: the whole way from a schedule to a champion, on real servers.
"""

import json
import re
import subprocess
import sys
from http.server import HTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml
from fresh import SAVE_WEBHOOK_BLOCK, Fresh, archive, signed_in
from mlflow import MlflowClient
from waiting import wait_for
from workspace import NOT_YET, Workspace

from landuse import sample
from pipelines.steps.commands import BUSY

NAME = "landuse-sample"


def champion(fresh: Fresh) -> str:
    with signed_in(fresh):
        return str(MlflowClient(fresh.store, fresh.store).get_model_version_by_alias(NAME, "champion").version)


def challenger(fresh: Fresh) -> str:
    with signed_in(fresh):
        return str(MlflowClient(fresh.store, fresh.store).get_registered_model(NAME).aliases["challenger"])


def version(work: Workspace) -> str:
    return yaml.safe_load((work.folder / "data.dvc").read_text())["outs"][0]["md5"]


def new_runs(fresh: Fresh, known_ids: set[str]) -> list[dict]:
    return [run for run in fresh.runs("retraining") if run["id"] not in known_ids]


def test_a_second_up_changes_nothing(fresh: Fresh) -> None:
    services = ("prefect", "mlflow", "worker", "inbox")
    pids = [fresh.pid(service) for service in services]
    output = fresh.pipelines("up")
    assert all(f"{service:<10} up" in output for service in services)
    assert fresh.env["LANDUSE_PREFECT_PORT"] in output and fresh.env["LANDUSE_MLFLOW_PORT"] in output
    assert [fresh.pid(service) for service in services] == pids
    assert len(fresh.api("/automations/filter", {})) == 2
    assert "\nnext " in output and "\nschedule " not in output


@pytest.mark.slow
def test_a_changed_schedule_is_told_until_it_is_taken_over(fresh: Fresh) -> None:
    fresh.work.replace("prefect.yaml", NOT_YET, "30 2 1 1 *")
    assert f"\nschedule   retraining has 30 2 1 1 * UTC in prefect.yaml and {NOT_YET} UTC" in fresh.pipelines("status")
    assert "\nschedule " not in fresh.pipelines("up")
    fresh.work.replace("prefect.yaml", "30 2 1 1 *", NOT_YET)
    fresh.pipelines("up")


def test_the_scheduled_run_ingests_trains_and_promotes_the_first_champion(fresh: Fresh, scheduled: dict) -> None:
    assert scheduled["auto_scheduled"] and "schedule" in scheduled["created_by"]["type"].lower()
    assert scheduled["name"] == f"retrain-{version(fresh.work)[:6]}-changed"
    assert champion(fresh) == "1"


def test_a_bare_dvc_repro_gives_the_same_lock_file_and_metrics(
    fresh: Fresh, scheduled: dict, whole_run: Workspace
) -> None:
    for name in ("dvc.lock", "artifacts/metrics.json", "artifacts/splits.csv", "artifacts/predictions.csv"):
        assert (whole_run.folder / name).read_bytes() == (fresh.work.folder / name).read_bytes(), name
    assert whole_run.stale() == fresh.work.stale() == {}


def test_a_run_with_nothing_new_trains_nothing(fresh: Fresh, scheduled: dict) -> None:
    run = fresh.wait_until_completed(fresh.trigger("retraining"))
    assert run["name"].endswith("-nothing-new") and run["state"]["name"] == "NothingNew"
    assert "train" not in fresh.task_states(run["id"])


@pytest.mark.slow
def test_a_burst_of_arrivals_starts_one_run_on_the_newest(fresh: Fresh, scheduled: dict, tmp_path: Path) -> None:
    known_ids, before = {run["id"] for run in fresh.runs("retraining")}, version(fresh.work)
    first, second = archive(tmp_path / "first.zip", 0, 20), archive(tmp_path / "second.zip", 0, 22)
    fresh.drop("first.zip", first)
    fresh.drop("second.zip", second)
    run = fresh.wait_until_completed(wait_for(lambda: new_runs(fresh, known_ids), 60)[0]["id"])
    assert "automation" in run["created_by"]["type"].lower()
    assert version(fresh.work) != before and run["name"] == f"retrain-{version(fresh.work)[:6]}-new-data"
    assert champion(fresh) == "2"
    assert [path.name.partition("-")[2] for path in (fresh.work.folder / "inbox" / ".done").iterdir()] == ["second.zip"]
    assert fresh.wait_until_completed(fresh.trigger("retraining"))["state"]["name"] == "NothingNew", (
        "data.source is not ingested again"
    )
    assert len(new_runs(fresh, known_ids)) == 2 and fresh.pending_runs() == []
    check_artifacts(fresh, run, before)


def check_artifacts(fresh: Fresh, run: dict, before: str) -> None:
    """Check the summary page, the tables and that every progress reached 100 %."""
    artifacts = fresh.artifacts(run["id"])
    page = artifacts["retraining"][0]["data"]
    change = "**What changed**: +220 images (22 in each of 10 classes), −400 (40 in each of 10 classes)\n"
    for words in (change, version(fresh.work), before, "second.zip", "220 images", "held-out", "champion", fresh.store):
        assert words in page or words in str(artifacts["gate"]), words
    for kind in ("validation", "classes", "gate"):
        assert len(json.loads(artifacts[kind][0]["data"])) > 5, kind
    assert {progress["data"] for progress in artifacts["progress"]} == {100.0}


@pytest.mark.slow
def test_a_refused_arrival_changes_nothing_and_the_next_good_one_is_ingested(
    fresh: Fresh, scheduled: dict, tmp_path: Path
) -> None:
    before, champion_before = (fresh.work.folder / "data.dvc").read_bytes(), champion(fresh)
    known_ids = {run["id"] for run in fresh.runs("retraining")}
    fresh.drop("no-beach.zip", archive(tmp_path / "bad.zip", 0, 20, tuple(sample.CLASSES[1:])))
    run = fresh.wait_until_finished(wait_for(lambda: new_runs(fresh, known_ids), 60)[0]["id"])
    assert run["state_type"] == "FAILED" and "validate.classes" in run["state"]["message"], run["state"]
    assert (fresh.work.folder / "data.dvc").read_bytes() == before and champion(fresh) == champion_before
    (quarantined,) = (fresh.work.folder / "quarantine").iterdir()
    assert {"validation.html", "refused.txt", "data"} <= {path.name for path in quarantined.iterdir()}
    assert [path.name for path in quarantined.glob("*-no-beach.zip")]
    assert not list((fresh.work.folder / "inbox").glob("*.zip"))
    assert "critical" in str(fresh.artifacts(run["id"])["validation"])
    known_ids.add(run["id"])
    fresh.drop("mended.zip", archive(tmp_path / "good.zip", 0, 24))
    run = fresh.wait_until_completed(wait_for(lambda: new_runs(fresh, known_ids), 60)[0]["id"])
    assert run["name"].endswith("-new-data")


@pytest.mark.slow
def test_overridden_params_leave_the_project_unchanged(fresh: Fresh, scheduled: dict) -> None:
    files = [fresh.work.folder / name for name in ("params.yaml", "dvc.lock", "artifacts/metrics.json")]
    before = [path.read_bytes() for path in files]
    run = fresh.wait_until_completed(fresh.trigger("training", overrides={"train.learning_rate": 0.003}))
    states = fresh.task_states(run["id"])
    assert states["extract"] == states["split"] == "Cached" and states["train"] == "Completed"
    assert before == [path.read_bytes() for path in files]
    client = MlflowClient(fresh.store, fresh.store)
    training_run = client.get_run(client.get_model_version(NAME, challenger(fresh)).run_id)
    assert training_run.data.params["train.learning_rate"] == "0.003"


@pytest.mark.slow
def test_the_webhook_is_notified_of_a_promotion_a_refusal_and_a_failure(
    fresh: Fresh, scheduled: dict, webhook: HTTPServer
) -> None:
    address = f"http://127.0.0.1:{webhook.server_port}"
    api = {"PREFECT_API_URL": f"{fresh.prefect}/api", "PREFECT_API_AUTH_STRING": fresh.login}
    fresh.work.ok(sys.executable, "-c", SAVE_WEBHOOK_BLOCK, address, **api)
    fresh.work.change(lambda params: params["pipelines"].update(notify="custom-webhook/team"))
    before = champion(fresh)
    fresh.wait_until_completed(fresh.trigger("promotion", force=True, reason="a test"))  # it is of the same data
    assert "is the champion" in webhook.received[-1] and champion(fresh) == challenger(fresh) != before
    fresh.work.change(lambda params: params["promote"].update(min_accuracy=1.0))
    refused = fresh.wait_until_completed(fresh.trigger("promotion", version=before))
    assert fresh.task_states(refused["id"])["promote"] == "Refused" and "stays challenger" in webhook.received[-1]
    fresh.work.change(lambda params: params["promote"].update(min_accuracy=0.0))
    fresh.wait_until_finished(fresh.trigger("ingestion", source="nowhere.zip"))
    # Prefect reports a flow as failed before its failure hook has run.
    assert wait_for(lambda: "nowhere.zip" in webhook.received[-1] and "ingestion failed" in webhook.received[-1], 60)


def test_a_url_in_the_parameters_is_rejected_before_the_server_stores_it(fresh: Fresh) -> None:
    address = "https://user:planted@host/a.zip"
    for flow, parameters in (("ingestion", {"source": address}), ("training", {"overrides": {"data.source": address}})):
        with pytest.raises(HTTPError) as refused:
            fresh.trigger(flow, **parameters)
        with refused.value as answer:
            assert answer.code == 409
    stored = [path for path in (fresh.work.folder / ".services").rglob("*") if path.is_file()]
    assert stored and not [path for path in stored if b"planted" in path.read_bytes()]


@pytest.mark.slow
def test_simultaneous_runs_and_a_dvc_repro_wait_for_each_other(fresh: Fresh, scheduled: dict) -> None:
    fresh.work.change(lambda params: params["train"].update(seed=7))
    first, second = fresh.trigger("retraining", force=True), fresh.trigger("retraining", force=True)
    third = fresh.trigger("training")
    by_hand = subprocess.Popen(["dvc", "repro"], cwd=fresh.work.folder, env=fresh.work.env(), stderr=subprocess.PIPE)
    for run in (first, second, third):
        fresh.wait_until_completed(run)
    _, errors = by_hand.communicate()
    assert by_hand.returncode == 0 or re.search(BUSY, errors.decode()), "it ran, or found another one running"
    runs = sorted((fresh.api(f"/flow_runs/{run}") for run in (first, second)), key=lambda run: run["start_time"])
    assert runs[0]["end_time"] <= runs[1]["start_time"]


@pytest.mark.slow
def test_a_run_without_the_mlflow_server_fails_and_the_next_one_recovers(fresh: Fresh, scheduled: dict) -> None:
    newest = int(challenger(fresh))
    fresh.work.change(lambda params: params["train"].update(seed=8))
    fresh.kill("mlflow")
    run = fresh.wait_until_finished(fresh.trigger("retraining"))
    assert run["state_type"] == "FAILED" and f"MLflow at {fresh.store}" in run["state"]["message"]
    assert fresh.task_states(run["id"])["train"] == "Failed"
    assert "mlflow     DOWN" in fresh.work.run(sys.executable, "-m", "pipelines", "status", **fresh.env).stdout
    fresh.pipelines("up")
    again = fresh.wait_until_completed(fresh.trigger("retraining"))
    assert again["name"].endswith("-changed") and int(challenger(fresh)) > newest
