"""An arrival that made two runs fail is set aside with the reason, so that it never blocks the inbox."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import tiny
from httpx import ConnectError
from processes import ROOT, python

from landuse.core.errors import LanduseError, NotReady
from landuse.core.paths import INBOX, QUARANTINE
from pipelines.ingestion import counting_failures
from pipelines.services import attempts, inbox
from pipelines.steps.commands import TEMPORARY, CommandFailed, TookTooLong

LANDUSE = str(Path(sys.executable).with_name("landuse"))
DIES = """
import os, signal, sys
from pipelines.ingestion import counting_failures
with counting_failures(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def at_rest(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_params(place, {"pipelines": {"settle_seconds": 0}})
    monkeypatch.setattr(inbox, "get_run_logger", lambda: logging.getLogger("run"))


def arrive(name: str = "set.zip") -> str:
    (INBOX / name).write_text(name)
    return str(INBOX / name)


def fail(arrival: str, error: BaseException) -> None:
    """A run that takes the arrival in, and fails."""
    with pytest.raises(type(error)), counting_failures(arrival):
        raise error


def refused() -> str:
    """Why the only arrival that was set aside was refused."""
    [report] = QUARANTINE.glob("*/refused.txt")
    return report.read_text()


@pytest.mark.parametrize("error", [CommandFailed("it broke", 1), CommandFailed("it broke", -9), KeyError("it broke")])
def test_what_made_a_run_fail_twice_is_set_aside_with_the_reason(error: Exception) -> None:
    arrival = arrive()
    fail(arrival, error)
    assert inbox.newest() == arrival and not QUARANTINE.exists()
    fail(arrival, error)
    assert inbox.newest() is None and inbox.arrivals() == []
    assert "it broke" in refused() and "made 2 runs fail" in refused()


def test_an_arrival_that_cannot_be_read_in_time_is_at_fault_too() -> None:
    arrival = arrive()
    for _ in range(2):
        fail(arrival, TookTooLong("landuse fetch took more than 60 s", TEMPORARY))
    assert "took more than 60 s" in refused()


@pytest.mark.parametrize(
    "error",
    [
        CommandFailed("another ingest is at work", TEMPORARY),
        CommandFailed("data/ was edited", NotReady.exit_code),
        ConnectError("no server"),
        KeyboardInterrupt(),
        SystemExit(143),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_others_are_to_blame_for_and_a_stop_do_not_count(error: BaseException) -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    for _ in range(3):
        fail(arrival, error)
    assert inbox.newest() == arrival and not QUARANTINE.exists()
    fail(arrival, CommandFailed("it broke again", 1))
    assert "it broke again" in refused()


def test_a_flow_that_is_killed_while_it_takes_in_an_arrival_counts(caplog: pytest.LogCaptureFixture) -> None:
    arrive("older.zip")
    os.utime(INBOX / "older.zip", (0, 0))
    arrival = arrive()
    for _ in range(2):
        assert inbox.newest() == arrival
        assert subprocess.run([*python(DIES), arrival]).returncode == -signal.SIGKILL
    assert inbox.newest() == "inbox/older.zip", "what was there before is next"
    assert attempts.KILLED in refused() and f"{arrival} is set aside: {attempts.KILLED}" in caplog.text


def test_another_arrival_of_the_same_name_begins_anew() -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    Path(arrival).write_text("packed again")
    fail(arrival, CommandFailed("it broke", 1))
    assert inbox.newest() == arrival and not QUARANTINE.exists()


def test_an_arrival_that_was_taken_in_is_forgotten() -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    with counting_failures(arrival):
        inbox.let_in(arrival)
    assert attempts.ATTEMPTS.read_text() == "{}"


def test_what_cannot_be_moved_away_is_not_taken_again() -> None:
    inbox.DONE.write_text("a file in the way")
    arrival = arrive()
    for _ in range(2):
        fail(arrival, CommandFailed("it broke", 1))
    assert Path(arrival).exists() and inbox.newest() is None


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"set.zip": 3}', '{"set.zip": {"failures": "x"}}'])
def test_damaged_notes_are_no_obstacle(damage: str) -> None:
    attempts.ATTEMPTS.write_text(damage)
    arrival = arrive()
    for _ in range(2):
        fail(arrival, LanduseError("it broke"))
    assert "it broke" in refused()


def test_a_hostile_name_is_noted_and_set_aside_like_any_other() -> None:
    arrival = str(INBOX / os.fsdecode(b"\x1b[2J\xff\n.zip"))
    Path(arrival).write_text("no archive")
    for _ in range(2):
        fail(arrival, CommandFailed(f"{arrival} broke", 1))
    assert inbox.arrivals() == [] and refused().rstrip("\n").isprintable()


def test_what_is_taken_in_from_elsewhere_is_not_counted(place: Path) -> None:
    (place / "own.zip").touch()
    for _ in range(3):
        fail(str(place / "own.zip"), CommandFailed("it broke", 1))
    assert (place / "own.zip").exists() and not attempts.ATTEMPTS.exists()


@pytest.mark.slow
def test_a_real_flow_sets_aside_what_it_cannot_read_in_time_at_its_second_run(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    tiny.write_params(project, {"pipelines": {"settle_seconds": 0, "retry_seconds": [], "fetch_minutes": 0.0001}})
    INBOX.mkdir()
    with ZipFile(INBOX / "set.zip", "w") as archive:
        archive.writestr("\x1b[31mfield/a.png", b"no image")
    for there in (True, False):
        done = subprocess.run([LANDUSE, "flow", "ingestion"], capture_output=True, text=True)
        assert done.returncode == TEMPORARY and "Traceback" not in done.stdout + done.stderr
        assert (INBOX / "set.zip").exists() == there
    assert "took more than" in refused()


@pytest.mark.parametrize(("name", "depth"), [("d" * 200, 25), ("d", 300)], ids=["long names", "many folders"])
def test_an_arrival_too_deep_to_be_looked_into_is_counted_and_set_aside(name: str, depth: int) -> None:
    (INBOX / "deep").mkdir()
    home = os.getcwd()
    os.chdir(INBOX / "deep")
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    os.chdir(home)
    assert inbox.fingerprint()
    for _ in range(2):
        fail(str(INBOX / "deep"), CommandFailed("too deep", 1))
    assert "too deep" in refused() and inbox.arrivals() == []
    subprocess.run(("rm", "-rf", str(QUARANTINE)), check=True)  # pytest removes folders by their whole path
