"""inbox/: archives and folders to learn from. A watcher sends Prefect an event once an arrival is complete."""

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shutil import move
from tempfile import TemporaryFile

from prefect import get_run_logger
from prefect.events import Event, Resource

from landuse.core.errors import Unavailable, printable
from landuse.core.paths import INBOX, QUARANTINE
from landuse.params import load_params
from pipelines.services import attempts, processes
from pipelines.services.attempts import file_stat, walk
from pipelines.services.client import prefect_client
from pipelines.services.orphans import crash_orphaned_runs

DONE, SUPERSEDED = INBOX / ".done", INBOX / ".superseded"
EVENT = "landuse.arrival"
PARTIAL_SUFFIXES = frozenset({".part", ".tmp", ".crdownload", ".filepart"})
POLL_SECONDS = 1.0
MAX_NAME_BYTES = 200

Fingerprint = frozenset[tuple[str, int, int]]


def list_arrivals() -> list[Path]:
    """Return the arrivals in inbox/, oldest first, without hidden and partial files, broken links and pipes.

    A time in the future dates from before the clock was set back, as at the end of summer time.
    """
    arrived_at: dict[Path, int] = {}
    for path in INBOX.glob("*"):
        if path.name.startswith(".") or path.suffix in PARTIAL_SUFFIXES:
            continue
        with suppress(OSError):  # removed meanwhile, or a link to a place that this user may not read
            if path.is_file() or path.is_dir():
                arrived_at[path] = path.lstat().st_ctime_ns
    now = filesystem_now()
    return sorted(arrived_at, key=lambda path: (arrived_at[path] <= now, arrived_at[path]))


def filesystem_now() -> int:
    """Return the time in ns on the clock that dates changes in inbox/: a network drive may have its own."""
    with suppress(OSError), TemporaryFile(dir=INBOX) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns
    return time.time_ns()


def next_arrival() -> str | None:
    """Wait until the inbox has settled, then return its newest arrival; None if it is empty.

    Arrivals that have used up their attempts are moved to quarantine/.
    """
    wait_until_settled(load_params().pipelines.settle_seconds)
    for path in reversed(list_arrivals()):
        if not attempts.is_exhausted(path):
            return str(path)
        quarantine_exhausted(path)
    return None


def quarantine_exhausted(arrival: Path) -> None:
    """Quarantine an arrival that has used up its attempts."""
    reason = f"{attempts.last_reason(arrival)} (it made {attempts.MAX_FAILURES} runs fail)"
    get_run_logger().warning(printable(f"{arrival} is set aside: {reason}"))
    quarantine(arrival, reason)


def mark_ingested(arrival: str) -> None:
    """Move an ingested arrival to .done/ and all older ones to .superseded/: each is a complete data set."""
    arrivals, path = list_arrivals(), Path(arrival)
    for older in arrivals[: arrivals.index(path)] if path in arrivals else []:
        move_out(older, SUPERSEDED)
    move_out(path, DONE)


def wait_until_settled(settle_seconds: float) -> None:
    """Block until nothing is being copied into the inbox any more, and log that once."""
    if not is_settled(fingerprint(), settle_seconds):
        get_run_logger().info("inbox/ is still changing: waiting until it has been at rest for %g s", settle_seconds)
        while not is_settled(fingerprint(), settle_seconds):
            time.sleep(POLL_SECONDS)


def move_out(arrival: str | Path, folder: Path) -> None:
    """Move an arrival out of the inbox under a timestamped name; any other path is left alone.

    An arrival leaves by a single rename, since half of it left behind could be taken for a data set. If that fails,
    it stays and a warning is logged.
    """
    path = Path(arrival)
    if path.parent == INBOX and path.exists():
        try:
            DONE.mkdir(exist_ok=True)
            done = path.rename(DONE / timestamped(path.name))
            if folder != DONE:
                folder.mkdir(parents=True, exist_ok=True)
                move(done, folder / done.name)
        except OSError as error:
            warning = printable(f"{path} cannot be put away ({error}): take it out of inbox/ by hand")
            get_run_logger().warning(warning)


def quarantine(arrival: str | Path, reason: str) -> None:
    """Move a refused arrival to quarantine/, beside the report that `reason` names or into a folder of its own."""
    reports = (path for path in QUARANTINE.glob("*") if f"{path}/" in reason)
    folder = next(reports, QUARANTINE / timestamped(Path(arrival).stem))
    move_out(arrival, folder)
    if folder.exists():
        (folder / "refused.txt").write_text(printable(reason) + "\n", encoding="utf-8")


def timestamped(name: str) -> str:
    """Prefix a name with the current time; a name too long for the file system keeps its end."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.fsencode(name)[-MAX_NAME_BYTES:].decode(errors='ignore')}"


def fingerprint() -> Fingerprint:
    """Return path, size in bytes and change time in ns of every file and folder that arrived.

    Unreadable ones are left out: `landuse ingest` reports them.
    """
    while True:
        with suppress(FileNotFoundError):  # removed meanwhile
            files = (file for path in list_arrivals() for file in walk(path))
            return frozenset(filter(None, map(file_stat, files)))


def is_settled(files: Fingerprint, settle_seconds: float) -> bool:
    """Return True if nothing has changed for `settle_seconds`, so that no copy is in progress.

    A time in the future dates from before the clock was set back.
    """
    now = filesystem_now()
    latest = max((changed for _, _, changed in files if changed <= now), default=0)
    return now - latest >= settle_seconds * 1e9


def watch(settle_seconds: float) -> None:
    """Send an event whenever new arrivals have settled, and crash orphaned runs. Never returns.

    If the server is away, the next poll tries again.
    """
    INBOX.mkdir(exist_ok=True)
    reported: Fingerprint = frozenset()
    while True:
        if processes.is_running(processes.prefect_server()):  # else another program may have its port
            with suppress(Unavailable):
                crash_orphaned_runs()
            with suppress(Unavailable):
                current = fingerprint()
                reported &= current
                if current - reported and is_settled(current, settle_seconds):
                    send_event(list_arrivals())
                    reported = current
        time.sleep(POLL_SECONDS)


def send_event(arrivals: list[Path]) -> None:
    """Send the event that triggers retraining. Raises Unavailable if the server does not accept it."""
    resource = Resource({"prefect.resource.id": "landuse.inbox"})
    event = Event(event=EVENT, resource=resource, payload={"arrivals": len(arrivals)})
    with prefect_client() as client:  # emit_event sends in the background and hides what is lost
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
