"""Tests of tracking: one MLflow run per training, identified by its model; the store and its errors."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shlex import quote
from shutil import copytree

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.tracking.context import registry as contexts
from mlflow.tracking.context.git_context import GitRunContext
from requests import ConnectionError as RequestsConnectionError
from requests import Response

from landuse import tracking
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.process import STARTED, identity
from landuse.tracking import backend_store, names
from landuse.tracking.git_remote import keep_origin_public
from landuse.tracking.names import facts_of

NO_RESPONSE = 0


def read_run_file() -> dict:
    """Read `artifacts/run.json`."""
    return json.loads(Path("artifacts/run.json").read_text())


def set_model_digest(sha256: str) -> None:
    """Change the model digest in `artifacts/run.json` to one that the store does not have."""
    content = read_run_file()
    content["tags"][tracking.MODEL_TAG] = sha256
    Path("artifacts/run.json").write_text(json.dumps(content))


def test_a_run_has_params_tags_and_the_dataset_with_its_dvc_md5(trained: Path) -> None:
    with tracking.continued_run() as run:
        logged = MlflowClient().get_run(run.info.run_id)
    assert logged.data.params == {key: str(value) for key, value in read_run_file()["params"].items()}
    assert read_run_file()["tags"].items() <= facts_of(logged.data.tags).items()
    (data,) = logged.inputs.dataset_inputs
    assert data.dataset.digest == read_run_file()["tags"]["data.md5"]


def test_a_run_has_the_metrics_of_every_epoch_counted_from_one(trained: Path) -> None:
    with tracking.continued_run() as run:
        logged = MlflowClient().get_metric_history(run.info.run_id, "train/validation_accuracy")
    history = pd.read_csv("artifacts/history.csv")
    assert [item.step for item in logged] == list(history["epoch"]) == list(range(1, len(history) + 1))
    assert [item.value for item in logged] == pytest.approx(list(history["validation_accuracy"]))


def test_runs_of_earlier_releases_are_found_and_ended_too(leave_run: Callable[..., str]) -> None:
    earlier = leave_run()
    for key, value in (identity() | {STARTED: "1.00", tracking.MODEL_TAG: "e" * 64}).items():
        MlflowClient().set_tag(earlier, key, value)
    assert tracking.find_run("e" * 64).info.run_id == earlier
    tracking.end_lost_runs()
    assert status(earlier) == "KILLED"


def test_a_run_is_found_by_its_model_digest(trained: Path) -> None:
    with tracking.store():
        assert tracking.find_run("f" * 64) is None
        logged = tracking.find_run(read_run_file()["tags"][tracking.MODEL_TAG])
    with tracking.continued_run() as run:
        assert run.info.run_id == logged.info.run_id


def test_an_experiment_in_a_copy_below_dvc_uses_the_store_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(LanduseError, match="mlflow.db is not here: run dvc repro in"):
        backend_store.named_store()
    (tmp_path / "mlflow.db").touch()
    for uri in ("", "sqlite:///mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert backend_store.named_store() == f"sqlite:///{tmp_path}/mlflow.db"
    for uri in ("http://127.0.0.1:5000", f"sqlite:///{tmp_path}/other.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert backend_store.named_store() == uri, "it does not depend on the folder"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert backend_store.named_store() == "sqlite:///mlflow.db"


@pytest.mark.parametrize("name", ["feature%2Fnew", "new?"])
def test_a_project_path_that_mlflow_would_misread_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(LanduseError, match="for another folder: move the project to a path without % and"):
        backend_store.named_store()
    with pytest.raises(LanduseError, match="for another folder: "):
        backend_store.refuse_unfit_local_store()


@pytest.fixture
def old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a project with a store was moved from; it is now in `here`, the working directory."""
    before = tmp_path / "be fore"
    before.mkdir()
    monkeypatch.chdir(before)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    with tracking.store():
        (before / "mlruns").mkdir()
    monkeypatch.chdir(before.rename(tmp_path / "here"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/here/mlflow.db")
    return before


def refusal_of_store() -> str:
    """Return the error of opening the store, which the check of the local store repeats."""
    with pytest.raises(LanduseError) as refused, tracking.store():
        pass
    with pytest.raises(LanduseError, match=re.escape(str(refused.value))):
        backend_store.refuse_unfit_local_store()
    return str(refused.value)


def test_a_moved_project_must_not_write_runs_to_its_old_folder(old_folder: Path) -> None:
    link = f'ln -s "$PWD" {quote(str(old_folder))}'
    assert refusal_of_store() == f"mlflow.db keeps its files in {old_folder}, where the project was: {link}"
    old_folder.mkdir()
    assert refusal_of_store().endswith(f"move away what is left in {old_folder}, then {link}")
    old_folder.rmdir()
    subprocess.run(link, shell=True, check=True)
    with tracking.store():
        assert mlflow.get_experiment_by_name(backend_store.EXPERIMENT).artifact_location.startswith(str(old_folder))
    backend_store.refuse_unfit_local_store()


def test_a_copied_project_must_not_write_runs_to_the_original(old_folder: Path) -> None:
    copytree(".", old_folder)
    assert refusal_of_store() == (
        f"mlflow.db is a copy of that in {old_folder}, and its runs would be written there: move mlflow.db and mlruns/ "
        "away from here; dvc repro --single-item --force register then begins a registry of this folder"
    )
    for name in ("mlflow.db", "mlruns"):
        Path(name).rename(f"{name}.old")
    backend_store.refuse_unfit_local_store()


def test_a_store_outside_the_project_may_keep_its_files_anywhere(
    old_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mlflow.db").rename("team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/team.db")
    with tracking.store():
        assert mlflow.get_experiment_by_name(backend_store.EXPERIMENT).artifact_location.startswith(str(old_folder))
    backend_store.refuse_unfit_local_store()
    Path("mlflow.db").write_text("no database at all")
    backend_store.refuse_unfit_local_store()


@pytest.mark.parametrize("kind", ["http", "postgresql"])
def test_user_and_password_of_the_store_are_never_shown(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{kind}://me:s3cret@127.0.0.1:9/x")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("landuse.tracking.backend_store.CONNECT_ATTEMPTS", 1)
    with pytest.raises(LanduseError, match=f"^MLflow at {kind}://127.0.0.1:9/x: ") as caught, tracking.store() as uri:
        assert uri == f"{kind}://127.0.0.1:9/x"
    assert "s3cret" not in str(caught.value) and "me:" not in str(caught.value)


def test_a_run_is_recreated_with_history_and_metrics_in_another_store(trained_copy: Path) -> None:
    set_model_digest("a" * 64)
    with tracking.continued_run() as run:
        pass
    recreated = MlflowClient().get_run(run.info.run_id)
    assert facts_of(recreated.data.tags)["recorded"] and recreated.info.status == "FINISHED"
    assert len(MlflowClient().get_metric_history(run.info.run_id, "train/loss")) == len(
        pd.read_csv("artifacts/history.csv")
    )
    metrics = json.loads(Path("artifacts/metrics.json").read_text())
    assert recreated.data.metrics["test/accuracy"] == metrics["accuracy"]


def test_a_run_is_recreated_only_once(trained_copy: Path) -> None:
    set_model_digest("b" * 64)
    with tracking.continued_run() as first:
        pass
    with tracking.continued_run() as second:
        pass
    assert first.info.run_id == second.info.run_id


def test_a_failing_training_leaves_a_failed_run(trained_copy: Path) -> None:
    with pytest.raises(LanduseError, match="diverged"), tracking.training_run({"device": "CPU"}):
        run = mlflow.active_run()
        raise LanduseError("diverged")
    assert MlflowClient().get_run(run.info.run_id).info.status == "FAILED"


@pytest.fixture
def leave_run(trained: Path) -> Iterator[Callable[..., str]]:
    """A function that creates a RUNNING run, as a killed process leaves it, and returns its id."""
    client, runs = MlflowClient(), []

    def create(**tags: str) -> str:
        experiment = client.get_experiment_by_name(backend_store.EXPERIMENT)
        labels = names.machine_tags(tags)
        runs.append(client.create_run(experiment.experiment_id, tags=labels).info.run_id)
        return runs[-1]

    with tracking.store():
        yield create
    for run in runs:
        client.delete_run(run)


def status(run: str) -> str:
    return MlflowClient().get_run(run).info.status


def test_only_runs_whose_process_died_are_marked_as_killed(leave_run: Callable[..., str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        killed, mine, foreign = leave_run(**identity(worker.pid)), leave_run(**identity()), leave_run()
        tracking.end_lost_runs()
        assert [status(run) for run in (killed, mine, foreign)] == ["RUNNING"] * 3
        worker.kill()
    tracking.end_lost_runs()
    assert [status(run) for run in (killed, mine, foreign)] == ["KILLED", "RUNNING", "RUNNING"]


def test_the_next_training_or_evaluation_ends_lost_runs(leave_run: Callable[..., str]) -> None:
    dead = identity() | {STARTED: "1.00"}
    first = leave_run(**dead)
    with pytest.raises(LanduseError), tracking.training_run({}):
        run = mlflow.active_run().info.run_id
        assert status(first) == "KILLED" and identity().items() <= facts_of(mlflow.active_run().data.tags).items()
        raise LanduseError("diverged")
    MlflowClient().delete_run(run)
    second = leave_run(**dead)
    with tracking.continued_run() as continued:
        assert status(second) == "KILLED" and status(continued.info.run_id) == "RUNNING"
    assert identity().items() <= facts_of(MlflowClient().get_run(continued.info.run_id).data.tags).items()


def test_validation_result_manifest_page_and_data_docs_are_logged(trained_copy: Path) -> None:
    with tracking.continued_run() as run:
        tracking.log_validation()
    logged = {item.path for item in MlflowClient().list_artifacts(run.info.run_id, "validation")}
    assert logged == {
        f"validation/{name}" for name in ("manifest.parquet", "validation.json", "validation.html", "data_docs")
    }


def test_data_docs_of_another_manifest_are_not_logged(trained_copy: Path) -> None:
    Path("artifacts/data_docs/manifest.sha256").write_text("0" * 64)
    with tracking.store(), mlflow.start_run() as run:
        tracking.log_validation()
    assert not MlflowClient().list_artifacts(run.info.run_id, "validation/data_docs")


def test_a_store_of_an_unknown_kind_is_reported_in_one_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = assert_refused("ftp://example.org/mlflow", "check MLFLOW_TRACKING_URI", monkeypatch)
    assert not isinstance(refusal, Unavailable), "a retry would not help"


def test_a_server_that_does_not_answer_is_unavailable(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    refusal = assert_refused("http://127.0.0.1:9", "failed; check MLFLOW_TRACKING_URI", monkeypatch)
    assert isinstance(refusal, Unavailable)  # no server listens there


def test_a_missing_database_driver_is_reported_in_one_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused("mysql://127.0.0.1/x", "No module named 'MySQLdb'; install it with pip", monkeypatch)


@pytest.mark.parametrize(
    "uri",
    [
        "databricks://profile:planted-token",
        "databricks://planted-token",
        "databricks-uc://planted:token",
        "postgresql+psycopg2://me:planted@127.0.0.1:1/db?password=planted-too",
        "postgresql://me:plan@ted/pass#word[1@127.0.0.1:1/db",
        "mysql://me:planted%40%2F%23@127.0.0.1/db",
        "mysql://me:planted[1@127.0.0.1/db",
        "mssql+pyodbc://me:planted@host/db",
        "http://me:planted%40%2F@127.0.0.1:9",
        "http://me:planted[1@127.0.0.1:9",
        "http://me:pass/planted@127.0.0.1:9",
        "http://me:planted#1@127.0.0.1:9",
        "http://me:planted",
        "http://127.0.0.1:9/?token=planted",
        "ftp://me:planted@example.org/mlflow",
        "somewhere://me:planted@example.org",
    ],
)
def test_no_error_of_the_store_shows_its_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("landuse.tracking.backend_store.CONNECT_ATTEMPTS", 2)  # MLflow warns of the first failure
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(LanduseError) as refused, tracking.store():
        pass
    output = "".join([str(refused.value), *capfd.readouterr()])
    assert uri.partition(":")[0] in output and "MLFLOW_TRACKING_URI" in output
    assert not re.search("planted|ted/pass|word.1", output)


@pytest.mark.parametrize(
    ("origin", "recorded"),
    [
        ("https://user:planted@host/x.git", "https://host/x.git"),
        ("https://user:plan/ted@host/x.git", "https://…"),
        ("https://host/x.git?private_token=planted", "https://host/x.git"),
        ("git@host:x/y.git", "git@host:x/y.git"),
    ],
)
def test_only_the_public_part_of_the_git_remote_is_recorded(
    origin: str, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    (tmp_path / "landuse").touch()
    for command in (["init"], ["add", "."], [*author, "commit", "-m", "Begin"], ["remote", "add", "origin", origin]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "landuse")])
    keep_origin_public()
    for context in contexts._run_context_provider_registry:
        if isinstance(context, GitRunContext):
            monkeypatch.setattr(context, "_cache", {})  # each caches its tags per process
    assert contexts.resolve_tags()["mlflow.source.git.repoURL"] == recorded


def test_a_damaged_store_is_reported_in_one_line_with_a_remedy(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, though it was one " * 100)
    remedy = "file is not a database; the file is damaged: put your backup of it in its place"
    assert_refused(f"sqlite:///{tmp_path}/mlflow.db", remedy, monkeypatch)


def test_a_full_disk_is_distinguished_from_a_store_that_is_down() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError) as full:
            database.execute("CREATE TABLE runs (id)")
    message = backend_store.with_remedy(f"(sqlite3.OperationalError) {full.value}\n[SQL: CREATE TABLE runs (id)]")
    assert message == (
        "(sqlite3.OperationalError) database or disk is full; free some space, then the same command goes on"
    )


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (NO_RESPONSE, 75, "and that it is up"),
        (500, 75, "and that it is up"),
        (403, 1, "let this user read and write there"),
    ],
)
def test_a_failed_upload_is_reported_in_one_line(trained: Path, status: int, code: int, remedy: str) -> None:
    response = Response()
    response.status_code, response.url, response.reason = status, "http://store/run/file", "no"
    with pytest.raises(LanduseError) as refusal, tracking.store():
        if status == NO_RESPONSE:
            raise RequestsConnectionError("no response")
        response.raise_for_status()
    assert refusal.value.exit_code == code
    assert remedy in str(refusal.value) and "\n" not in str(refusal.value)


def assert_refused(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> LanduseError:
    """Check the one-line error of opening a store, and return it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(LanduseError) as refusal, tracking.store():
        pass
    assert message in str(refusal.value)
    assert uri in str(refusal.value) and "\n" not in str(refusal.value)
    return refusal.value


def test_a_damaged_run_file_is_reported_with_a_remedy(trained_copy: Path) -> None:
    Path("artifacts/run.json").write_text('{"params"')
    with pytest.raises(LanduseError, match=r"artifacts/run\.json.*dvc"), tracking.continued_run():
        pass
