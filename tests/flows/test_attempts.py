"""An arrival on which two runs failed is quarantined with the reason, so that it never blocks the inbox."""

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
from pipelines.ingestion import tracked_attempt
from pipelines.services import attempts, inbox
from pipelines.steps.commands import TEMPORARY, CommandFailed, CommandTimeout

LANDUSE = str(Path(sys.executable).with_name("landuse"))
KILLS_ITSELF = """
import os, signal, sys
from pipelines.ingestion import tracked_attempt
with tracked_attempt(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def settled(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_params(work_dir, {"pipelines": {"settle_seconds": 0}})
    monkeypatch.setattr(inbox, "get_run_logger", lambda: logging.getLogger("run"))


def arrive(name: str = "set.zip") -> str:
    (INBOX / name).write_text(name)
    return str(INBOX / name)


def fail(arrival: str, error: BaseException) -> None:
    """Simulate a run that fails to ingest the arrival."""
    with pytest.raises(type(error)), tracked_attempt(arrival):
        raise error


def refusal_reason() -> str:
    """Return the reason in the only quarantined report."""
    [report] = QUARANTINE.glob("*/refused.txt")
    return report.read_text()


@pytest.mark.parametrize("error", [CommandFailed("it broke", 1), CommandFailed("it broke", -9), KeyError("it broke")])
def test_an_arrival_that_fails_twice_is_quarantined_with_the_reason(error: Exception) -> None:
    arrival = arrive()
    fail(arrival, error)
    assert inbox.next_arrival() == arrival and not QUARANTINE.exists()
    fail(arrival, error)
    assert inbox.next_arrival() is None and inbox.list_arrivals() == []
    assert "it broke" in refusal_reason() and "made 2 runs fail" in refusal_reason()


def test_a_timeout_counts_as_a_failed_attempt() -> None:
    arrival = arrive()
    for _ in range(2):
        fail(arrival, CommandTimeout("landuse fetch took more than 60 s", TEMPORARY))
    assert "took more than 60 s" in refusal_reason()


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
def test_unrelated_errors_and_a_stop_are_not_counted(error: BaseException) -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    for _ in range(3):
        fail(arrival, error)
    assert inbox.next_arrival() == arrival and not QUARANTINE.exists()
    fail(arrival, CommandFailed("it broke again", 1))
    assert "it broke again" in refusal_reason()


@pytest.mark.slow
def test_a_flow_killed_during_ingestion_counts_as_a_failed_attempt(caplog: pytest.LogCaptureFixture) -> None:
    arrive("older.zip")
    os.utime(INBOX / "older.zip", (0, 0))
    arrival = arrive()
    for _ in range(2):
        assert inbox.next_arrival() == arrival
        assert subprocess.run([*python(KILLS_ITSELF), arrival]).returncode == -signal.SIGKILL
    assert inbox.next_arrival() == "inbox/older.zip", "the older arrival is next"
    assert attempts.KILLED in refusal_reason() and f"{arrival} is set aside: {attempts.KILLED}" in caplog.text


def test_another_arrival_of_the_same_name_starts_at_zero() -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    Path(arrival).write_text("packed again")
    fail(arrival, CommandFailed("it broke", 1))
    assert inbox.next_arrival() == arrival and not QUARANTINE.exists()


def test_an_ingested_arrival_is_cleared() -> None:
    arrival = arrive()
    fail(arrival, CommandFailed("it broke", 1))
    with tracked_attempt(arrival):
        inbox.mark_ingested(arrival)
    assert attempts.ATTEMPTS.read_text() == "{}"


def test_an_exhausted_arrival_that_cannot_be_moved_is_skipped() -> None:
    inbox.DONE.write_text("a file in the way")
    arrival = arrive()
    for _ in range(2):
        fail(arrival, CommandFailed("it broke", 1))
    assert Path(arrival).exists() and inbox.next_arrival() is None


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"set.zip": 3}', '{"set.zip": {"failures": "x"}}'])
def test_a_damaged_attempts_file_is_ignored(damage: str) -> None:
    attempts.ATTEMPTS.write_text(damage)
    arrival = arrive()
    for _ in range(2):
        fail(arrival, LanduseError("it broke"))
    assert "it broke" in refusal_reason()


def test_an_arrival_with_control_characters_in_its_name_is_quarantined() -> None:
    arrival = str(INBOX / os.fsdecode(b"\x1b[2J\xff\n.zip"))
    Path(arrival).write_text("no archive")
    for _ in range(2):
        fail(arrival, CommandFailed(f"{arrival} broke", 1))
    assert inbox.list_arrivals() == [] and refusal_reason().rstrip("\n").isprintable()


def test_a_source_outside_of_the_inbox_is_not_counted(work_dir: Path) -> None:
    (work_dir / "own.zip").touch()
    for _ in range(3):
        fail(str(work_dir / "own.zip"), CommandFailed("it broke", 1))
    assert (work_dir / "own.zip").exists() and not attempts.ATTEMPTS.exists()


@pytest.mark.slow
def test_a_real_flow_quarantines_an_arrival_after_its_second_timeout(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    tiny.write_params(project, {"pipelines": {"settle_seconds": 0, "retry_seconds": [], "fetch_minutes": 0.0001}})
    INBOX.mkdir()
    with ZipFile(INBOX / "set.zip", "w") as archive:
        archive.writestr("\x1b[31mfield/a.png", b"no image")
    for still_there in (True, False):
        result = subprocess.run([LANDUSE, "flow", "ingestion"], capture_output=True, text=True)
        assert result.returncode == TEMPORARY and "Traceback" not in result.stdout + result.stderr
        assert (INBOX / "set.zip").exists() == still_there
    assert "took more than" in refusal_reason()


@pytest.mark.parametrize(("name", "depth"), [("d" * 200, 25), ("d", 300)], ids=["long names", "many folders"])
def test_an_arrival_too_deep_to_be_walked_is_counted_and_quarantined(name: str, depth: int) -> None:
    (INBOX / "deep").mkdir()
    home = os.getcwd()
    os.chdir(INBOX / "deep")
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    os.chdir(home)
    assert attempts.fingerprint(INBOX / "deep")
    for _ in range(2):
        fail(str(INBOX / "deep"), CommandFailed("too deep", 1))
    assert "too deep" in refusal_reason() and inbox.list_arrivals() == []
    subprocess.run(("rm", "-rf", str(QUARANTINE)), check=True)  # pytest would remove folders by their full path
