"""The team's set-up of compose.yaml, each service as a process: from nothing to a champion that answers."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import tiny
from clones import tiny_clone
from compose import BIN, Machine, request
from stores import BUCKET, postgresql, s3, s3_client
from waiting import FINAL_STATES, wait_for
from workspace import IDENTITY, Workspace

from landuse.core.auth import authorization_header

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Team:
    """The running set-up: its machine, a client of its S3 store, and the worker with its project and environment."""

    machine: Machine
    store: Any
    work: Workspace
    worker: subprocess.Popen
    env: dict[str, str]

    @property
    def login(self) -> dict[str, str]:
        """The header of the login to both servers."""
        return {"Authorization": authorization_header(f"landuse:{self.machine.settings['LANDUSE_PASSWORD']}")}

    def prefect(self, path: str, body: object = None) -> Any:
        """Ask the Prefect server."""
        return json.loads(request(f"{self.machine.address('prefect')}/api{path}", body, **self.login)[1])


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """All services of compose.yaml but `serve`."""
    folder = tmp_path_factory.mktemp("team")
    machine, work = Machine(folder), tiny_clone(folder)
    (work.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in machine.settings.items()))
    image = {"PYTHONPATH": f"{work.folder / 'src'}:{work.folder}", "DVC_SITE_CACHE_DIR": str(folder / "dvc-site-cache")}
    with ExitStack() as running:
        running.enter_context(postgresql(machine))
        running.enter_context(s3(machine))
        store = running.enter_context(closing(s3_client(machine)))
        for name in ("mlflow", "prefect"):
            running.enter_context(machine.run(name, folder))
        worker = running.enter_context(machine.run("worker", work.folder, **image, **IDENTITY))
        yield Team(machine, store, work, worker, machine.environment("worker") | image | IDENTITY)


@pytest.fixture(scope="module")
def champion(team: Team) -> str:
    """The name of the run in which the worker went from no images to a champion."""
    deployment = team.prefect("/deployments/name/retraining/landuse")["id"]
    run = team.prefect(f"/deployments/{deployment}/create_flow_run", {})["id"]

    def ended() -> dict[str, Any] | None:
        state = team.prefect(f"/flow_runs/{run}")
        return state if state["state_type"] in FINAL_STATES else None

    end = wait_for(ended, 900)
    log = (team.work.folder / ".services" / "worker.log").read_text("utf-8", errors="replace")
    assert end["state_type"] == "COMPLETED", (end["state"], log[-3000:])
    return end["name"]


def test_both_servers_ask_for_the_login_and_mlflow_refuses_foreign_hosts(team: Team) -> None:
    mlflow, prefect = team.machine.address("mlflow"), f"{team.machine.address('prefect')}/api/admin/version"
    for address in (mlflow, prefect):
        assert request(address)[0] == 401 and request(address, **team.login)[0] == 200
    assert request(mlflow, **team.login, Host="mlflow:5000")[0] == 200, "its name among the containers"
    assert request(mlflow, **team.login, Host="attacker.example")[0] == 421


def test_a_worker_makes_a_champion_whose_files_only_mlflow_can_reach(team: Team, champion: str) -> None:
    assert champion.startswith("retrain-") and champion.endswith("-new-data")
    files = [item["Key"] for item in team.store.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(name.endswith("/artifacts/MLmodel") for name in files)
    keys = [name for name in team.machine.services["worker"]["environment"] if name.startswith(("AWS_", "PG"))]
    assert keys == [] and not {"mlflow.db", "mlruns"} & {path.name for path in team.work.folder.iterdir()}


def test_a_flow_started_beside_the_worker_shows_on_the_server_of_the_team(team: Team, champion: str) -> None:
    command = (BIN / "landuse", "flow", "training")
    done = subprocess.run(command, cwd=team.work.folder, env=team.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    query = {"flows": {"name": {"any_": ["training"]}}, "sort": "START_TIME_DESC", "limit": 1}
    [run] = team.prefect("/flow_runs/filter", query)
    assert run["state_type"] == "COMPLETED" and run["parent_task_run_id"] is None


def test_the_champion_is_served_without_git_or_a_project(team: Team, champion: str, tmp_path: Path) -> None:
    copy(team.work.folder / "params.yaml", tmp_path)
    tiny.scene("water", 0).save(image := tmp_path / "water.png")
    assert team.machine.classify(image, tmp_path)["label"] in tiny.LABELS


def test_another_project_is_refused_while_the_worker_of_the_first_works(
    team: Team, champion: str, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    subprocess.run(["git", "clone", "--quiet", team.work.folder, second], check=True)
    command = (sys.executable, "-m", "pipelines", "up")
    done = subprocess.run(command, cwd=second, env=team.env, capture_output=True, text=True)
    first = f"{team.work.folder.name} on {socket.gethostname()}"
    assert done.returncode == 1 and f"has a worker of another project, {first} (" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_worker_told_to_end_ends_what_it_started(team: Team) -> None:
    team.worker.terminate()
    assert team.worker.wait(60) == 0
    assert team.machine.log("worker").endswith(
        "inbox      ended\nworker     ended\nmlflow     was not up\nprefect    was not up\n"
    )
