"""inbox/: what arrives is taken in whole, once, and put away afterwards."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
import tiny
from processes import wait_until

from landuse.core.paths import INBOX, QUARANTINE
from pipelines.services import inbox

SETTLE = 1.5
REST = 2 * SETTLE
GAP = 0.1
HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def settling(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that is at rest soon, and looked at often."""
    tiny.write_params(place, {"pipelines": {"settle_seconds": SETTLE}})
    monkeypatch.setattr(inbox, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(inbox, "get_run_logger", lambda: logging.getLogger("run"))


@pytest.fixture
def events(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What a watcher at work emitted: how many arrivals each event tells of."""
    told, over, look = [], Event(), inbox.fingerprint

    def look_until_over() -> inbox.Fingerprint:
        if over.is_set():
            raise EOFError
        return look()

    def take(found: list[Path]) -> None:
        told.append(len(found))

    def watch() -> None:
        with suppress(EOFError):
            inbox.watch(SETTLE)

    monkeypatch.setattr(inbox, "tell_of", take)
    monkeypatch.setattr(inbox.services, "is_running", lambda service: True)
    monkeypatch.setattr(inbox, "fingerprint", look_until_over)
    watcher = Thread(target=watch)
    watcher.start()
    yield told
    over.set()
    watcher.join(timeout=5)
    assert not watcher.is_alive()


def arrive(name: str) -> Path:
    """A file, or an image in a folder, that is written in place; arrivals come at different moments."""
    path = INBOX / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    time.sleep(0.02)
    return path


def names(folder: Path) -> list[str]:
    """The names in a folder without the moment at which they were put there."""
    return sorted(re.sub(r"^\d{8}T\d{6}\.\d{6}Z-", "", path.name) for path in folder.iterdir())


# What to take in


@pytest.fixture
def an_hour_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that sets the clock back by an hour, for this process and the file system."""

    def set_back() -> None:
        usual, now = Path.lstat, time.time_ns()

        def lstat(path: Path) -> SimpleNamespace:
            facts = usual(path)
            changed = facts.st_ctime_ns + (HOUR if facts.st_ctime_ns <= now else 0)
            return SimpleNamespace(st_ctime_ns=changed, st_size=facts.st_size)

        monkeypatch.setattr(Path, "lstat", lstat)

    return set_back


def test_an_arrival_of_before_the_clock_was_set_back_is_at_rest(an_hour_back: Callable[[], None]) -> None:
    arrive("set.zip")
    an_hour_back()
    assert inbox.is_at_rest(inbox.fingerprint(), SETTLE)
    arrive("later.zip")
    assert not inbox.is_at_rest(inbox.fingerprint(), SETTLE), "this one is of the new time"


def test_what_arrives_after_the_clock_was_set_back_came_last(an_hour_back: Callable[[], None]) -> None:
    names = ("a.zip", "b.zip")
    first, second = map(arrive, names)
    an_hour_back()
    third = arrive("0.zip")
    assert inbox.arrivals() == [first, second, third]


def test_an_inbox_that_may_not_be_written_to_is_dated_by_the_clock_of_this_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX", Path("/proc"))
    before = time.time_ns()
    assert before <= inbox.clock() <= time.time_ns()


def test_a_name_as_long_as_a_name_can_be_is_put_away_and_set_aside_too(place: Path) -> None:
    for move in (lambda path: inbox.put_away(path, inbox.DONE), lambda path: inbox.set_aside(path, "no")):
        arrival = arrive("\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 125 + ".zip")
        move(arrival)
        assert not arrival.exists()
    assert names(inbox.DONE)[0].endswith("\N{LATIN SMALL LETTER U WITH DIAERESIS}.zip")


def test_what_is_taken_away_while_it_is_looked_at_is_no_arrival(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, stays = arrive("gone.zip"), arrive("stays.zip")
    look = Path.lstat

    def late(path: Path) -> os.stat_result:
        if path == gone:
            path.unlink()
        return look(path)

    monkeypatch.setattr(Path, "lstat", late)
    assert inbox.arrivals() == [stays]


def test_what_may_not_be_looked_at_stops_nobody(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hidden := INBOX / "tiles" / "private").mkdir(parents=True)
    look = Path.lstat

    def refused(path: Path) -> os.stat_result:
        if path == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "lstat", refused)
    assert inbox.arrivals() == [INBOX / "tiles"]
    assert {name for name, _, _ in inbox.fingerprint()} == {"inbox/tiles"}


def test_a_pipe_is_no_arrival(place: Path) -> None:
    os.mkfifo(INBOX / "pipe")
    assert inbox.arrivals() == []


def test_an_empty_inbox_or_none_has_nothing_and_keeps_nobody_waiting() -> None:
    begin = time.monotonic()
    assert inbox.newest() is None
    INBOX.rmdir()
    assert inbox.newest() is None and time.monotonic() - begin < SETTLE


def test_the_newest_is_taken_and_what_came_before_is_put_aside_when_it_was_let_in() -> None:
    arrive("first.zip")
    arrive("second/a.png")
    arrive("third.zip")
    assert inbox.newest() == "inbox/third.zip"
    arrive("fourth.zip")
    assert not inbox.SUPERSEDED.exists()
    inbox.let_in("inbox/third.zip")
    assert names(inbox.SUPERSEDED) == ["first.zip", "second"] and names(inbox.DONE) == ["third.zip"]
    assert inbox.newest() == "inbox/fourth.zip"


def test_where_the_newest_is_refused_what_came_before_is_next() -> None:
    arrive("tiles.zip")
    arrive("tiles.zip.md5")
    inbox.set_aside(inbox.newest(), "no archive")
    assert inbox.newest() == "inbox/tiles.zip"


def test_what_is_let_in_from_elsewhere_leaves_the_inbox_as_it_is(place: Path) -> None:
    arrive("tiles.zip")
    (place / "own.zip").touch()
    inbox.let_in("own.zip")
    assert inbox.newest() == "inbox/tiles.zip" and (place / "own.zip").exists()


def test_the_newest_is_what_came_last_however_old_its_files_are(place: Path) -> None:
    old = place / "old.zip"
    old.write_text("taken years ago")
    os.utime(old, (0, 0))
    arrive("first.zip")
    shutil.move(old, INBOX)
    assert inbox.newest() == "inbox/old.zip"


def test_names_that_are_hidden_or_of_unfinished_copies_and_broken_links_are_left_alone() -> None:
    for name in (".hidden", "a.zip.part", "b.tmp", "c.zip.crdownload", "d.filepart"):
        arrive(name)
    (INBOX / "broken.zip").symlink_to("nowhere.zip")
    before = set(INBOX.iterdir())
    assert inbox.newest() is None and inbox.fingerprint() == frozenset()
    assert set(INBOX.iterdir()) == before


def test_an_arrival_that_is_still_being_copied_is_waited_for_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrive("set.zip")

    def copy() -> None:
        for _ in range(10):
            time.sleep(GAP)
            with (INBOX / "set.zip").open("a") as file:
                file.write("more")

    copying = Thread(target=copy)
    copying.start()
    assert inbox.newest() == "inbox/set.zip"
    assert not copying.is_alive()
    assert (INBOX / "set.zip").read_text().count("more") == 10
    assert caplog.messages == [f"inbox/ is still changing: waiting until it has been at rest for {SETTLE} s"]
    assert inbox.newest() == "inbox/set.zip" and len(caplog.messages) == 1


# Fingerprint


def test_the_fingerprint_follows_every_file_that_arrived() -> None:
    prints = [inbox.fingerprint()]
    for change in (
        lambda: arrive("set/a.png"),
        lambda: arrive("set/b.png"),
        lambda: (INBOX / "set/b.png").write_text("other"),
        lambda: os.utime(INBOX / "set/b.png", (0, 0)),
        lambda: (INBOX / "set/b.png").rename(INBOX / "set/c.png"),
        lambda: (INBOX / "set/c.png").unlink(),
    ):
        change()
        time.sleep(0.02)
        prints.append(inbox.fingerprint())
    assert len(set(prints)) == len(prints)
    assert inbox.fingerprint() == prints[-1]


def test_a_broken_link_within_an_arrival_stops_nobody() -> None:
    arrive("set/a.png").with_name("b.png").symlink_to("nowhere.png")
    assert {Path(name).name for name, _, _ in inbox.fingerprint()} == {"set", "a.png", "b.png"}
    assert inbox.newest() == "inbox/set"


# Where it goes


def test_an_arrival_is_put_away_under_a_name_with_the_time() -> None:
    inbox.put_away(str(arrive("set.zip")), inbox.DONE)
    inbox.put_away(str(arrive("set.zip")), inbox.DONE)
    assert names(INBOX / ".done") == ["set.zip", "set.zip"]
    assert inbox.arrivals() == []


@pytest.mark.parametrize("folder", [inbox.DONE, inbox.SUPERSEDED, QUARANTINE / "report"])
def test_an_arrival_that_cannot_be_put_away_stays_whole_and_the_log_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.DONE.write_text("a file in the way")
    inbox.put_away(arrive("set/a.png").parent, folder)
    assert (INBOX / "set/a.png").exists()
    [said] = caplog.messages
    assert said.startswith("inbox/set cannot be put away (") and said.endswith(": take it out of inbox/ by hand")


def test_what_did_not_arrive_in_the_inbox_stays_where_it_is(place: Path) -> None:
    (place / "own.zip").touch()
    inbox.put_away(str(place / "own.zip"), inbox.DONE)
    inbox.put_away("http://127.0.0.1/set.zip", inbox.DONE)
    inbox.put_away("inbox/gone.zip", inbox.DONE)
    assert (place / "own.zip").exists() and not inbox.DONE.exists()


def test_what_was_refused_lies_beside_its_report() -> None:
    report = QUARANTINE / "20260101T000000.000000Z-0a1b2c3d"
    for folder in (report, QUARANTINE / "another"):
        folder.mkdir(parents=True)
    complaint = f"swamp is no class: see {report}/validation.html"
    inbox.set_aside(str(arrive("set.zip")), complaint)
    assert (report / "refused.txt").read_text() == complaint + "\n"
    assert names(report) == ["refused.txt", "set.zip"]
    assert list((QUARANTINE / "another").iterdir()) == [] and inbox.arrivals() == []


def test_what_never_came_as_far_as_a_report_gets_a_folder_with_the_complaint() -> None:
    inbox.set_aside(str(arrive("set.tar.gz")), "set.tar.gz is damaged")
    [folder] = QUARANTINE.iterdir()
    assert names(folder) == ["refused.txt", "set.tar.gz"]
    assert (folder / "refused.txt").read_text() == "set.tar.gz is damaged\n"


def test_a_refused_source_of_ones_own_is_not_moved(place: Path) -> None:
    (place / "own.zip").touch()
    inbox.set_aside(str(place / "own.zip"), "own.zip is damaged")
    assert (place / "own.zip").exists() and not QUARANTINE.exists()


# The watcher


def test_an_event_waits_until_a_copy_is_complete(events: list[int]) -> None:
    for _ in range(10):
        with (INBOX / "set.zip").open("a") as file:
            file.write("more")
        time.sleep(GAP)
        assert events == []
    wait_until(lambda: events)
    assert events == [1]


def test_a_burst_is_one_event_and_what_lies_there_is_not_told_again(events: list[int]) -> None:
    for number in range(5):
        arrive(f"{number}.zip")
    wait_until(lambda: events)
    time.sleep(REST)
    assert events == [5]


@pytest.mark.slow
def test_an_arrival_that_is_put_away_is_no_event_and_a_new_one_is(events: list[int]) -> None:
    arrive("first.zip")
    wait_until(lambda: events == [1])
    arrive("second.zip")
    wait_until(lambda: events == [1, 2])
    assert inbox.newest() == "inbox/second.zip"
    inbox.let_in("inbox/second.zip")
    time.sleep(REST)
    assert events == [1, 2]
    arrive("second.zip")
    wait_until(lambda: events == [1, 2, 1])


def test_what_lay_there_before_the_watcher_began_is_told_of(place: Path, request: pytest.FixtureRequest) -> None:
    arrive("set.zip")
    events = request.getfixturevalue("events")
    wait_until(lambda: events == [1])


def test_a_broken_link_neither_stops_nor_triggers_the_watcher(events: list[int]) -> None:
    (INBOX / "broken.zip").symlink_to("nowhere.zip")
    time.sleep(REST)
    assert events == []
    arrive("set.zip")
    wait_until(lambda: events == [1])
