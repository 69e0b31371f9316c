"""A handover is done whole or not at all, whatever stops it; the ledger and the aliases agree."""

import subprocess
import sys
from pathlib import Path

import gallery
import pytest
from gallery import NAME, aliases, assert_sound, crown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from landuse import registry, tracking
from landuse.core.errors import LanduseError
from landuse.gate import check_past
from landuse.promote.rollback import rollback
from landuse.registry import audit_log, transition
from landuse.registry.audit_log import DONE, OPEN, UNDONE
from landuse.registry.smoke_test import check_answers
from landuse.registry.transition import hand_over, settled_champion

CHILD = Path(__file__).with_name("killed.py")
STEPS = ("open_entry", "write", "attach", "set_alias", "set_alias again", "prove", "close")


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Every test has a registry of its own."""


def test_a_new_champion_moves_both_aliases_and_leaves_an_entry_with_its_blessing(at_hand: None) -> None:
    crown(1)
    assert aliases() == {"champion": "1"}
    crown(3)
    assert aliases() == {"champion": "3", "previous_champion": "1"}
    with tracking.store():
        first, second = audit_log.entries(NAME)
        assert audit_log.blessing(second) == {"version": "3"}
    assert (first.before, first.after, second.before, second.after) == (None, "1", "1", "3")
    assert first.status == second.status == DONE
    assert second.tags.items() >= {"action": "promote", "why": "a test"}.items()


def break_model(number: object) -> None:
    version = registry.get_version(NAME, str(number))
    folder = MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location
    path = Path(folder.removeprefix("file://"), "artifacts", "model", "model.tflite")
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("before", [None, 1], ids=["the first champion", "with a champion before"])
def test_a_champion_that_does_not_load_is_taken_back(at_hand: None, before: int | None) -> None:
    if before:
        crown(before)
    held, version = aliases(), gallery.hang_twin(1).version
    break_model(version)
    with pytest.raises(LanduseError, match=f"gallery version {version} is damaged"):
        crown(version)
    assert aliases() == held
    with tracking.store():
        last = audit_log.entries(NAME)[-1]
    assert last.status == UNDONE and "is damaged" in last.tags["note"]


def test_a_handover_that_is_interrupted_is_taken_back(at_hand: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    crown(1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transition, "prove", interrupt)
        crown(2)
    assert assert_sound() == "1"


def test_a_champion_that_changed_meanwhile_is_not_replaced(at_hand: None) -> None:
    with tracking.store():
        seen = settled_champion(NAME)
        crown(1)
        with pytest.raises(LanduseError, match="the champion of gallery became version 1 meanwhile: try again"):
            hand_over(NAME, "2", "promote", "late", seen, None)
    assert assert_sound() == "1"


def test_an_alias_that_was_moved_by_hand_is_noticed_and_settled_by_force(at_hand: None) -> None:
    crown(1)
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")
    with tracking.store(), pytest.raises(LanduseError, match="champion of gallery is version 2, by the ledger it is"):
        settled_champion(NAME)
    with tracking.store():
        champion = settled_champion(NAME, mind_the_ledger=False)
        hand_over(NAME, "3", "force", "after a look at it", champion, None)
    assert aliases() == {"champion": "3", "previous_champion": "2"}
    assert assert_sound() == "3"


def test_a_champion_alias_that_was_removed_by_hand_is_noticed(at_hand: None) -> None:
    crown(1)
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    with tracking.store(), pytest.raises(LanduseError, match="champion of gallery is gone, by the ledger it is"):
        settled_champion(NAME)


def test_a_champion_whose_version_was_deleted_leaves_room_for_the_next(at_hand: None) -> None:
    crown(1)
    crown(2)
    MlflowClient().delete_model_version(NAME, "2")
    with tracking.store():
        assert settled_champion(NAME) is None
    assert rollback(NAME) == "1"


def test_a_model_that_was_made_anew_under_its_name_has_no_past(at_hand: None) -> None:
    crown(1)
    crown(2)
    rollback(NAME)
    sources = [MlflowClient().get_model_version(NAME, str(number)).source for number in (1, 2)]
    MlflowClient().delete_registered_model(NAME)
    with tracking.store():
        MlflowClient().create_registered_model(NAME)
        for source in sources:
            MlflowClient().create_model_version(NAME, source)
        assert settled_champion(NAME) is None and audit_log.done(NAME) == []
        assert list(check_past(registry.get_version(NAME, "2"))) == []
        assert len(audit_log.entries(NAME)) == 3, "history shows them all the same"


@pytest.mark.slow
def test_a_champion_that_came_back_after_one_that_was_deleted_is_not_the_champion_before_itself(at_hand: None) -> None:
    for number in (3, 1, gallery.hang_twin(1).version, 1):
        crown(number)
    MlflowClient().delete_model_version(NAME, aliases()["previous_champion"])
    crown(4)
    rollback(NAME)
    assert aliases() == {"champion": "1", "previous_champion": "3"}


@pytest.mark.slow
def test_a_rollback_goes_past_a_champion_that_was_deleted(at_hand: None) -> None:
    for number in (1, 2, 3):
        crown(number)
    MlflowClient().delete_model_version(NAME, "2")
    assert rollback(NAME) == "1"
    assert aliases() == {"champion": "1"}


def one_move(kind: str, number: str, stack: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to the registry, and to the stack what should come of it: champions, the present one last."""
    if kind == "rollback":
        if len(stack) < 2:
            with pytest.raises(LanduseError, match="no champion to go back to"):
                rollback(NAME)
        else:
            stack.pop()
            assert rollback(NAME) == stack[-1]
    elif kind in ("promote", "force"):
        crown(number, kind)
        stack.extend([] if stack[-1:] == [number] else [number])
    else:
        error = LanduseError("not up to it") if kind == "fail" else KeyboardInterrupt()
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(transition, "prove", lambda *_: throw(error))
            crown(number)


def throw(error: BaseException) -> None:
    raise error


def sequences(longest: int) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Moves and the version that each is about."""
    kinds = st.sampled_from(["promote", "force", "rollback", "fail", "interrupt"])
    return st.lists(st.tuples(kinds, st.sampled_from("1234")), min_size=2, max_size=longest)


def forget() -> None:
    """Take the registry back to no champion and an empty ledger."""
    for alias in aliases():
        registry.set_alias(NAME, alias, None)
    with tracking.store():
        for entry in audit_log.entries(NAME):
            MlflowClient().delete_run(entry.id)


def assert_agree_after(moves: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the moves from nothing; after each, ledger and aliases say what should have come of it."""
    forget()
    stack: list[str] = []
    for kind, number in moves:
        one_move(kind, number, stack, monkeypatch)
        assert aliases() == dict(zip(("champion", "previous_champion"), stack[:-3:-1], strict=False))
        with tracking.store():
            assert audit_log.champions(audit_log.done(NAME)) == stack
            assert audit_log.entries(NAME, OPEN) == []
    assert not stack or assert_sound() == stack[-1]


ONE_REGISTRY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@settings(ONE_REGISTRY, max_examples=3)
@given(moves=sequences(8))
def test_ledger_and_aliases_agree_after_any_sequence_of_moves(
    at_hand: None, monkeypatch: pytest.MonkeyPatch, moves: list[tuple[str, str]]
) -> None:
    assert_agree_after(moves, monkeypatch)


@pytest.mark.slow
@settings(ONE_REGISTRY, max_examples=20)
@given(moves=sequences(30))
def test_ledger_and_aliases_agree_after_many_long_sequences_of_moves(
    at_hand: None, monkeypatch: pytest.MonkeyPatch, moves: list[tuple[str, str]]
) -> None:
    assert_agree_after(moves, monkeypatch)


@pytest.mark.slow
def test_of_promotions_at_once_one_wins_and_the_others_are_told(at_hand: None) -> None:
    crown(4)
    children = [subprocess.Popen([sys.executable, CHILD, "99", str(number)], stderr=subprocess.PIPE, text=True)
                for number in (1, 2, 3)]  # fmt: skip
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children].count(0) >= 1
    for child, words in zip(children, said, strict=True):
        assert child.returncode == 0 or "is under way" in words or "meanwhile: try again" in words
    assert_sound()


def run_child(step: int, number: int) -> subprocess.CompletedProcess[str]:
    """A process that hands over to a version, and is killed before its step of that number."""
    return subprocess.run([sys.executable, CHILD, str(step), str(number)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
def test_a_handover_that_is_killed_is_finished_or_undone_by_the_next_command(at_hand: None, step: int) -> None:
    crown(1)
    crown(4)
    done = run_child(step, 2)
    assert done.returncode == -9, done.stderr
    held = aliases()
    assert held["champion"] in ("4", "2"), "never without a champion"
    with tracking.store():
        version = registry.get_version(NAME, held["champion"])
        check_answers(version, Path("x"), registry.fetch_model(version, Path("x")))
        assert settled_champion(NAME) == ("2" if STEPS[step] in ("prove", "close") else "4")
    assert assert_sound() == ("2" if STEPS[step] in ("prove", "close") else "4")
    crown(3)
    assert assert_sound() == "3"


def test_a_move_under_way_is_not_taken_for_one_by_hand(at_hand: None) -> None:
    crown(4)
    with tracking.store():
        audit_log.open_entry(NAME, "promote", "half way")
        registry.set_alias(NAME, registry.CHAMPION, "1")
        with pytest.raises(LanduseError, match="is under way"):
            settled_champion(NAME)
