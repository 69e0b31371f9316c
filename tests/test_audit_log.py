"""Tests of the ledger: the history of champions, and the lock on changing them."""

import socket
from pathlib import Path
from threading import Timer
from time import time

import psutil
import pytest
from mlflow import MlflowClient

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.process import BOOT, HOST, STARTED, identity
from landuse.registry import audit_log
from landuse.registry.audit_log import CREATED_TAG, DONE, OPEN, UNDONE, Entry

NAME = "gallery"
OTHER_HOST = {HOST: "elsewhere", BOOT: "another start"}


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test a copy of the store."""


def entry(action: str, before: str | None, after: str | None, opened: float | None = None, **tags: str) -> Entry:
    """An entry of this process, opened now unless a time is given."""
    opened = time() if opened is None else opened
    moves = {key: value for key, value in {"from": before, "to": after}.items() if value is not None}
    return Entry("id", DONE, opened, identity() | {"action": action, "model": NAME} | moves | tags)


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


def test_a_deleted_ledger_is_an_error_and_not_an_empty_ledger() -> None:
    experiment = audit_log.ensure_experiment()
    MlflowClient().delete_experiment(experiment)
    remedy = f"mlflow experiments restore --experiment-id {experiment}$"
    with pytest.raises(LanduseError, match=f"was deleted in MLflow: {remedy}"):
        audit_log.entries(NAME)
    MlflowClient().restore_experiment(experiment)
    assert audit_log.entries(NAME) == []


def test_an_entry_of_another_host_becomes_an_orphan_after_an_hour() -> None:
    now = time()
    assert not entry("promote", None, None, now - 3500, **OTHER_HOST).is_orphan()
    assert entry("promote", None, None, now - 3700, **OTHER_HOST).is_orphan()
    assert entry("promote", None, None, now - 3700).is_orphan(), "even if its process is alive"


def wait_for_turn(mine: Entry) -> list[str]:
    """Wait for the lock; return the ids of orphans."""
    return [orphan.id for orphan in audit_log.wait_for_turn(mine)]


def test_the_younger_of_two_live_entries_fails_and_names_the_older() -> None:
    with tracking.store():
        older = audit_log.open_entry(NAME, "rollback", "older")
        younger = audit_log.open_entry(NAME, "promote", "younger")
        with pytest.raises(LanduseError, match="another rollback of gallery is under way, by .* since 20.*try again"):
            wait_for_turn(younger)
        audit_log.close_entry(younger, UNDONE)
        assert wait_for_turn(older) == []


def test_the_older_of_two_live_entries_waits_for_the_younger() -> None:
    with tracking.store():
        older = audit_log.open_entry(NAME, "promote", "older")
        younger = audit_log.open_entry(NAME, "promote", "younger")
        timer = Timer(0.2, audit_log.close_entry, (younger, UNDONE))
        timer.start()
        assert wait_for_turn(older) == []
        timer.join()
        assert audit_log.entries(NAME, OPEN) == [older]


def test_the_older_entry_fails_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "WAIT_SECONDS", 0.1)
    with tracking.store():
        older = audit_log.open_entry(NAME, "promote", "older")
        audit_log.open_entry(NAME, "promote", "younger")
        with pytest.raises(LanduseError, match="is under way"):
            wait_for_turn(older)


def test_orphans_and_entries_of_other_models_do_not_block() -> None:
    with tracking.store():
        orphan = audit_log.open_entry(NAME, "promote", "left behind")
        MlflowClient().set_tag(orphan.id, STARTED, "1.0")
        audit_log.open_entry("another", "promote", "of another model")
        assert wait_for_turn(audit_log.open_entry(NAME, "promote", "mine")) == [orphan.id]
