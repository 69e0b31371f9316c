"""The whole job of the sample on what a team shares: workers, PostgreSQL, S3, and another member who predicts."""

import csv
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shutil import copy

import pytest
from clones import sample_clone
from compose import Machine
from dask_cluster import Workers, running_workers
from stores import BUCKET, postgresql, s3
from workspace import Workspace

pytestmark = pytest.mark.slow
REMOTE = f"s3://{BUCKET}/dvc"


@dataclass(frozen=True)
class Team:
    """A project whose images and results are on S3, with workers that read them there, and an MLflow server."""

    machine: Machine
    work: Workspace
    workers: Workers
    keys: dict[str, str]
    mlflow: dict[str, str]

    def run(self, *command: str, **more: str) -> str:
        """Run a command in the project, with the workers, the server and the keys of the DVC remote."""
        return self.work.ok(*command, **self.keys, **self.mlflow, LANDUSE_DASK=self.workers.address, **more)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Such a team, whose project has no images yet."""
    folder = tmp_path_factory.mktemp("team")
    machine, work = Machine(folder), sample_clone(folder)
    env, login = machine.environment("mlflow"), machine.environment("worker")
    keys = {name: value for name, value in env.items() if name.startswith("AWS_")}
    mlflow = {name: value for name, value in login.items() if name.startswith("MLFLOW_")}
    work.replace("params.yaml", "images: folder", "images: remote")
    work.ok("dvc", "remote", "add", "--force", "--default", "team", REMOTE)
    work.commit()
    with ExitStack() as running:
        running.enter_context(postgresql(machine))
        running.enter_context(s3(machine))
        running.enter_context(machine.run("mlflow", folder))
        (place := folder / "cluster").mkdir()
        workers = running.enter_context(running_workers(place, 0))
        for _ in range(2):
            workers.start_worker(**keys)
        yield Team(machine, work, workers, keys, mlflow)


@pytest.fixture(scope="module")
def champion(team: Team) -> str:
    """The output of the stages, by which the team's project came from images to a champion; all of it is pushed."""
    team.run("landuse", "ingest")
    team.run("dvc", "push", "data.dvc")
    output = team.run("dvc", "repro")
    team.run("landuse", "promote")
    team.run("dvc", "push")
    team.work.commit()
    return output


def test_workers_extract_what_they_read_from_the_dvc_remote(team: Team, champion: str) -> None:
    assert f"2 threads of workers at {team.workers.address} do the work" in champion
    assert "features of 399 different images: 399 computed, 0 reused" in champion
    index = next((team.work.folder / "artifacts/features/index").iterdir()).read_text()
    assert '"processors": ["' in index and "Traceback" not in team.workers.log()


def test_images_that_were_not_pushed_are_told(team: Team, champion: str) -> None:
    lonely = Workspace(team.work.folder.with_name("lonely"), team.work.weights)
    subprocess.run(["git", "clone", "--quiet", team.work.folder, lonely.folder], check=True)
    lonely.ok("dvc", "remote", "add", "--force", "--default", "team", f"{REMOTE}-of-nobody")
    lonely.ok("landuse", "ingest", **team.keys)
    lonely.ok("landuse", "validate")
    complaint = lonely.refused(
        "landuse", "extract", LANDUSE_DASK=team.workers.address, LANDUSE_FROM_SCRATCH="1", **team.keys
    )
    assert "dvc push" in complaint and "s3://" in complaint


def test_another_member_recomputes_nothing_and_predicts_with_the_champion(
    team: Team, champion: str, tmp_path: Path
) -> None:
    member = Workspace(tmp_path / "member", team.work.weights)
    subprocess.run(["git", "clone", "--quiet", team.work.folder, member.folder], check=True)
    member.ok("dvc", "pull", **team.keys)
    assert "Running stage" not in member.ok("dvc", "repro", **team.keys, **team.mlflow)
    here = team.run("landuse", "predict", "data")
    there = member.ok("landuse", "predict", "data", **team.mlflow)
    assert sorted(here.splitlines()) == sorted(there.splitlines()) and len(there.splitlines()) == 401


def test_the_champion_is_served_as_it_predicts(team: Team, champion: str, tmp_path: Path) -> None:
    copy(team.work.folder / "params.yaml", tmp_path)
    image = next((team.work.folder / "data").glob("*/*"))
    rows = csv.DictReader(StringIO(team.run("landuse", "predict", str(image))))
    assert [row["label"] for row in rows] == [team.machine.classify(image, tmp_path)["label"]]
