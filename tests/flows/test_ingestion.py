"""Ingestion: the commands of the flow in their order, and that refused images go to quarantine and no further."""

import logging
import time
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


# Additions


@pytest.fixture
def added(commands: Commands, work_dir: Path) -> Commands:
    """The same, in a project where arrivals join the data set."""
    tiny.write_params(work_dir, {"pipelines": {"settle_seconds": 0}, "data": {"arrivals": "add"}})
    return commands


def arrive(*names: str) -> None:
    for name in names:
        (INBOX / name).touch()
        time.sleep(0.02)


def test_all_arrivals_are_added_in_their_order_and_none_is_superseded(added: Commands) -> None:
    arrive("c.zip", "a.zip", "b.zip")
    ingestion.ingestion.fn()
    ingested = [command for command in added if command[1] == "ingest"]
    assert ingested == [("landuse", "ingest", "--add", f"inbox/{name}.zip") for name in "cab"]
    assert {path.name.partition("-")[2] for path in inbox.DONE.iterdir()} == {"a.zip", "b.zip", "c.zip"}
    assert not inbox.SUPERSEDED.exists() and added[-1] == ("dvc", "push", "data.dvc")


def test_an_addition_that_is_refused_does_not_hold_up_the_others(
    added: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(["old", "new", "new"])
    monkeypatch.setattr(ingestion, "data_version", lambda: next(versions))

    def run(*command: str, **_: object) -> None:
        added.append(command)
        if command == ("landuse", "ingest", "--add", "inbox/bad.zip"):
            raise CommandFailed("it is damaged", Refused.exit_code)

    monkeypatch.setattr(ingestion, "run", run)
    arrive("first.zip", "bad.zip", "last.zip")
    with pytest.raises(CommandFailed, match="it is damaged"):
        ingestion.ingestion.fn()
    assert [path.name.partition("-")[2] for path in sorted(inbox.DONE.iterdir())] == ["first.zip", "last.zip"]
    assert len([*QUARANTINE.glob("*/refused.txt")]) == 1 and added[-1] == ("dvc", "push", "data.dvc")


def test_after_another_failure_later_additions_wait_for_the_next_run(
    added: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*command: str, **_: object) -> None:
        raise CommandFailed("the disk is full", 1)

    monkeypatch.setattr(ingestion, "run", run)
    arrive("first.zip", "last.zip")
    with pytest.raises(CommandFailed, match="the disk is full"):
        ingestion.ingestion.fn()
    assert [path.name for path in inbox.list_arrivals()] == ["first.zip", "last.zip"]


def test_a_source_that_a_run_is_given_is_added_and_data_source_is_not(added: Commands) -> None:
    ingestion.ingestion.fn(source="own.zip")
    ingestion.ingestion.fn()
    ingested = [command for command in added if command[1] == "ingest"]
    assert ingested == [("landuse", "ingest", "--add", "own.zip"), ("landuse", "ingest")]
