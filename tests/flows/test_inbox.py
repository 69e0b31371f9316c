"""inbox/: complete arrivals are ingested once and moved away afterwards."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
import tiny
from processes import wait_until

from landuse.core.paths import INBOX, QUARANTINE
from pipelines.services import attempts, inbox
from pipelines.services.attempts import Fingerprint

SETTLE = 1.5
REST = 2 * SETTLE
GAP = 0.1
HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def settling(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that settles soon and is polled often."""
    tiny.write_params(work_dir, {"pipelines": {"settle_seconds": SETTLE}})
    monkeypatch.setattr(inbox, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(inbox, "get_run_logger", lambda: logging.getLogger("run"))


@pytest.fixture
def events(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of arrivals in each event that a running watcher has sent."""
    sent, stopped, scan = [], Event(), inbox.scan

    def scan_until_stopped() -> list[inbox.Arrival]:
        if stopped.is_set():
            raise EOFError
        return scan()

    def record(arrivals: list[Path]) -> None:
        sent.append(len(arrivals))

    def watch() -> None:
        with suppress(EOFError):
            inbox.watch(SETTLE)

    monkeypatch.setattr(inbox, "send_event", record)
    monkeypatch.setattr(inbox.processes, "is_running", lambda service: True)
    monkeypatch.setattr(inbox, "scan", scan_until_stopped)
    watcher = Thread(target=watch)
    watcher.start()
    yield sent
    stopped.set()
    watcher.join(timeout=5)
    assert not watcher.is_alive()


def arrive(name: str) -> Path:
    """Write a file, or an image in a folder, to the inbox, later than the one before."""
    path = INBOX / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    time.sleep(0.02)
    return path


@contextmanager
def changing(name: str) -> Iterator[None]:
    """Append to a file in the inbox again and again, without end."""
    stopped = Event()

    def change() -> None:
        while not stopped.is_set():
            with (INBOX / name).open("a") as file:
                file.write("more")
            time.sleep(GAP)

    (INBOX / name).parent.mkdir(parents=True, exist_ok=True)
    thread = Thread(target=change)
    thread.start()
    wait_until((INBOX / name).exists)
    yield
    stopped.set()
    thread.join(timeout=5)


def fingerprint() -> Fingerprint:
    """Return the fingerprint of the whole inbox."""
    return inbox.all_files(inbox.scan())


def names(folder: Path) -> list[str]:
    """Return the sorted names in a folder without their timestamps."""
    return sorted(re.sub(r"^\d{8}T\d{6}\.\d{6}Z-", "", path.name) for path in folder.iterdir())


# Choice of the next arrival


@pytest.fixture
def clock_set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Function that sets the clock back by an hour, for this process and the file system."""

    def set_back() -> None:
        real_lstat, now = Path.lstat, time.time_ns()

        def lstat(path: Path) -> SimpleNamespace:
            stat = real_lstat(path)
            changed = stat.st_ctime_ns + (HOUR if stat.st_ctime_ns <= now else 0)
            return SimpleNamespace(st_ctime_ns=changed, st_size=stat.st_size)

        monkeypatch.setattr(Path, "lstat", lstat)
        time.sleep(0.02)  # the file system's clock lags behind

    return set_back


def test_an_arrival_from_before_the_clock_was_set_back_counts_as_settled(clock_set_back: Callable[[], None]) -> None:
    arrive("set.zip")
    clock_set_back()
    assert inbox.scan()[0].rest > SETTLE
    arrive("later.zip")
    assert inbox.scan()[1].rest < SETTLE, "this one is dated by the new clock"


def test_an_arrival_after_the_clock_was_set_back_is_the_newest(clock_set_back: Callable[[], None]) -> None:
    names = ("a.zip", "b.zip")
    first, second = map(arrive, names)
    clock_set_back()
    third = arrive("0.zip")
    assert inbox.list_arrivals() == [first, second, third]


def test_a_read_only_inbox_is_dated_by_the_clock_of_this_machine(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX", Path("/proc"))
    before = time.time_ns()
    assert before <= inbox.filesystem_now() <= time.time_ns()


def test_an_arrival_with_a_name_of_maximum_length_can_be_moved(work_dir: Path) -> None:
    for move in (lambda path: inbox.move_out(path, inbox.DONE), lambda path: inbox.quarantine(path, "no")):
        arrival = arrive("\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 125 + ".zip")
        move(arrival)
        assert not arrival.exists()
    assert names(inbox.DONE)[0].endswith("\N{LATIN SMALL LETTER U WITH DIAERESIS}.zip")


def test_a_file_removed_during_the_listing_is_skipped(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, stays = arrive("gone.zip"), arrive("stays.zip")
    real_lstat = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == gone:
            path.unlink()
        return real_lstat(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert inbox.list_arrivals() == [stays]


def test_an_unreadable_folder_is_left_out_of_the_fingerprint(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hidden := INBOX / "tiles" / "private").mkdir(parents=True)
    real_lstat = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return real_lstat(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert inbox.list_arrivals() == [INBOX / "tiles"]
    assert {name for name, _, _ in fingerprint()} == {"inbox/tiles"}


def test_a_pipe_is_not_an_arrival(work_dir: Path) -> None:
    os.mkfifo(INBOX / "pipe")
    assert inbox.list_arrivals() == []


def test_an_empty_or_missing_inbox_has_no_arrival_and_causes_no_wait() -> None:
    begin = time.monotonic()
    assert inbox.next_arrival() is None
    INBOX.rmdir()
    assert inbox.next_arrival() is None and time.monotonic() - begin < SETTLE


def test_the_newest_arrival_is_next_and_older_ones_are_superseded_by_it() -> None:
    arrive("first.zip")
    arrive("second/a.png")
    arrive("third.zip")
    assert inbox.next_arrival() == "inbox/third.zip"
    arrive("fourth.zip")
    assert not inbox.SUPERSEDED.exists()
    inbox.mark_ingested("inbox/third.zip")
    assert names(inbox.SUPERSEDED) == ["first.zip", "second"] and names(inbox.DONE) == ["third.zip"]
    assert inbox.next_arrival() == "inbox/fourth.zip"


def test_if_the_newest_arrival_is_refused_the_one_before_is_next() -> None:
    arrive("tiles.zip")
    arrive("tiles.zip.md5")
    inbox.quarantine(inbox.next_arrival(), "no archive")
    assert inbox.next_arrival() == "inbox/tiles.zip"


def test_ingesting_another_source_leaves_the_inbox_unchanged(work_dir: Path) -> None:
    arrive("tiles.zip")
    (work_dir / "own.zip").touch()
    inbox.mark_ingested("own.zip")
    assert inbox.next_arrival() == "inbox/tiles.zip" and (work_dir / "own.zip").exists()


def test_the_newest_arrival_is_the_last_to_come_even_if_its_files_are_old(work_dir: Path) -> None:
    old = work_dir / "old.zip"
    old.write_text("taken years ago")
    os.utime(old, (0, 0))
    arrive("first.zip")
    shutil.move(old, INBOX)
    assert inbox.next_arrival() == "inbox/old.zip"


def test_hidden_files_partial_copies_and_broken_links_are_ignored() -> None:
    for name in (".hidden", "a.zip.part", "b.tmp", "c.zip.crdownload", "d.filepart"):
        arrive(name)
    (INBOX / "broken.zip").symlink_to("nowhere.zip")
    before = set(INBOX.iterdir())
    assert inbox.next_arrival() is None and fingerprint() == frozenset()
    assert set(INBOX.iterdir()) == before


def test_a_copy_in_progress_is_waited_for_and_logged_once(
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
    assert inbox.next_arrival() == "inbox/set.zip"
    assert not copying.is_alive()
    assert (INBOX / "set.zip").read_text().count("more") == 10
    [message] = caplog.messages
    assert message.startswith(f"inbox/set.zip: still changing; waiting until at rest for {SETTLE} s, for ")
    assert inbox.next_arrival() == "inbox/set.zip" and len(caplog.messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.zip", "logs/a/day.log"])
def test_an_arrival_that_never_settles_does_not_hold_up_another(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_SECONDS", 0.5)
    with changing(name):
        arrive("set.zip")
        assert inbox.next_arrival() == "inbox/set.zip"
        inbox.mark_ingested("inbox/set.zip")
        assert names(inbox.DONE) == ["set.zip"] and not inbox.SUPERSEDED.exists(), "the other stays"
        assert inbox.next_arrival() is None, "it is waited for, but not for ever"
    stays = INBOX / Path(name).parts[0]
    assert stays.exists() and caplog.messages[-1] == f"{stays}: still changing; left in inbox/ for a later run"
    time.sleep(REST)
    assert inbox.next_arrival() == str(stays)


def test_an_arrival_at_rest_for_long_is_taken_while_another_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_SECONDS", GAP)
    arrive("set.zip")
    time.sleep(REST)
    with changing("next.zip"):
        begin = time.monotonic()
        assert inbox.next_arrival() == "inbox/set.zip" and time.monotonic() - begin < SETTLE


def test_of_many_changing_arrivals_the_log_names_a_few() -> None:
    fresh = [inbox.Arrival(INBOX / f"{number}.zip", frozenset(), 0) for number in range(5)]
    assert inbox.changing_names(fresh, SETTLE) == "inbox/0.zip, inbox/1.zip, inbox/2.zip and 2 more"


# Links


def test_a_linked_folder_or_archive_is_an_arrival_and_moves_as_a_link(work_dir: Path) -> None:
    (work_dir / "own" / "field").mkdir(parents=True)
    (work_dir / "own.zip").touch()
    for name in ("own.zip", "own"):
        (INBOX / name).symlink_to(work_dir / name)
        assert inbox.next_arrival() == f"inbox/{name}"
        time.sleep(0.02)
    inbox.mark_ingested("inbox/own")
    assert list(INBOX.glob("[!.]*")) == [] and (work_dir / "own" / "field").is_dir()


def test_a_linked_folder_is_watched_up_to_a_number_of_files(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work_dir / "own" / "field").mkdir(parents=True)
    (INBOX / "own").symlink_to(work_dir / "own")
    before = fingerprint()
    (work_dir / "own" / "field" / "a.png").touch()
    assert len(fingerprint() - before) == 2
    monkeypatch.setattr(attempts, "MAX_LINKED", 2)
    assert len(fingerprint()) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_link_to_a_folder_in_constant_use_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_SECONDS", 0.5)
    (INBOX / "x").symlink_to("/proc")
    arrive("set.zip")
    found: list[str | None] = []
    looking = Thread(target=lambda: found.append(inbox.next_arrival()), daemon=True)
    looking.start()
    looking.join(timeout=60)
    assert found in (["inbox/set.zip"], ["inbox/x"])


# Fingerprint


def test_the_fingerprint_changes_with_every_file_that_arrived() -> None:
    prints = [fingerprint()]
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
        prints.append(fingerprint())
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[-1]


def test_a_broken_link_within_an_arrival_is_no_obstacle() -> None:
    arrive("set/a.png").with_name("b.png").symlink_to("nowhere.png")
    assert {Path(name).name for name, _, _ in fingerprint()} == {"set", "a.png", "b.png"}
    assert inbox.next_arrival() == "inbox/set"


# Moves out of the inbox


def test_an_arrival_is_moved_out_under_a_timestamped_name() -> None:
    inbox.move_out(str(arrive("set.zip")), inbox.DONE)
    inbox.move_out(str(arrive("set.zip")), inbox.DONE)
    assert names(INBOX / ".done") == ["set.zip", "set.zip"]
    assert inbox.list_arrivals() == []


@pytest.mark.parametrize("folder", [inbox.DONE, inbox.SUPERSEDED, QUARANTINE / "report"])
def test_an_arrival_that_cannot_be_moved_stays_complete_and_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.DONE.write_text("a file in the way")
    inbox.move_out(arrive("set/a.png").parent, folder)
    assert (INBOX / "set/a.png").exists()
    [message] = caplog.messages
    assert message.startswith("inbox/set cannot be put away (") and message.endswith(": take it out of inbox/ by hand")


def test_a_source_outside_of_the_inbox_is_not_moved_out(work_dir: Path) -> None:
    (work_dir / "own.zip").touch()
    inbox.move_out(str(work_dir / "own.zip"), inbox.DONE)
    inbox.move_out("http://127.0.0.1/set.zip", inbox.DONE)
    inbox.move_out("inbox/gone.zip", inbox.DONE)
    assert (work_dir / "own.zip").exists() and not inbox.DONE.exists()


def test_a_refused_arrival_is_moved_beside_its_report() -> None:
    report = QUARANTINE / "20260101T000000.000000Z-0a1b2c3d"
    for folder in (report, QUARANTINE / "another"):
        folder.mkdir(parents=True)
    complaint = f"swamp is no class: see {report}/validation.html"
    inbox.quarantine(str(arrive("set.zip")), complaint)
    assert (report / "refused.txt").read_text() == complaint + "\n"
    assert names(report) == ["refused.txt", "set.zip"]
    assert list((QUARANTINE / "another").iterdir()) == [] and inbox.list_arrivals() == []


def test_a_refused_arrival_without_a_report_gets_a_folder_with_the_reason() -> None:
    inbox.quarantine(str(arrive("set.tar.gz")), "set.tar.gz is damaged")
    [folder] = QUARANTINE.iterdir()
    assert names(folder) == ["refused.txt", "set.tar.gz"]
    assert (folder / "refused.txt").read_text() == "set.tar.gz is damaged\n"


def test_a_refused_source_outside_of_the_inbox_is_not_quarantined(work_dir: Path) -> None:
    (work_dir / "own.zip").touch()
    inbox.quarantine(str(work_dir / "own.zip"), "own.zip is damaged")
    assert (work_dir / "own.zip").exists() and not QUARANTINE.exists()


# The watcher


def test_no_event_is_sent_until_a_copy_is_complete(events: list[int]) -> None:
    for _ in range(10):
        with (INBOX / "set.zip").open("a") as file:
            file.write("more")
        time.sleep(GAP)
        assert events == []
    wait_until(lambda: events)
    assert events == [1]


def test_an_arrival_is_reported_although_another_never_settles(
    events: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_SECONDS", 0.5)
    with changing("log.zip"):
        arrive("set.zip")
        wait_until(lambda: events)
        time.sleep(SETTLE)
        assert events == [1]


def test_a_burst_of_arrivals_is_reported_once_in_one_event(events: list[int]) -> None:
    for number in range(5):
        arrive(f"{number}.zip")
    wait_until(lambda: events)
    time.sleep(REST)
    assert events == [5]


@pytest.mark.slow
def test_moving_an_arrival_out_sends_no_event_but_a_new_arrival_does(events: list[int]) -> None:
    arrive("first.zip")
    wait_until(lambda: events == [1])
    arrive("second.zip")
    wait_until(lambda: events == [1, 2])
    assert inbox.next_arrival() == "inbox/second.zip"
    inbox.mark_ingested("inbox/second.zip")
    time.sleep(REST)
    assert events == [1, 2]
    arrive("second.zip")
    wait_until(lambda: events == [1, 2, 1])


def test_an_arrival_from_before_the_watcher_started_is_reported(work_dir: Path, request: pytest.FixtureRequest) -> None:
    arrive("set.zip")
    events = request.getfixturevalue("events")
    wait_until(lambda: events == [1])


def test_a_broken_link_neither_stops_nor_triggers_the_watcher(events: list[int]) -> None:
    (INBOX / "broken.zip").symlink_to("nowhere.zip")
    time.sleep(REST)
    assert events == []
    arrive("set.zip")
    wait_until(lambda: events == [1])
