"""inbox/: archives and folders that arrive to be learned from. A watcher tells Prefect when one is complete."""

import time
from datetime import UTC, datetime
from pathlib import Path
from shutil import move

from prefect.events import emit_event

from landuse.params import load_params
from landuse.paths import INBOX, QUARANTINE

DONE, SUPERSEDED = INBOX / ".done", INBOX / ".superseded"
EVENT = "landuse.arrival"
UNFINISHED = frozenset({".part", ".tmp", ".crdownload", ".filepart"})
LOOK_SECONDS = 1.0

Fingerprint = frozenset[tuple[str, int, int]]


def arrivals() -> list[Path]:
    """What lies in inbox/, the oldest first; hidden and half-copied names are left out."""
    found = (path for path in INBOX.glob("*") if not path.name.startswith(".") and path.suffix not in UNFINISHED)
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def newest() -> str | None:
    """The arrival to take in, if there is one. What came before it is put aside: an arrival is a whole data set."""
    found = arrivals()
    for path in found[:-1]:
        put_away(path, SUPERSEDED)
    return str(found[-1]) if found else None


def put_away(arrival: str | Path, folder: Path) -> None:
    """Move an arrival out of the inbox, under a name with the time; anything else stays where it is."""
    path = Path(arrival)
    if path.parent == INBOX and path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        move(path, folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{path.name}")


def set_aside(arrival: str | Path, complaint: str) -> None:
    """Move an arrival that was refused to quarantine/: beside its report, or with the complaint as its report."""
    reports = (path for path in QUARANTINE.glob("*") if f"{path}/" in complaint)
    folder = next(reports, QUARANTINE / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{Path(arrival).stem}")
    put_away(arrival, folder)
    if folder.exists():
        (folder / "refused.txt").write_text(complaint + "\n", encoding="utf-8")


def fingerprint() -> Fingerprint:
    """Name, size and time of every file that arrived: the same twice means that nothing is being copied."""
    files = (file for path in arrivals() for file in (path.rglob("*") if path.is_dir() else (path,)))
    return frozenset((str(file), (facts := file.stat()).st_size, facts.st_mtime_ns) for file in files)


def watch(settle_seconds: float) -> None:
    """Emit one event for everything that arrived by the time the inbox came to rest. Never returns."""
    INBOX.mkdir(exist_ok=True)
    told, last, since = frozenset(), frozenset(), time.monotonic()
    while True:
        try:
            now = fingerprint()
        except FileNotFoundError:  # taken away while looked at
            continue
        told &= now
        if now != last:
            last, since = now, time.monotonic()
        elif now - told and time.monotonic() - since >= settle_seconds:
            emit_event(EVENT, resource={"prefect.resource.id": "landuse.inbox"}, payload={"arrivals": len(arrivals())})
            told = now
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    watch(load_params().pipelines.settle_seconds)
