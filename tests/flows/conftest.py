"""Fixtures of the flow tests: an empty folder with captured run logs, and a project on real servers."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path
from shutil import copytree

import pytest
from fresh import NEVER, Fresh, receiver, running_project, signed_in, wait_for
from processes import ROOT
from workspace import Workspace

from landuse.core.paths import INBOX, SERVICES
from pipelines.steps import commands

LEAD_TIME = timedelta(minutes=2)


@pytest.fixture(scope="session")
def webhook() -> Iterator[HTTPServer]:
    """An HTTP server that receives notifications of failures, refusals and promotions."""
    with receiver() as server:
        yield server


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, webhook: HTTPServer) -> Iterator[Fresh]:
    """A new project right after its first `make up`; its schedule is due within three minutes."""
    folder = tmp_path_factory.mktemp("fresh")
    with running_project(folder) as fresh:
        due = datetime.now(UTC) + LEAD_TIME + timedelta(minutes=1)
        fresh.work.replace("prefect.yaml", NEVER, f"{due.minute} {due.hour} * * *")
        fresh.work.commit()
        copytree(fresh.work.folder, folder / "bare")
        fresh.pipelines("up")
        with signed_in(fresh):
            yield fresh


@pytest.fixture(scope="session")
def bare(fresh: Fresh) -> Workspace:
    """A copy of the project in which only `landuse ingest` and `dvc repro` ran."""
    work = Workspace(fresh.work.folder.parent / "bare", fresh.work.weights)
    work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    return work


@pytest.fixture(scope="session")
def scheduled(fresh: Fresh, bare: Workspace) -> dict:
    """The scheduled run, which trained the first champion; `bare` runs until it is due."""
    run = wait_for(lambda: next(iter(fresh.runs("retraining")), None), 600)
    return fresh.wait_until_completed(run["id"])


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """An empty working folder with the folders of the flows; run logs go to caplog."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("run"))
    caplog.set_level(logging.INFO)
    SERVICES.mkdir()
    INBOX.mkdir()
    return tmp_path
