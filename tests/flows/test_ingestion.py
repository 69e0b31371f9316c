"""Ingestion: the commands of the flow in their order, and that refused images go to quarantine and no further."""

import logging
from pathlib import Path

import pytest
import tiny

from landuse.core.errors import Refused
from landuse.core.paths import INBOX, QUARANTINE
from pipelines import ingestion
from pipelines.services import inbox
from pipelines.steps.commands import CommandFailed

Commands = list[tuple[str, ...]]


@pytest.fixture
def commands(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands that the flow called, without effect, in a project with a remote."""
    called: Commands = []
    monkeypatch.setattr(ingestion, "run", lambda *command, **_: called.append(command))
    monkeypatch.setattr(ingestion, "with_retries", lambda task: task.fn)
    monkeypatch.setattr(ingestion, "has_remote", lambda: True)
    monkeypatch.setattr(inbox, "get_run_logger", lambda: logging.getLogger("run"))
    tiny.write_params(work_dir, {"pipelines": {"settle_seconds": 0}})
    return called


def test_the_newest_arrival_is_fetched_ingested_and_pushed_to_the_remote(commands: Commands) -> None:
    (INBOX / "set.zip").touch()
    assert ingestion.ingestion.fn() is False, "data.dvc is as before"
    arrival = "inbox/set.zip"
    assert commands == [("landuse", "fetch", arrival), ("landuse", "ingest", arrival), ("dvc", "push", "data.dvc")]
    assert [path.name.partition("-")[2] for path in inbox.DONE.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("verb", ["fetch", "ingest"])
def test_an_arrival_that_is_refused_goes_to_quarantine_and_is_not_pushed(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def run(*command: str, **_: object) -> None:
        commands.append(command)
        if command[1] == verb:
            raise CommandFailed("it is damaged", Refused.exit_code)

    monkeypatch.setattr(ingestion, "run", run)
    (INBOX / "set.zip").touch()
    with pytest.raises(CommandFailed, match="it is damaged"):
        ingestion.ingestion.fn()
    [reason] = QUARANTINE.glob("*/refused.txt")
    assert reason.read_text() == "it is damaged\n" and inbox.list_arrivals() == []
    assert commands[-1][:2] == ("landuse", verb)
