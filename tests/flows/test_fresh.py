"""Started once, a project keeps its model fresh: the story of one project, told in order, on real servers."""

import json
import re
import subprocess
import sys
from http.server import HTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml
from fresh import BLOCK, Fresh, archive, signed_in, wait_for
from mlflow import MlflowClient
from workspace import Workspace

from landuse import sample
from pipelines.steps.commands import BUSY

pytestmark = pytest.mark.slow
NAME = "landuse-sample"


def champion(fresh: Fresh) -> str:
    with signed_in(fresh):
        return str(MlflowClient(fresh.store, fresh.store).get_model_version_by_alias(NAME, "champion").version)


def challenger(fresh: Fresh) -> str:
    with signed_in(fresh):
        return str(MlflowClient(fresh.store, fresh.store).get_registered_model(NAME).aliases["challenger"])


def version(work: Workspace) -> str:
    return yaml.safe_load((work.folder / "data.dvc").read_text())["outs"][0]["md5"]


def new_runs(fresh: Fresh, known: set[str]) -> list[dict]:
    return [run for run in fresh.runs("retraining") if run["id"] not in known]


def test_everything_is_up_and_starting_it_again_changes_nothing(fresh: Fresh) -> None:
    services = ("prefect", "mlflow", "worker", "inbox")
    pids = [fresh.pid(service) for service in services]
    said = fresh.pipelines("up")
    assert all(f"{service:<10} up" in said for service in services)
    assert fresh.env["LANDUSE_PREFECT_PORT"] in said and fresh.env["LANDUSE_MLFLOW_PORT"] in said
    assert [fresh.pid(service) for service in services] == pids
    assert len(fresh.ask("/automations/filter", {})) == 2
    assert "\nnext " in said


def test_the_schedule_brings_in_the_data_trains_and_promotes_the_first_champion(fresh: Fresh, scheduled: dict) -> None:
    assert scheduled["auto_scheduled"] and "schedule" in scheduled["created_by"]["type"].lower()
    assert scheduled["name"] == f"retrain-{version(fresh.work)[:6]}-changed"
    assert champion(fresh) == "1"


def test_bare_dvc_comes_to_the_same_lock_file_and_the_same_metrics(
    fresh: Fresh, scheduled: dict, bare: Workspace
) -> None:
    for name in ("dvc.lock", "artifacts/metrics.json", "artifacts/splits.csv", "artifacts/predictions.csv"):
        assert (bare.folder / name).read_bytes() == (fresh.work.folder / name).read_bytes(), name
    assert bare.stale() == fresh.work.stale() == {}


def test_a_run_with_nothing_new_says_so_and_trains_nothing(fresh: Fresh, scheduled: dict) -> None:
    run = fresh.completed(fresh.trigger("retraining"))
    assert run["name"].endswith("-nothing-new") and run["state"]["name"] == "NothingNew"
    assert "train" not in fresh.states(run["id"])


def test_a_burst_of_arrivals_starts_one_run_that_learns_from_the_last(
    fresh: Fresh, scheduled: dict, tmp_path: Path
) -> None:
    known, before = {run["id"] for run in fresh.runs("retraining")}, version(fresh.work)
    first, second = archive(tmp_path / "first.zip", 0, 20), archive(tmp_path / "second.zip", 0, 22)
    fresh.drop("first.zip", first)
    fresh.drop("second.zip", second)
    run = fresh.completed(wait_for(lambda: new_runs(fresh, known), 60)[0]["id"])
    assert "automation" in run["created_by"]["type"].lower()
    assert version(fresh.work) != before and run["name"] == f"retrain-{version(fresh.work)[:6]}-new-data"
    assert champion(fresh) == "2"
    assert [path.name.partition("-")[2] for path in (fresh.work.folder / "inbox" / ".done").iterdir()] == ["second.zip"]
    assert fresh.completed(fresh.trigger("retraining"))["state"]["name"] == "NothingNew", (
        "data.source does not come back"
    )
    assert len(new_runs(fresh, known)) == 2 and fresh.waiting() == []
    check_what_is_shown(fresh, run, before)


def check_what_is_shown(fresh: Fresh, run: dict, before: str) -> None:
    """One page with every answer, tables, and progress that came to its end."""
    shown = fresh.artifacts(run["id"])
    page = shown["retraining"][0]["data"]
    for words in (version(fresh.work), before, "second.zip", "220 images", "held-out", "champion", fresh.store):
        assert words in page or words in str(shown["gate"]), words
    for kind in ("validation", "classes", "gate"):
        assert len(json.loads(shown[kind][0]["data"])) > 5, kind
    assert {progress["data"] for progress in shown["progress"]} == {100.0}


def test_arrivals_that_do_not_pass_change_nothing_and_the_next_good_one_goes_through(
    fresh: Fresh, scheduled: dict, tmp_path: Path
) -> None:
    before, champion_before = (fresh.work.folder / "data.dvc").read_bytes(), champion(fresh)
    known = {run["id"] for run in fresh.runs("retraining")}
    fresh.drop("no-beach.zip", archive(tmp_path / "bad.zip", 0, 20, tuple(sample.CLASSES[1:])))
    run = fresh.finished(wait_for(lambda: new_runs(fresh, known), 60)[0]["id"])
    assert run["state_type"] == "FAILED" and "validate.classes" in run["state"]["message"], run["state"]
    assert (fresh.work.folder / "data.dvc").read_bytes() == before and champion(fresh) == champion_before
    (kept,) = (fresh.work.folder / "quarantine").iterdir()
    assert {"validation.html", "refused.txt", "data"} <= {path.name for path in kept.iterdir()}
    assert [path.name for path in kept.glob("*-no-beach.zip")] and not list((fresh.work.folder / "inbox").glob("*.zip"))
    assert "critical" in str(fresh.artifacts(run["id"])["validation"])
    known.add(run["id"])
    fresh.drop("mended.zip", archive(tmp_path / "good.zip", 0, 24))
    assert fresh.completed(wait_for(lambda: new_runs(fresh, known), 60)[0]["id"])["name"].endswith("-new-data")


def test_other_params_leave_the_project_as_it_was(fresh: Fresh, scheduled: dict) -> None:
    files = [fresh.work.folder / name for name in ("params.yaml", "dvc.lock", "artifacts/metrics.json")]
    before = [path.read_bytes() for path in files]
    run = fresh.completed(fresh.trigger("training", overrides={"train.learning_rate": 0.003}))
    states = fresh.states(run["id"])
    assert states["extract"] == states["split"] == "Cached" and states["train"] == "Completed"
    assert before == [path.read_bytes() for path in files]
    client = MlflowClient(fresh.store, fresh.store)
    made_by = client.get_run(client.get_model_version(NAME, challenger(fresh)).run_id)
    assert made_by.data.params["train.learning_rate"] == "0.003"


def test_whoever_is_named_is_told_of_a_promotion_a_refusal_and_a_failure(
    fresh: Fresh, scheduled: dict, told: HTTPServer
) -> None:
    address = f"http://127.0.0.1:{told.server_port}"
    known = {"PREFECT_API_URL": f"{fresh.prefect}/api", "PREFECT_API_AUTH_STRING": fresh.login}
    fresh.work.ok(sys.executable, "-c", BLOCK, address, **known)
    fresh.work.change(lambda params: params["pipelines"].update(notify="custom-webhook/team"))
    before = champion(fresh)
    fresh.completed(fresh.trigger("promotion"))
    assert "is the champion" in told.received[-1] and champion(fresh) == challenger(fresh) != before
    fresh.work.change(lambda params: params["promote"].update(accuracy=1.0))
    refused = fresh.completed(fresh.trigger("promotion", version=before))
    assert fresh.states(refused["id"])["promote"] == "Refused" and "stays challenger" in told.received[-1]
    fresh.work.change(lambda params: params["promote"].update(accuracy=0.0))
    fresh.finished(fresh.trigger("ingestion", source="nowhere.zip"))
    # Prefect knows that a flow failed before the hook that tells of it has run.
    assert wait_for(lambda: "nowhere.zip" in told.received[-1] and "ingestion failed" in told.received[-1], 60)


def test_an_address_that_a_run_is_given_is_refused_before_the_server_keeps_it(fresh: Fresh) -> None:
    address = "https://user:planted@host/a.zip"
    for flow, given in (("ingestion", {"source": address}), ("training", {"overrides": {"data.source": address}})):
        with pytest.raises(HTTPError) as refused:
            fresh.trigger(flow, **given)
        with refused.value as answer:
            assert answer.code == 409
    kept = [path for path in (fresh.work.folder / ".services").rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"planted" in path.read_bytes()]


def test_two_runs_and_a_dvc_repro_at_once_wait_for_each_other(fresh: Fresh, scheduled: dict) -> None:
    fresh.work.change(lambda params: params["train"].update(seed=7))
    first, second = fresh.trigger("retraining", force=True), fresh.trigger("retraining", force=True)
    third = fresh.trigger("training")
    by_hand = subprocess.Popen(["dvc", "repro"], cwd=fresh.work.folder, env=fresh.work.env(), stderr=subprocess.PIPE)
    for run in (first, second, third):
        fresh.completed(run)
    _, said = by_hand.communicate()
    assert by_hand.returncode == 0 or re.search(BUSY, said.decode()), "it had its turn, or was told whose turn it was"
    runs = sorted((fresh.ask(f"/flow_runs/{run}") for run in (first, second)), key=lambda run: run["start_time"])
    assert runs[0]["end_time"] <= runs[1]["start_time"]


def test_an_mlflow_server_that_is_down_is_named_after_some_tries_and_the_next_run_repairs_what_was_left(
    fresh: Fresh, scheduled: dict
) -> None:
    fresh.work.change(lambda params: params["train"].update(seed=8))
    fresh.kill("mlflow")
    run = fresh.finished(fresh.trigger("retraining"))
    assert run["state_type"] == "FAILED" and f"MLflow at {fresh.store}" in run["state"]["message"]
    assert fresh.states(run["id"])["train"] == "Failed"
    assert "mlflow     DOWN" in fresh.work.run(sys.executable, "-m", "pipelines", "status", **fresh.env).stdout
    fresh.pipelines("up")
    again = fresh.completed(fresh.trigger("retraining"))
    assert again["name"].endswith("-changed") and champion(fresh) == challenger(fresh)
