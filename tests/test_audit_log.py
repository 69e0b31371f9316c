"""The ledger tells who became champion, and who may move the champion next."""

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
from landuse.registry.audit_log import DONE, OPEN, UNDONE, Entry

NAME = "gallery"
ELSEWHERE = {HOST: "elsewhere", BOOT: "another start"}


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Every test has a store of its own."""


def entry(action: str, before: str | None, after: str | None, opened: float | None = None, **tags: str) -> Entry:
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
def test_the_champions_follow_from_the_entries(moves: list[tuple], champions: list[str]) -> None:
    assert audit_log.champions([entry(*move) for move in moves]) == champions


def test_entries_come_back_by_model_and_status_the_oldest_first() -> None:
    with tracking.store():
        first = audit_log.open_entry(NAME, "promote", "one")
        audit_log.close(first, DONE, "well done")
        second = audit_log.open_entry(NAME, "rollback", "two")
        audit_log.open_entry("another", "promote", "three")
        assert [found.id for found in audit_log.entries(NAME)] == [first.id, second.id]
        assert [found.id for found in audit_log.entries(NAME, OPEN)] == [second.id]
        (done,) = audit_log.entries(NAME, DONE)
    assert done.tags["note"] == "well done" and done.tags["who"].endswith(f"@{socket.gethostname()}")
    assert (done.action, done.before, done.after) == ("promote", None, None)


def test_finished_entries_come_back_in_the_order_of_the_moves_whatever_the_clocks_said() -> None:
    with tracking.store():
        for number in ("2", "1"):
            opened = audit_log.open_entry(NAME, "promote", number)
            audit_log.write(opened, {"number": number, "to": number})
            audit_log.close(opened, DONE)
        assert [found.after for found in audit_log.done(NAME)] == ["1", "2"]


def test_more_entries_than_a_page_holds_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **more: search(*args, **more, max_results=2))
    with tracking.store():
        opened = [audit_log.open_entry(NAME, "promote", str(number)).id for number in range(5)]
        assert sorted(opened) == sorted(found.id for found in audit_log.entries(NAME))


def test_an_entry_is_an_orphan_once_its_process_is_dead() -> None:
    process = psutil.Popen(["sleep", "60"])
    tags = identity(process.pid)
    assert not entry("promote", None, None, **tags).orphaned()
    process.kill()
    process.wait()
    assert entry("promote", None, None, **tags).orphaned()


def test_another_process_with_the_same_number_is_not_taken_for_the_one_that_died() -> None:
    assert not entry("promote", None, None).orphaned()
    assert entry("promote", None, None, **{STARTED: "1.0"}).orphaned()


def test_a_ledger_that_was_deleted_is_no_empty_ledger() -> None:
    id = audit_log.experiment_id()
    MlflowClient().delete_experiment(id)
    with pytest.raises(LanduseError, match=f"was deleted in MLflow: mlflow experiments restore --experiment-id {id}$"):
        audit_log.entries(NAME)
    MlflowClient().restore_experiment(id)
    assert audit_log.entries(NAME) == []


def test_an_entry_of_another_host_is_an_orphan_after_an_hour() -> None:
    now = time()
    assert not entry("promote", None, None, now - 3500, **ELSEWHERE).orphaned()
    assert entry("promote", None, None, now - 3700, **ELSEWHERE).orphaned()
    assert entry("promote", None, None, now - 3700).orphaned(), "a process that lives on forgot about it"


def turn_of(mine: Entry) -> list[str]:
    return [orphan.id for orphan in audit_log.wait_for_turn(mine)]


def test_the_younger_of_two_live_entries_gives_way_and_is_told_to_whom() -> None:
    with tracking.store():
        older = audit_log.open_entry(NAME, "rollback", "older")
        younger = audit_log.open_entry(NAME, "promote", "younger")
        with pytest.raises(LanduseError, match="another rollback of gallery is under way, by .* since 20.*try again"):
            turn_of(younger)
        audit_log.close(younger, UNDONE)
        assert turn_of(older) == []


def test_the_older_of_two_live_entries_waits_until_the_younger_is_over() -> None:
    with tracking.store():
        older = audit_log.open_entry(NAME, "promote", "older")
        younger = audit_log.open_entry(NAME, "promote", "younger")
        timer = Timer(0.2, audit_log.close, (younger, UNDONE))
        timer.start()
        assert turn_of(older) == []
        timer.join()
        assert audit_log.entries(NAME, OPEN) == [older]


def test_who_waits_in_vain_gives_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "PATIENCE", 0.1)
    with tracking.store():
        older = audit_log.open_entry(NAME, "promote", "older")
        audit_log.open_entry(NAME, "promote", "younger")
        with pytest.raises(LanduseError, match="is under way"):
            turn_of(older)


def test_orphans_and_other_models_do_not_hold_anyone_up() -> None:
    with tracking.store():
        orphan = audit_log.open_entry(NAME, "promote", "left behind")
        MlflowClient().set_tag(orphan.id, STARTED, "1.0")
        audit_log.open_entry("another", "promote", "of another model")
        assert turn_of(audit_log.open_entry(NAME, "promote", "mine")) == [orphan.id]
