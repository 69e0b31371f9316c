"""MLflow holds one run per training with its full lineage, and the registry holds each model once."""

import base64
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from shutil import rmtree
from time import monotonic, sleep

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from ports import free_port
from servers import wait_for
from workspace import Workspace

from landuse.project.lineage import UNRECORDED
from landuse.tracking.names import epoch_metric, evaluation_metric, facts_of

NAME = "landuse-sample"
REMEDY = ("dvc", "repro", "--single-item", "--force", "register")
PREDICT = """
import json, sys, mlflow
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict([sys.stdin.read()])[0]
print(json.dumps(answer if isinstance(answer, dict) else answer.model_dump()))
"""


def runs(store: str) -> list[Run]:
    client = MlflowClient(store)
    return client.search_runs([client.get_experiment_by_name("landuse").experiment_id])


def history(work: Workspace) -> list[dict[str, str]]:
    return list(csv.DictReader((work.folder / "artifacts" / "history.csv").read_text().splitlines()))


def artifacts(store: str, run: Run, folder: str | None = None) -> set[str]:
    return {item.path for item in MlflowClient(store).list_artifacts(run.info.run_id, folder)}


def logged_metrics(work: Workspace) -> dict[str, float]:
    """Return what metrics.json holds, by the names in MLflow."""
    metrics = json.loads((work.folder / "artifacts" / "metrics.json").read_text())
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {evaluation_metric(name, metrics["subset"]): value for name, value in numbers.items()}


def values(store: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(item.step, item.value) for item in MlflowClient(store).get_metric_history(run.info.run_id, metric)]


def held_out_image(work: Workspace) -> tuple[str, dict[str, str]]:
    """Return the first held-out image as base64, and its row in predictions.csv."""
    row = next(csv.DictReader((work.folder / "artifacts" / "predictions.csv").read_text().splitlines()))
    return base64.b64encode((work.folder / "data" / row["path"]).read_bytes()).decode(), row


@pytest.fixture(scope="module")
def run(whole_run: Workspace) -> Run:
    """The only run of the pipeline."""
    (only_run,) = runs(whole_run.store)
    return only_run


def test_one_training_is_one_finished_run_with_its_params(whole_run: Workspace, run: Run) -> None:
    assert run.info.status == "FINISHED"
    params = yaml.safe_load((whole_run.folder / "params.yaml").read_text())
    logged = {name: keys for name, keys in params.items() if name not in UNRECORDED}
    expected = {f"{name}.{key}": str(value) for name, keys in logged.items() for key, value in keys.items()}
    assert run.data.params == expected


def test_the_run_records_the_data_code_and_weights_behind_it(whole_run: Workspace, run: Run) -> None:
    tags = facts_of(run.data.tags)
    data = yaml.safe_load((whole_run.folder / "data.dvc").read_text())["outs"][0]["md5"]
    features = json.loads((whole_run.folder / "artifacts" / "features" / "features.json").read_text())
    assert tags["data.md5"] == data and (tags["data.kind"], tags["data.source"]) == ("sample", "sample")
    assert tags["git.commit"] == whole_run.ok("git", "rev-parse", "HEAD~1").strip()
    assert tags["weights"] == whole_run.weights.name and tags["weights.sha256"] == features["weights_sha256"]
    assert tags["device"] in ("CPU", "GPU") and len(tags["params.sha256"]) == 64
    assert tags["git.dirty"] == "false", "a lock file updated by DVC is not a code change"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == data


def test_the_run_has_every_epoch_and_the_evaluation(whole_run: Workspace, run: Run) -> None:
    rows = history(whole_run)
    for metric in set(rows[0]) - {"epoch"}:
        logged = values(whole_run.store, run, epoch_metric(metric))
        assert logged == [(int(row["epoch"]), pytest.approx(float(row[metric]))) for row in rows], metric
    assert run.data.metrics | logged_metrics(whole_run) == pytest.approx(run.data.metrics)
    assert run.data.metrics["tflite/latency_ms_median"] > 0


def test_the_run_stores_pictures_tables_and_validation_results(whole_run: Workspace, run: Run) -> None:
    stored = artifacts(whole_run.store, run)
    assert {"pictures", "validation", "metrics.json", "history.csv", "splits.csv", "versions.json"} <= stored
    pictures = artifacts(whole_run.store, run, "pictures")
    assert {f"pictures/{name}.png" for name in ("curves", "confusion", "per_class", "mistakes")} <= pictures
    assert {f"validation/{name}" for name in ("validation.json", "validation.html", "data_docs")} <= artifacts(
        whole_run.store, run, "validation"
    )


def test_the_registered_version_has_aliases_tags_signature_and_example(whole_run: Workspace, run: Run) -> None:
    client = MlflowClient(whole_run.store, whole_run.store)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert version.run_id == run.info.run_id
    number = version.version
    assert client.get_registered_model(NAME).aliases == {"challenger": number}
    facts = facts_of(version.tags)
    assert {"data.md5", "git.commit", "weights", "model.sha256", "test.accuracy", "test.macro_f1"} <= facts.keys()
    model = client.get_logged_model(version.source.rpartition("/")[2])
    info = mlflow.models.Model.load(model.artifact_location)
    assert info.signature.inputs is not None and info.signature.outputs is not None
    assert info.saved_input_example_info is not None


def test_the_challenger_predicts_in_a_new_process_what_evaluate_recorded(whole_run: Workspace) -> None:
    image, expected = held_out_image(whole_run)
    answer = subprocess.run(
        [sys.executable, "-c", PREDICT, f"models:/{NAME}@challenger"],
        input=image, env=whole_run.env(MLFLOW_TRACKING_URI=whole_run.store), cwd=whole_run.folder.parent,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    prediction = json.loads(answer.stdout.splitlines()[-1])
    assert prediction["label"] == expected["predicted"]
    assert prediction["confidence"] == pytest.approx(float(expected["confidence"]), abs=1e-5)


def test_registering_twice_adds_nothing(work: Workspace) -> None:
    before = (work.folder / "artifacts" / "registration.json").read_bytes()
    work.ok("landuse", "register")
    assert len(MlflowClient(work.store, work.store).search_model_versions(f"name = '{NAME}'")) == 1
    assert len(runs(work.store)) == 1
    assert (work.folder / "artifacts" / "registration.json").read_bytes() == before


def test_restoring_earlier_params_restores_the_challenger_without_training(work: Workspace) -> None:
    params = (work.folder / "params.yaml").read_bytes()
    work.change(lambda params: params["train"].update(learning_rate=0.02))
    work.ok("dvc", "repro")
    client = MlflowClient(work.store, work.store)
    assert client.get_model_version_by_alias(NAME, "challenger").version == 2
    (work.folder / "params.yaml").write_bytes(params)
    assert work.stages_run("dvc", "repro") == ["register"]
    assert client.get_model_version_by_alias(NAME, "challenger").version == 1


def test_a_deleted_registry_is_restored_by_the_command_that_info_names(work: Workspace) -> None:
    (work.folder / "mlflow.db").unlink()
    rmtree(work.folder / "mlruns")
    assert " ".join(REMEDY) in work.refused("landuse", "info")
    work.ok(*REMEDY)
    assert f"{NAME} version 1 (challenger)" in work.ok("landuse", "info")
    (again,) = runs(work.store)
    assert len(values(work.store, again, "train/validation_loss")) == len(history(work))
    assert again.data.metrics | logged_metrics(work) == pytest.approx(again.data.metrics)
    assert {"pictures", "validation", "metrics.json"} <= artifacts(work.store, again)


@contextmanager
def mlflow_server(work: Workspace, port: str | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run a real server with its own store; yields its address and its process, a process group leader."""
    port = port or free_port()
    folder = work.folder.parent / "server"
    folder.mkdir(exist_ok=True)
    command = ["mlflow", "server", "--port", port, "--workers", "1", "--backend-store-uri", "sqlite:///served.db"]
    env = work.env(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", DO_NOT_TRACK="true")
    with (folder / "log").open("a") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(30)


def test_a_server_killed_during_registration_is_one_line_and_a_retry_succeeds(work: Workspace) -> None:
    port, log = free_port(), work.folder.parent / "stderr"
    with mlflow_server(work, port) as (address, server), log.open("w") as stderr:
        env = work.env(MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
        job = subprocess.Popen(["landuse", "register"], cwd=work.folder, env=env, stderr=stderr)
        while job.poll() is None and not [*(work.folder.parent / "server").rglob("models/*/artifacts/MLmodel")]:
            sleep(0.01)
        os.killpg(server.pid, signal.SIGKILL)
        assert job.wait(120) == 75
    assert re.fullmatch(f"landuse: MLflow at {address}: .* failed; check MLFLOW_TRACKING_URI .*\n", log.read_text())
    with mlflow_server(work, port) as (address, _):
        printed = work.ok("landuse", "register", MLFLOW_TRACKING_URI=address)
        assert f"{NAME} version 1 is the challenger" in printed


def test_a_server_stores_the_run_and_the_model(work: Workspace) -> None:
    with mlflow_server(work) as (address, _):
        printed = work.ok("landuse", "register", MLFLOW_TRACKING_URI=address)
        assert f"{NAME} version 1 is the challenger" in printed
        assert f"registry {address}" in work.ok("landuse", "info", MLFLOW_TRACKING_URI=address)
        image, expected = held_out_image(work)
        command = [sys.executable, "-c", PREDICT, f"models:/{NAME}@challenger"]
        env = work.env(MLFLOW_TRACKING_URI=address)
        answer = subprocess.run(command, input=image, env=env, cwd=work.folder.parent, capture_output=True, text=True)
        assert json.loads(answer.stdout.splitlines()[-1])["label"] == expected["predicted"], answer.stderr


def test_a_server_stores_the_champion_and_the_audit_log(work: Workspace) -> None:
    with mlflow_server(work) as (address, _):
        work.ok("landuse", "register", MLFLOW_TRACKING_URI=address)
        (scratch := work.folder.parent / "scratch").mkdir()
        first = ("--force", "--reason", "the first")
        work.ok("landuse", "promote", *first, MLFLOW_TRACKING_URI=address, TMPDIR=str(scratch))
        assert not list(scratch.iterdir()), "downloads were left behind"
        assert f"{NAME} version 1 (challenger, champion)" in work.ok("landuse", "info", MLFLOW_TRACKING_URI=address)
        work.ok("landuse", "promote", MLFLOW_TRACKING_URI=address)
        with (work.folder / "artifacts" / "model" / "model.tflite").open("ab") as file:
            file.write(b"\0" * 4)
        update_run_record(work)
        work.ok("landuse", "register", MLFLOW_TRACKING_URI=address)
        work.ok("landuse", "promote", "2", "--force", "--reason", "the second", MLFLOW_TRACKING_URI=address)
        assert f"{NAME} version 1 is the champion again" in work.ok("landuse", "rollback", MLFLOW_TRACKING_URI=address)
        refused = work.run("landuse", "promote", MLFLOW_TRACKING_URI=address)
        assert refused.returncode == 3 and f"landuse: {NAME} version 2 is refused: " in refused.stderr
        lines = work.ok("landuse", "history", MLFLOW_TRACKING_URI=address).splitlines()
        assert lines[0] == f"{NAME}: challenger 2, champion 1"
        assert [line.split()[1:5] for line in lines[1:]] == [
            ["rollback", "2", "->", "1"], ["force", "1", "->", "2"], ["force", "-", "->", "1"]
        ]  # fmt: skip


def update_run_record(work: Workspace) -> None:
    """Make run.json name the current model file."""
    path, model = work.folder / "artifacts" / "run.json", work.folder / "artifacts" / "model" / "model.tflite"
    record = json.loads(path.read_text())
    record["tags"]["model.sha256"] = sha256(model.read_bytes()).hexdigest()
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("verb", ["train", "register"])
def test_an_unreachable_server_is_named_quickly_and_nothing_is_half_done(work: Workspace, verb: str) -> None:
    files = ("run.json", "registration.json", "history.csv", "model/model.tflite")
    before = [(work.folder / "artifacts" / name).read_bytes() for name in files]
    address, start = f"http://127.0.0.1:{free_port()}", monotonic()
    message = work.refused("landuse", verb, MLFLOW_TRACKING_URI=address)
    assert monotonic() - start < 120, "MLflow's own retries take longer"
    assert address in message and "MLFLOW_TRACKING_URI" in message
    assert before == [(work.folder / "artifacts" / name).read_bytes() for name in files]
