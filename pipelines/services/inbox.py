"""inbox/: archives and folders to learn from. A watcher sends Prefect an event once an arrival is complete."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from shutil import move
from tempfile import TemporaryFile

from prefect import get_run_logger
from prefect.events import Event, Resource

from landuse.core.errors import Unavailable, printable
from landuse.core.paths import INBOX, QUARANTINE
from landuse.params import load_params
from pipelines.services import attempts, processes, team_server
from pipelines.services.attempts import Fingerprint
from pipelines.services.client import prefect_client
from pipelines.services.orphans import crash_orphaned_runs

DONE, SUPERSEDED = INBOX / ".done", INBOX / ".superseded"
EVENT = "landuse.arrival"
PARTIAL_SUFFIXES = frozenset({".part", ".tmp", ".crdownload", ".filepart"})
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
MAX_NAME_BYTES = 200
MAX_NAMED = 3


@dataclass(frozen=True)
class Arrival:
    """An archive or folder in inbox/ as it was at one moment.

    files: path, size and change time of everything in it
    rest: seconds since its last change; infinite if that lies in the future, before the clock was set back, as at the
        end of summer time
    """

    path: Path
    files: Fingerprint
    rest: float


def list_arrivals() -> list[Path]:
    """Return the arrivals in inbox/ in the order of their last changes, the oldest first."""
    return [arrival.path for arrival in scan()]


def scan() -> list[Arrival]:
    """Return the arrivals in inbox/ with the state of everything in them, the oldest first."""
    found = {path: files for path in visible_entries() if (files := attempts.fingerprint(path))}
    now = filesystem_now()  # after reading everything: what changes later is not in the future
    latest = {path: max((changed <= now, changed) for _, _, changed in files) for path, files in found.items()}
    return [
        Arrival(path, found[path], (now - latest[path][1]) / 1e9 if latest[path][0] else inf)
        for path in sorted(latest, key=lambda path: latest[path])
    ]


def visible_entries() -> Iterator[Path]:
    """Yield the entries of inbox/ without hidden and partial files, broken links and pipes."""
    for path in INBOX.glob("*"):
        with suppress(OSError):  # removed meanwhile, or a link to a place that this user may not read
            is_partial = path.name.startswith(".") or path.suffix in PARTIAL_SUFFIXES
            if not is_partial and (path.is_file() or path.is_dir()):
                yield path


def filesystem_now() -> int:
    """Return the time in ns on the clock that dates changes in inbox/: a network drive may have its own."""
    with suppress(OSError), TemporaryFile(dir=INBOX) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns
    return time.time_ns()


def next_arrival() -> str | None:
    """Return the newest arrival that has settled; None if there is none. Waits as `settled_arrivals` does."""
    return next(usable_arrivals(), None)


def all_arrivals() -> list[str]:
    """Return every arrival that has settled, the oldest first. Waits as `settled_arrivals` does."""
    return list(usable_arrivals())[::-1]


def usable_arrivals() -> Iterator[str]:
    """Yield the arrivals that have settled, the newest first; move those to quarantine/ that used up their attempts."""
    for path in reversed(settled_arrivals(load_params().pipelines.settle_seconds)):
        if attempts.is_exhausted(path):
            quarantine_exhausted(path)
        else:
            yield str(path)


def quarantine_exhausted(arrival: Path) -> None:
    """Quarantine an arrival that has used up its attempts."""
    reason = f"{attempts.last_reason(arrival)} (it made {attempts.MAX_FAILURES} runs fail)"
    get_run_logger().warning(printable(f"{arrival} is set aside: {reason}"))
    quarantine(arrival, reason)


def mark_added(arrival: str) -> None:
    """Move an arrival that was added to .done/."""
    move_out(arrival, DONE)


def mark_ingested(arrival: str) -> None:
    """Move an ingested arrival to .done/ and all older ones to .superseded/: each is a complete data set.

    One that was changed later, or still is, is no older one.
    """
    arrivals, path = list_arrivals(), Path(arrival)
    for older in arrivals[: arrivals.index(path)] if path in arrivals else []:
        move_out(older, SUPERSEDED)
    move_out(path, DONE)


def settled_arrivals(settle_seconds: float) -> list[Path]:
    """Return the arrivals at rest, oldest first, after waiting for those being copied, with a log entry.

    The wait ends after PATIENCE_SECONDS, or as soon as another arrival has been at rest for so long: one that changes
    for ever, such as a log file, stays in inbox/ and does not hold up the others.
    """
    arrivals, deadline = scan(), time.monotonic() + settle_seconds + PATIENCE_SECONDS
    if names := changing_names(arrivals, settle_seconds):
        message = "%s: still changing; waiting until at rest for %g s, for %g s at most"
        get_run_logger().info(message, names, settle_seconds, settle_seconds + PATIENCE_SECONDS)
    while not due(arrivals, settle_seconds) and changing_names(arrivals, settle_seconds):
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
        arrivals = scan()
    if names := changing_names(arrivals, settle_seconds):
        get_run_logger().warning("%s: still changing; left in inbox/ for a later run", names)
    return [arrival.path for arrival in arrivals if arrival.rest >= settle_seconds]


def changing_names(arrivals: list[Arrival], settle_seconds: float) -> str:
    """Name the arrivals that have not settled, the first few at least; empty if all have."""
    paths = [printable(str(arrival.path)) for arrival in arrivals if arrival.rest < settle_seconds]
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(paths[:MAX_NAMED]) + more


def due(arrivals: list[Arrival], settle_seconds: float) -> list[Arrival]:
    """Return the arrivals to be ingested now: all once nothing changes any more, before that those that waited."""
    are_settled = all(arrival.rest >= settle_seconds for arrival in arrivals)
    patience = 0.0 if are_settled else PATIENCE_SECONDS
    return [arrival for arrival in arrivals if arrival.rest >= settle_seconds + patience]


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


def all_files(arrivals: list[Arrival]) -> Fingerprint:
    """Return the fingerprints of several arrivals in one."""
    return frozenset().union(*(arrival.files for arrival in arrivals))


def watch(settle_seconds: float) -> None:
    """Send an event whenever new arrivals are due, and crash orphaned runs. Never returns.

    If the server is away, the next poll tries again.
    """
    INBOX.mkdir(exist_ok=True)
    reported: Fingerprint = frozenset()
    while True:
        # Without a team's server, another program may have the port of our own.
        if team_server.is_named() or processes.is_running(processes.prefect_server()):
            with suppress(Unavailable):
                crash_orphaned_runs()
            with suppress(Unavailable):
                arrivals = scan()
                reported &= all_files(arrivals)
                ready = due(arrivals, settle_seconds)
                if all_files(ready) - reported:
                    send_event([arrival.path for arrival in ready])
                    reported |= all_files(ready)
        time.sleep(POLL_SECONDS)


def send_event(arrivals: list[Path]) -> None:
    """Send the event that triggers retraining. Raises Unavailable if the server does not accept it."""
    resource = Resource({"prefect.resource.id": "landuse.inbox"})
    event = Event(event=EVENT, resource=resource, payload={"arrivals": len(arrivals)})
    with prefect_client() as client:  # emit_event sends in the background and hides what is lost
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
