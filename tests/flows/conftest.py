"""What the tests of the flows share: an empty project, what a run logs, and a project on real servers."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path
from shutil import copytree

import pytest
from fresh import SELDOM, Fresh, kept_fresh, receiver, signed_in, wait_for
from processes import ROOT
from workspace import Workspace

from landuse.core.paths import INBOX, SERVICES
from pipelines.steps import commands

AHEAD = timedelta(minutes=2)


@pytest.fixture(scope="session")
def told() -> Iterator[HTTPServer]:
    """Whoever is told of failures, refusals and promotions."""
    with receiver() as server:
        yield server


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, told: HTTPServer) -> Iterator[Fresh]:
    """A new project that was just started for the first time; its schedule is due within three minutes."""
    folder = tmp_path_factory.mktemp("fresh")
    with kept_fresh(folder) as fresh:
        due = datetime.now(UTC) + AHEAD + timedelta(minutes=1)
        fresh.work.replace("prefect.yaml", SELDOM, f"{due.minute} {due.hour} * * *")
        fresh.work.commit()
        copytree(fresh.work.folder, folder / "bare")
        fresh.pipelines("up")
        with signed_in(fresh):
            yield fresh


@pytest.fixture(scope="session")
def bare(fresh: Fresh) -> Workspace:
    """The same project, in which nothing but `landuse ingest` and `dvc repro` ran."""
    work = Workspace(fresh.work.folder.parent / "bare", fresh.work.weights)
    work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    return work


@pytest.fixture(scope="session")
def scheduled(fresh: Fresh, bare: Workspace) -> dict:
    """The run that the schedule started, which trained the first champion; until it is due, `bare` is at work."""
    run = wait_for(lambda: next(iter(fresh.runs("retraining")), None), 600)
    return fresh.completed(run["id"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """An empty folder to work in, with the folders of the flows; what a run logs is in caplog."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("run"))
    caplog.set_level(logging.INFO)
    SERVICES.mkdir()
    INBOX.mkdir()
    return tmp_path
