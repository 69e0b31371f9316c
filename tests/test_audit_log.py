"""Tests of the ledger: the history of champions."""

import socket
from pathlib import Path
from time import time

import psutil
import pytest
from mlflow import MlflowClient

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.process import BOOT, STARTED, identity
from landuse.registry import audit_log
from landuse.registry.audit_log import CREATED_TAG, DONE, OPEN, Entry

NAME = "gallery"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test a copy of the store."""


def entry(action: str, before: str | None, after: str | None, **tags: str) -> Entry:
    """A finished entry of this process."""
    moves = {key: value for key, value in {"from": before, "to": after}.items() if value is not None}
    return Entry("id", DONE, time(), identity() | {"action": action, "model": NAME} | moves | tags)


@pytest.mark.parametrize(
    ("moves", "champions"),
    [
        ([], []),
        ([("promote", None, "1")], ["1"]),
        ([("promote", None, "1"), ("promote", "1", "2"), ("force", "2", "3")], ["1", "2", "3"]),
        ([("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1")], ["1"]),
        ([("promote", None, "1"), ("promote", "1", "2"), ("promote", "2", "1"), ("rollback", "1", "2")], ["1", "2"]),
        ([("promote", "1", "2")], ["1", "2"]),
        ([("promote", None, "1"), ("force", "2", "3")], ["1", "2", "3"]),
        ([("promote", None, "1"), ("force", "2", "2")], ["1", "2"]),
        ([("promote", None, "1"), ("repair", None, None)], ["1"]),
    ],
)  # fmt: skip
def test_champions_are_replayed_from_the_entries(moves: list[tuple], champions: list[str]) -> None:
    assert audit_log.champions([entry(*move) for move in moves]) == champions


def test_entries_are_filtered_by_model_and_status_and_sorted_by_age() -> None:
    with tracking.store():
        first = audit_log.open_entry(NAME, "promote", "one")
        audit_log.close_entry(first, DONE, "well done")
        second = audit_log.open_entry(NAME, "rollback", "two")
        audit_log.open_entry("another", "promote", "three")
        assert [entry.id for entry in audit_log.entries(NAME)] == [first.id, second.id]
        assert [entry.id for entry in audit_log.entries(NAME, OPEN)] == [second.id]
        (done,) = audit_log.entries(NAME, DONE)
    assert done.tags["note"] == "well done" and done.tags["who"].endswith(f"@{socket.gethostname()}")
    assert (done.action, done.before, done.after) == ("promote", None, None)


def test_finished_entries_are_sorted_by_number_regardless_of_clocks() -> None:
    with tracking.store():
        for number in ("2", "1"):
            opened = audit_log.open_entry(NAME, "promote", number)
            audit_log.add_tags(opened, {"number": number, "to": number})
            audit_log.close_entry(opened, DONE)
        assert [entry.after for entry in audit_log.finished_entries(NAME)] == ["1", "2"]


def test_an_older_entry_that_does_not_say_of_which_model_it_is_counts() -> None:
    with tracking.store():
        opened = audit_log.open_entry(NAME, "promote", "before there was such a tag")
        MlflowClient().delete_tag(opened.id, CREATED_TAG)
        audit_log.close_entry(opened, DONE)
        assert [entry.id for entry in audit_log.finished_entries(NAME)] == [opened.id]


def test_entries_are_read_from_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **kwargs: search(*args, **kwargs, max_results=2))
    with tracking.store():
        opened = [audit_log.open_entry(NAME, "promote", str(number)).id for number in range(5)]
        assert sorted(opened) == sorted(entry.id for entry in audit_log.entries(NAME))


def test_an_entry_becomes_an_orphan_when_its_process_dies() -> None:
    process = psutil.Popen(["sleep", "60"])
    tags = identity(process.pid)
    assert not entry("promote", None, None, **tags).is_orphan()
    process.kill()
    process.wait()
    assert entry("promote", None, None, **tags).is_orphan()


def test_a_reused_process_id_does_not_keep_an_entry_alive() -> None:
    assert not entry("promote", None, None).is_orphan()
    assert entry("promote", None, None, **{STARTED: "1.0"}).is_orphan()


def test_a_dead_process_of_another_machine_that_has_the_same_name_is_not_known_to_be_dead() -> None:
    assert not entry("promote", None, None, **{STARTED: "1.0", BOOT: "of another machine"}).is_orphan()


def test_a_deleted_ledger_is_an_error_and_not_an_empty_ledger() -> None:
    experiment = audit_log.ensure_experiment()
    MlflowClient().delete_experiment(experiment)
    remedy = f"mlflow experiments restore --experiment-id {experiment}$"
    with pytest.raises(LanduseError, match=f"was deleted in MLflow: {remedy}"):
        audit_log.entries(NAME)
    MlflowClient().restore_experiment(experiment)
    assert audit_log.entries(NAME) == []
