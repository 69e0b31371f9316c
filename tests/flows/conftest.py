"""Flows on real servers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from shutil import copytree

import pytest
from fresh import Fresh, kept_fresh, receiver
from workspace import Workspace

BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
text = {"text": "{{subject}}: {{body}}"}
CustomWebhookNotificationBlock(name="team", url=sys.argv[1], json_data=text).save("team", overwrite=True)
"""
AHEAD = timedelta(seconds=45)


@pytest.fixture(scope="session")
def told() -> Iterator[HTTPServer]:
    """Whoever is told of failures, refusals and promotions."""
    with receiver() as server:
        yield server


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, told: HTTPServer) -> Iterator[Fresh]:
    """A new project that was just started for the first time; its schedule is due within two minutes."""
    folder = tmp_path_factory.mktemp("fresh")
    with kept_fresh(folder) as fresh:
        due = datetime.now(UTC) + AHEAD + timedelta(minutes=1)
        deployments = fresh.work.folder / "prefect.yaml"
        deployments.write_text(deployments.read_text().replace("0 3 * * *", f"{due.minute} {due.hour} * * *"))
        fresh.work.commit()
        copytree(fresh.work.folder, folder / "bare")
        fresh.pipelines("up")
        yield fresh


@pytest.fixture(scope="session")
def bare(fresh: Fresh) -> Workspace:
    """The same project, in which nothing but `landuse ingest` and `dvc repro` ran."""
    work = Workspace(fresh.work.folder.parent / "bare", fresh.work.weights)
    work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    return work


@pytest.fixture(scope="session")
def scheduled(fresh: Fresh) -> dict:
    """The run that the schedule started, which trained the first champion."""
    from fresh import wait_for

    run = wait_for(lambda: next(iter(fresh.runs("retraining")), None), 180)
    return fresh.completed(run["id"])
