"""Tests of champion changes: all or nothing, whatever interrupts them; ledger and aliases always agree."""

import subprocess
import sys
from pathlib import Path
from time import sleep

import gallery
import pytest
from gallery import NAME, aliases, assert_consistent, make_champion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from landuse import registry, tracking
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.process import STARTED
from landuse.gate import check_rollback
from landuse.promote.rollback import rollback
from landuse.registry import audit_log, lock, transition
from landuse.registry.audit_log import DONE, OPEN, UNDONE, Entry
from landuse.registry.smoke_test import check_answers
from landuse.registry.transition import change_champion, current_champion

CHILD = Path(__file__).with_name("killed.py")
STEPS = ("open_entry", "add_tags", "attach_blessing", "set_alias", "set_alias again", "check_loads", "close_entry")


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test a copy of the registry."""


def test_a_new_champion_moves_both_aliases_and_its_blessing_is_in_the_ledger(smoke_in_process: None) -> None:
    make_champion(1)
    assert aliases() == {"champion": "1"}
    make_champion(3)
    assert aliases() == {"champion": "3", "previous_champion": "1"}
    with tracking.store():
        first, second = audit_log.entries(NAME)
        assert audit_log.load_blessing(second) == {"version": "3"}
    assert (first.before, first.after, second.before, second.after) == (None, "1", "1", "3")
    assert first.status == second.status == DONE
    assert second.tags.items() >= {"action": "promote", "why": "a test"}.items()


def break_model(number: object) -> None:
    version = registry.get_version(NAME, str(number))
    folder = MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location
    path = Path(folder.removeprefix("file://"), "artifacts", "model", "model.tflite")
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("before", [None, 1], ids=["the first champion", "with a champion before"])
def test_a_champion_that_does_not_load_is_reverted(smoke_in_process: None, before: int | None) -> None:
    if before:
        make_champion(before)
    previous, version = aliases(), gallery.register_twin(1).version
    break_model(version)
    with pytest.raises(LanduseError, match=f"gallery version {version} is damaged"):
        make_champion(version)
    assert aliases() == previous
    with tracking.store():
        last = audit_log.entries(NAME)[-1]
    assert last.status == UNDONE and "is damaged" in last.tags["note"]


def test_an_interrupted_change_is_reverted(smoke_in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    make_champion(1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transition, "check_loads", interrupt)
        make_champion(2)
    assert assert_consistent() == "1"


def test_a_champion_that_changed_meanwhile_is_not_replaced(smoke_in_process: None) -> None:
    with tracking.store():
        expected = current_champion(NAME)
        make_champion(1)
        with pytest.raises(LanduseError, match="the champion of gallery became version 1 meanwhile: try again"):
            change_champion(NAME, "2", "promote", "late", expected, None)
    assert assert_consistent() == "1"


def test_an_alias_moved_by_hand_is_detected_and_settled_by_force(smoke_in_process: None) -> None:
    make_champion(1)
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")
    with tracking.store(), pytest.raises(LanduseError, match="champion of gallery is version 2, by the ledger it is"):
        current_champion(NAME)
    with tracking.store():
        champion = current_champion(NAME, check_ledger=False)
        change_champion(NAME, "3", "force", "after a look at it", champion, None)
    assert aliases() == {"champion": "3", "previous_champion": "2"}
    assert assert_consistent() == "3"


def test_a_champion_alias_removed_by_hand_is_detected(smoke_in_process: None) -> None:
    make_champion(1)
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    with tracking.store(), pytest.raises(LanduseError, match="champion of gallery is gone, by the ledger it is"):
        current_champion(NAME)


def test_there_is_no_champion_after_its_version_was_deleted(smoke_in_process: None) -> None:
    make_champion(1)
    make_champion(2)
    MlflowClient().delete_model_version(NAME, "2")
    with tracking.store():
        assert current_champion(NAME) is None
    assert rollback(NAME) == "1"


def test_a_recreated_model_of_the_same_name_has_no_history(smoke_in_process: None) -> None:
    make_champion(1)
    make_champion(2)
    rollback(NAME)
    sources = [MlflowClient().get_model_version(NAME, str(number)).source for number in (1, 2)]
    MlflowClient().delete_registered_model(NAME)
    with tracking.store():
        MlflowClient().create_registered_model(NAME)
        for source in sources:
            MlflowClient().create_model_version(NAME, source)
        assert current_champion(NAME) is None and audit_log.finished_entries(NAME) == []
        assert list(check_rollback(registry.get_version(NAME, "2"))) == []
        assert len(audit_log.entries(NAME)) == 3, "history still shows them"


def test_a_rollback_goes_back_by_one_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "check_loads", lambda *_: None)
    for number in (1, 2, 3):
        make_champion(number)
    assert rollback(NAME) == "2" and aliases() == {"champion": "2", "previous_champion": "1"}


@pytest.mark.slow
def test_a_returning_champion_is_not_its_own_predecessor_after_a_deletion(smoke_in_process: None) -> None:
    for number in (3, 1, gallery.register_twin(1).version, 1):
        make_champion(number)
    MlflowClient().delete_model_version(NAME, aliases()["previous_champion"])
    make_champion(4)
    rollback(NAME)
    assert aliases() == {"champion": "1", "previous_champion": "3"}


@pytest.mark.slow
def test_a_rollback_skips_a_deleted_champion(smoke_in_process: None) -> None:
    for number in (1, 2, 3):
        make_champion(number)
    MlflowClient().delete_model_version(NAME, "2")
    assert rollback(NAME) == "1"
    assert aliases() == {"champion": "1"}


def make_move(kind: str, number: str, stack: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a move in the registry, and update the stack of expected champions, the current one last."""
    if kind == "rollback":
        if len(stack) < 2:
            with pytest.raises(LanduseError, match="no champion to go back to"):
                rollback(NAME)
        else:
            stack.pop()
            assert rollback(NAME) == stack[-1]
    elif kind in ("promote", "force"):
        make_champion(number, kind)
        stack.extend([] if stack[-1:] == [number] else [number])
    else:
        error = LanduseError("does not load") if kind == "fail" else KeyboardInterrupt()
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(transition, "check_loads", lambda *_: raise_error(error))
            make_champion(number)


def raise_error(error: BaseException) -> None:
    raise error


def sequences(longest: int) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Generate lists of moves with their versions."""
    kinds = st.sampled_from(["promote", "force", "rollback", "fail", "interrupt"])
    return st.lists(st.tuples(kinds, st.sampled_from("1234")), min_size=2, max_size=longest)


def reset_registry() -> None:
    """Remove all aliases and all ledger entries."""
    for alias in aliases():
        registry.set_alias(NAME, alias, None)
    with tracking.store():
        for entry in audit_log.entries(NAME):
            MlflowClient().delete_run(entry.id)


def assert_agree_after(moves: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the moves in an empty registry; after each, ledger and aliases must match the expected champions."""
    reset_registry()
    stack: list[str] = []
    for kind, number in moves:
        make_move(kind, number, stack, monkeypatch)
        assert aliases() == dict(zip(("champion", "previous_champion"), stack[:-3:-1], strict=False))
        with tracking.store():
            assert audit_log.champions(audit_log.finished_entries(NAME)) == stack
            assert audit_log.entries(NAME, OPEN) == []
    assert not stack or assert_consistent() == stack[-1]


SHARED_REGISTRY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@settings(SHARED_REGISTRY, max_examples=3)
@given(moves=sequences(8))
def test_ledger_and_aliases_agree_after_short_sequences_of_moves(
    smoke_in_process: None, monkeypatch: pytest.MonkeyPatch, moves: list[tuple[str, str]]
) -> None:
    assert_agree_after(moves, monkeypatch)


@pytest.mark.slow
@settings(SHARED_REGISTRY, max_examples=20)
@given(moves=sequences(30))
def test_ledger_and_aliases_agree_after_long_sequences_of_moves(
    smoke_in_process: None, monkeypatch: pytest.MonkeyPatch, moves: list[tuple[str, str]]
) -> None:
    assert_agree_after(moves, monkeypatch)


@pytest.mark.slow
def test_of_concurrent_promotions_one_wins_and_the_others_report_it(smoke_in_process: None, tmp_path: Path) -> None:
    make_champion(4)
    start = tmp_path / "start"
    children = [subprocess.Popen([sys.executable, CHILD, "99", str(number), start], stderr=subprocess.PIPE, text=True)
                for number in (1, 2, 3)]  # fmt: skip
    while len(list(tmp_path.glob("start.*"))) < 3:  # until each has seen version 4 as the champion
        assert all(child.poll() is None for child in children)
        sleep(0.05)
    start.touch()
    outputs = [child.communicate()[1] for child in children]
    [winner] = [number for number, child in enumerate(children, start=1) if child.returncode == 0]
    assert assert_consistent() == str(winner) and aliases()["previous_champion"] == "4"
    for child, output in zip(children, outputs, strict=True):
        assert child.returncode == 0 or "is under way" in output or "meanwhile: try again" in output


def run_child(step: int, number: int) -> subprocess.CompletedProcess[str]:
    """Run a process that makes a version the champion and is killed before the step of that number."""
    return subprocess.run([sys.executable, CHILD, str(step), str(number)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
def test_a_killed_change_is_finished_or_undone_by_the_next_command(smoke_in_process: None, step: int) -> None:
    make_champion(1)
    make_champion(4)
    child = run_child(step, 2)
    assert child.returncode == -9, child.stderr
    champion = aliases()["champion"]
    assert champion in ("4", "2"), "there always is a champion"
    with tracking.store():
        version = registry.get_version(NAME, champion)
        check_answers(version, Path("x"), registry.fetch_model(version, Path("x")))
        assert current_champion(NAME) == ("2" if STEPS[step] in ("check_loads", "close_entry") else "4")
    assert assert_consistent() == ("2" if STEPS[step] in ("check_loads", "close_entry") else "4")
    make_champion(3)
    assert assert_consistent() == "3"


def leave_orphan(before: str, after: str) -> Entry:
    """Leave the open entry of a process that is gone."""
    entry = audit_log.open_entry(NAME, "promote", "left behind")
    MlflowClient().set_tag(entry.id, STARTED, "1.0")
    return audit_log.add_tags(entry, {"number": "2", "from": before, "to": after})


def entry_after(entry: Entry) -> Entry:
    """Return an entry as it is now."""
    return next(each for each in audit_log.entries(NAME) if each.id == entry.id)


def test_settling_a_killed_change_leaves_an_alias_moved_by_hand(smoke_in_process: None) -> None:
    make_champion(1)
    with tracking.store():
        orphan = leave_orphan("1", "2")
        registry.set_alias(NAME, registry.CHAMPION, "3")
        assert current_champion(NAME, check_ledger=False) == "3"
        assert entry_after(orphan).status == UNDONE
    assert aliases() == {"champion": "3"}


def test_a_killed_change_to_a_version_that_does_not_load_is_undone(smoke_in_process: None) -> None:
    make_champion(1)
    version = str(gallery.register_twin(1).version)
    break_model(version)
    with tracking.store():
        orphan = leave_orphan("1", version)
        registry.set_alias(NAME, registry.CHAMPION, version)
        assert current_champion(NAME) == "1"
        assert entry_after(orphan).status == UNDONE and "is damaged" in entry_after(orphan).tags["note"]
    assert assert_consistent() == "1"


def test_a_killed_change_that_moved_the_alias_to_a_good_version_is_finished(smoke_in_process: None) -> None:
    make_champion(1)
    with tracking.store():
        orphan = leave_orphan("1", "3")
        registry.set_alias(NAME, registry.CHAMPION, "3")
        assert current_champion(NAME) == "3"
        assert entry_after(orphan).status == DONE
    assert aliases() == {"champion": "3", "previous_champion": "1"}


def test_a_killed_change_is_undone_although_a_champion_before_it_was_deleted(smoke_in_process: None) -> None:
    make_champion(1)
    make_champion(2)
    with tracking.store():
        orphan = audit_log.add_tags(leave_orphan("2", "3"), {"previous": "1"})
        registry.set_alias(NAME, registry.PREVIOUS, "2")
        MlflowClient().delete_model_version(NAME, "1")
        assert current_champion(NAME) == "2"
        assert entry_after(orphan).status == UNDONE
    assert aliases() == {"champion": "2"}


def test_a_change_under_way_is_not_mistaken_for_one_by_hand(smoke_in_process: None) -> None:
    make_champion(4)
    with tracking.store():
        mine = audit_log.open_entry(NAME, "promote", "half way")
        registry.set_alias(NAME, registry.CHAMPION, "1")
        with lock.kept_alive(mine), pytest.raises(Unavailable, match="is under way"):
            current_champion(NAME)
