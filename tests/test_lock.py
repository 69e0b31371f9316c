"""Tests of the lock on champion changes: one holder at a time, whatever clocks say, and no dead one forever."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer
from time import sleep, time

import pytest
from gallery import NAME, aliases, assert_consistent, make_champion
from mlflow import MlflowClient

from landuse import registry, tracking
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.process import BOOT, HOST, STARTED
from landuse.registry import audit_log, lock, transition
from landuse.registry.audit_log import COUNT, DONE, GIVEN_UP, OPEN, UNDONE, Entry
from landuse.registry.transition import change_champion, current_champion

DAY = 86400
ELSEWHERE = {HOST: "elsewhere", BOOT: "another start"}


@pytest.fixture(autouse=True)
def quick_looks(registry_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a copy of the store, and let a second do for a minute."""
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lock, "STILL_LOOKS", 20)
    monkeypatch.setattr(lock, "STILL_LOOKS_OF_EARLIER", 60)


@pytest.fixture(autouse=True)
def open_store(quick_looks: None) -> Iterator[None]:
    """Open the store for every test."""
    with tracking.store():
        yield


def leave_entry(action: str = "promote", **tags: str) -> Entry:
    """Leave an open entry that a machine elsewhere made and renews no more."""
    entry = audit_log.open_entry(NAME, action, "left behind")
    return audit_log.add_tags(entry, ELSEWHERE | tags)


def open_pair() -> tuple[Entry, Entry]:
    """Open two entries, the one with the smaller id first; by its clock it is the younger one."""
    larger = leave_entry()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_log, "time", lambda: time() + DAY)
        while (smaller := leave_entry("rollback")).id > larger.id:
            audit_log.close_entry(smaller, UNDONE)
    return smaller, larger


def ids(orphans: list[Entry]) -> list[str]:
    return [entry.id for entry in orphans]


def state_of(entry: Entry) -> Entry:
    """Return an entry as it is now."""
    return next(each for each in audit_log.entries(NAME) if each.id == entry.id)


@contextmanager
def clock_off_by(seconds: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the clock that entries are written by."""
    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "time", lambda: time() + seconds)
        yield


def test_of_two_live_entries_the_larger_id_gives_way_and_names_the_other() -> None:
    smaller, larger = open_pair()
    with lock.kept_alive(smaller), lock.kept_alive(larger):
        complaint = f"another {smaller.action} of gallery is under way, by .* since 20.*try again"
        with pytest.raises(Unavailable, match=complaint):
            lock.wait_for_turn(larger)
        audit_log.close_entry(larger, UNDONE)
        assert lock.wait_for_turn(smaller) == []


def test_the_smaller_id_waits_for_the_other() -> None:
    smaller, larger = open_pair()
    with lock.kept_alive(smaller), lock.kept_alive(larger):
        timer = Timer(0.5, audit_log.close_entry, (larger, UNDONE))
        timer.start()
        assert lock.wait_for_turn(smaller) == []
        timer.join()
    assert ids(audit_log.entries(NAME, OPEN)) == [smaller.id]


def test_the_smaller_id_fails_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)
    smaller, larger = open_pair()
    with lock.kept_alive(larger), pytest.raises(Unavailable, match="is under way"):
        lock.wait_for_turn(smaller)


@pytest.mark.parametrize("seconds", [-DAY, DAY], ids=["a day behind", "a day ahead"])
def test_a_holder_whose_clock_is_wrong_keeps_its_lock(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with clock_off_by(seconds, monkeypatch):
        held = leave_entry()
    with lock.kept_alive(held):
        watch = lock.Watch(NAME)
        for _ in range(2 * lock.STILL_LOOKS):
            watch.look()
            sleep(lock.LOOK_SECONDS)
        assert lock.find_orphans(NAME) == []
        with pytest.raises(Unavailable, match="is under way"):
            monkeypatch.setattr(lock, "WAIT_SECONDS", 0)
            lock.wait_for_turn(audit_log.open_entry(NAME, "promote", "mine"))
    assert GIVEN_UP not in state_of(held).tags


@pytest.mark.parametrize("seconds", [-DAY, DAY], ids=["a day behind", "a day ahead"])
def test_a_dead_entry_elsewhere_is_recovered_once_it_stood_still(
    seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with clock_off_by(seconds, monkeypatch):
        dead = leave_entry()
    assert current_champion(NAME) is None
    assert state_of(dead).status == UNDONE and state_of(dead).tags[GIVEN_UP]
    assert "promote of gallery is under way, by" in (waiting := capsys.readouterr().err)
    assert waiting.endswith("but shows no life: waiting 0 s for it\n") and waiting.count("\n") == 1


def test_orphans_here_are_known_at_once_and_entries_of_other_models_do_not_block() -> None:
    orphan = audit_log.open_entry(NAME, "promote", "left behind")
    MlflowClient().set_tag(orphan.id, STARTED, "1.0")
    audit_log.open_entry("another", "promote", "of another model")
    assert ids(lock.wait_for_turn(audit_log.open_entry(NAME, "promote", "mine"))) == [orphan.id]
    assert GIVEN_UP not in state_of(orphan).tags


def test_an_entry_of_an_earlier_version_is_watched_for_longer() -> None:
    earlier = leave_entry()
    MlflowClient().delete_tag(earlier.id, COUNT)
    watch = lock.Watch(NAME)
    for _ in range(lock.STILL_LOOKS_OF_EARLIER):
        watch.look()
    assert GIVEN_UP not in state_of(earlier).tags
    watch.look()
    assert state_of(earlier).is_orphan()


def test_a_long_absence_of_the_watcher_or_the_server_counts_as_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    held, watch = leave_entry(), lock.Watch(NAME)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 3600)
    for _ in range(lock.STILL_LOOKS):
        watch.look()
    assert GIVEN_UP not in state_of(held).tags


def pause_at(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """Let this process stand still, without counting, at a function of transition; return: it stands, it goes on."""
    stands, goes_on, function = Event(), Event(), getattr(transition, name)

    def paused(*args: object) -> None:
        monkeypatch.setattr(transition, name, function)  # for others
        stands.set()
        assert goes_on.wait(60)
        function(*args)

    monkeypatch.setattr(transition, name, paused)
    monkeypatch.setattr(lock, "renew", lambda *_: None)
    return stands, goes_on


def promote_in_thread(number: str, champion: str | None) -> tuple[Thread, list[BaseException]]:
    """Begin to make a version the champion, as a machine elsewhere; return the thread and a list for its error."""
    errors: list[BaseException] = []

    def promote() -> None:
        try:
            change_champion(NAME, number, "promote", "paused", champion, None)
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=promote, daemon=True)
    thread.start()
    return thread, errors


@pytest.mark.parametrize(("step", "winner"), [("apply", "1"), ("check_loads", "2")])
def test_a_holder_that_was_only_paused_moves_no_alias_after_it_was_given_up(
    step: str, winner: str, smoke_in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_champion(1)
    with monkeypatch.context() as patch:
        stands, goes_on = pause_at(step, patch)
        thread, errors = promote_in_thread("2", "1")
        assert stands.wait(60)
        [entry] = audit_log.entries(NAME, OPEN)
        audit_log.add_tags(entry, ELSEWHERE)
        patch.setattr(transition, "check_loads", lambda *_: None)
        assert current_champion(NAME) == winner, "recovered by another"
        make_champion(3)
        goes_on.set()
        thread.join()
    [error] = errors
    assert isinstance(error, lock.TurnLost) and "took it for dead: landuse history" in str(error)
    assert assert_consistent() == "3" and aliases()["previous_champion"] == winner
    assert state_of(entry).status == (DONE if winner == "2" else UNDONE)


def test_a_recovery_that_was_stopped_is_repeated_by_the_next(smoke_in_process: None) -> None:
    make_champion(1)
    moved = leave_entry(number="2", **{"from": "1", "to": "2"})
    registry.set_alias(NAME, registry.CHAMPION, "2")
    recovering = leave_entry("repair")
    assert current_champion(NAME) == "2"
    assert (state_of(moved).status, state_of(recovering).status) == (DONE, UNDONE)
    assert assert_consistent() == "2"


def test_a_recovery_that_was_given_up_changes_nothing_more(smoke_in_process: None) -> None:
    make_champion(1)
    moved = leave_entry(number="2", **{"from": "1", "to": "2"})
    registry.set_alias(NAME, registry.CHAMPION, "2")
    with pytest.raises(lock.TurnLost):
        transition.recover(moved, leave_entry("repair", **{GIVEN_UP: "by another"}))
    assert state_of(moved).status == OPEN and aliases() == {"champion": "2"}
    assert current_champion(NAME) == "2"


def test_of_two_that_recover_at_once_one_does_and_both_end(smoke_in_process: None) -> None:
    dead, outcomes = leave_entry(), []

    def repair() -> None:
        try:
            outcomes.append(str(current_champion(NAME)))
        except LanduseError as error:
            outcomes.append(str(error))

    threads = [Thread(target=repair) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "None" in outcomes and all(one == "None" or "is under way" in one for one in outcomes), outcomes
    assert state_of(dead).status == UNDONE and audit_log.entries(NAME, OPEN) == []
