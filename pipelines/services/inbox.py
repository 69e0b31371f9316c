"""inbox/: archives and folders that arrive to be learned from. A watcher tells Prefect when one is complete."""

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shutil import move
from tempfile import TemporaryFile

from prefect import get_run_logger
from prefect.events import Event

from landuse.core.errors import Unavailable, printable
from landuse.core.paths import INBOX, QUARANTINE
from landuse.params import load_params
from pipelines.services import attempts, processes
from pipelines.services.attempts import contents, facts
from pipelines.services.client import server
from pipelines.services.orphans import end_lost_runs

DONE, SUPERSEDED = INBOX / ".done", INBOX / ".superseded"
EVENT = "landuse.arrival"
UNFINISHED = frozenset({".part", ".tmp", ".crdownload", ".filepart"})
LOOK_SECONDS = 1.0
NAME_BYTES = 200

Fingerprint = frozenset[tuple[str, int, int]]


def arrivals() -> list[Path]:
    """The arrivals in inbox/, the oldest first; hidden and half-copied names, broken links and pipes are left out.

    What came at a time that is still to come was there before the clock was set back, as in a night of October.
    """
    came: dict[Path, int] = {}
    for path in INBOX.glob("*"):
        if path.name.startswith(".") or path.suffix in UNFINISHED:
            continue
        with suppress(OSError):  # taken away while looked at, or a link to where this user may not look
            if path.is_file() or path.is_dir():
                came[path] = path.lstat().st_ctime_ns
    now = clock()
    return sorted(came, key=lambda path: (came[path] <= now, came[path]))


def clock() -> int:
    """Now, in ns, by the clock that dates changes in inbox/: that of a network drive may be another than ours."""
    with suppress(OSError), TemporaryFile(dir=INBOX) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns
    return time.time_ns()


def newest() -> str | None:
    """The arrival to take in, if there is one, when it is complete; those that make every run fail are set aside."""
    wait_for_rest(load_params().pipelines.settle_seconds)
    for path in reversed(arrivals()):
        if not attempts.is_hopeless(path):
            return str(path)
        give_up(path)
    return None


def give_up(arrival: Path) -> None:
    """Set aside an arrival that made as many runs fail as one may."""
    reason = f"{attempts.reason_of(arrival)} (it made {attempts.MOST} runs fail)"
    get_run_logger().warning(printable(f"{arrival} is set aside: {reason}"))
    set_aside(arrival, reason)


def let_in(arrival: str) -> None:
    """Put away an arrival that was taken in, and aside what came before it: an arrival is a whole data set."""
    found, path = arrivals(), Path(arrival)
    for older in found[: found.index(path)] if path in found else []:
        put_away(older, SUPERSEDED)
    put_away(path, DONE)


def wait_for_rest(settle_seconds: float) -> None:
    """Return when nothing is being copied into the inbox any more; the log says what is waited for."""
    if not is_at_rest(fingerprint(), settle_seconds):
        get_run_logger().info("inbox/ is still changing: waiting until it has been at rest for %g s", settle_seconds)
        while not is_at_rest(fingerprint(), settle_seconds):
            time.sleep(LOOK_SECONDS)


def put_away(arrival: str | Path, folder: Path) -> None:
    """Move an arrival out of the inbox, under a name with the time; anything else stays where it is.

    So does, with a warning, what cannot be moved: an arrival leaves by one rename, or half of it might stay and be
    taken for a data set.
    """
    path = Path(arrival)
    if path.parent == INBOX and path.exists():
        try:
            DONE.mkdir(exist_ok=True)
            done = path.rename(DONE / dated(path.name))
            if folder != DONE:
                folder.mkdir(parents=True, exist_ok=True)
                move(done, folder / done.name)
        except OSError as error:
            told = printable(f"{path} cannot be put away ({error}): take it out of inbox/ by hand")
            get_run_logger().warning(told)


def set_aside(arrival: str | Path, complaint: str) -> None:
    """Move an arrival that was refused to quarantine/: beside its report, or with the complaint as its report."""
    reports = (path for path in QUARANTINE.glob("*") if f"{path}/" in complaint)
    folder = next(reports, QUARANTINE / dated(Path(arrival).stem))
    put_away(arrival, folder)
    if folder.exists():
        (folder / "refused.txt").write_text(printable(complaint) + "\n", encoding="utf-8")


def dated(name: str) -> str:
    """A name with the time before it; of one that would be too long for the file system, the end."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.fsencode(name)[-NAME_BYTES:].decode(errors='ignore')}"


def fingerprint() -> Fingerprint:
    """Name, size and time of the last change, in ns, of everything that arrived.

    What may not be looked at is left out: `landuse ingest` says so in words.
    """
    while True:
        with suppress(FileNotFoundError):  # taken away while looked at
            files = (file for path in arrivals() for file in contents(path))
            return frozenset(filter(None, map(facts, files)))


def is_at_rest(found: Fingerprint, settle_seconds: float) -> bool:
    """Whether nothing has changed for so long: nothing is being copied any more.

    A change at a time that is still to come was made before the clock was set back.
    """
    now = clock()
    latest = max((changed for _, _, changed in found if changed <= now), default=0)
    return now - latest >= settle_seconds * 1e9


def watch(settle_seconds: float) -> None:
    """Tell of everything that arrived by the time the inbox came to rest, and end lost runs. Never returns.

    What the server is not there to take is done at the next look.
    """
    INBOX.mkdir(exist_ok=True)
    told: Fingerprint = frozenset()
    while True:
        if processes.is_running(processes.prefect_server()):  # else another program may have its port
            with suppress(Unavailable):
                end_lost_runs()
            with suppress(Unavailable):
                now = fingerprint()
                told &= now
                if now - told and is_at_rest(now, settle_seconds):
                    tell_of(arrivals())
                    told = now
        time.sleep(LOOK_SECONDS)


def tell_of(found: list[Path]) -> None:
    """Send the event on which retraining starts. Raises Unavailable where the server does not take it."""
    resource = {"prefect.resource.id": "landuse.inbox"}
    event = Event(event=EVENT, resource=resource, payload={"arrivals": len(found)})
    with server() as client:  # emit_event sends in the background and says nothing of what is lost
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
