"""Fixtures of the flow tests: an empty folder with captured run logs, and a project on real servers."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path

import pytest
from fresh import Fresh, receiver, running_project, signed_in
from processes import ROOT
from waiting import wait_for
from workspace import NOT_YET, Workspace, copy_project

from landuse.core.paths import INBOX, SERVICES
from pipelines.steps import commands

LEAD_TIME = timedelta(seconds=100)  # at least 40 s before the full minute, which are left to make up


@pytest.fixture(scope="session")
def webhook() -> Iterator[HTTPServer]:
    """An HTTP server that receives notifications of failures, refusals and promotions."""
    with receiver() as server:
        yield server


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, untouched: Workspace, webhook: HTTPServer) -> Iterator[Fresh]:
    """A new project right after its first `make up`."""
    with running_project(copy_project(untouched, tmp_path_factory.mktemp("fresh") / "project")) as fresh:
        fresh.pipelines("up")
        with signed_in(fresh):
            yield fresh


@pytest.fixture(scope="session")
def scheduled(fresh: Fresh, request: pytest.FixtureRequest) -> Iterator[dict]:
    """The run of a schedule that `make up` takes over and that is due soon after; it trained the first champion."""
    due = datetime.now(UTC) + LEAD_TIME
    fresh.work.replace("prefect.yaml", NOT_YET, f"{due.minute} {due.hour} * * *")
    fresh.pipelines("up")
    request.getfixturevalue("whole_run")  # which others need; it is built while this one waits
    run = wait_for(lambda: next(iter(fresh.runs("retraining")), None), 600)
    yield fresh.wait_until_completed(run["id"])


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
