"""Failed ingestion attempts per arrival. An attempt is recorded before it starts, so that killed runs count too."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from landuse.core.files import write_atomically
from landuse.core.paths import INBOX, SERVICES
from landuse.core.process import read_json_or_empty

ATTEMPTS = SERVICES / "attempts.json"
MAX_FAILURES = 2
MAX_LINKED = 10_000
KILLED = "the run that took it in was killed, or memory or power failed"

Fingerprint = frozenset[tuple[str, int, int]]


def begin(arrival: Path) -> None:
    """Record an attempt, counted as failed until it ends."""
    write_entry(arrival, failure_count(arrival) + 1, KILLED)


def fail(arrival: Path, reason: str) -> None:
    """Record why the current attempt failed."""
    write_entry(arrival, failure_count(arrival), reason)


def cancel(arrival: Path) -> None:
    """Stop counting the current attempt."""
    write_entry(arrival, failure_count(arrival) - 1, KILLED)


def clear(arrival: Path) -> None:
    """Forget all attempts of an arrival, after one succeeded."""
    write_entry(arrival, 0, "")


def is_exhausted(arrival: Path) -> bool:
    """Return True if the arrival has used up its attempts."""
    return failure_count(arrival) >= MAX_FAILURES


def failure_count(arrival: Path) -> int:
    """Return how many runs failed on this arrival; another one of the same name starts at zero."""
    entry = read_entry(arrival)
    return int(entry["failures"]) if entry.get("fingerprint") == digest(arrival) else 0


def last_reason(arrival: Path) -> str:
    """Return why the last attempt failed."""
    return str(read_entry(arrival).get("reason", KILLED))


def read_entry(arrival: Path) -> dict[str, Any]:
    """Return what is recorded under the name of an arrival; an empty dict if nothing is."""
    entry = read_entries().get(arrival.name)
    return entry if isinstance(entry, dict) and isinstance(entry.get("failures"), int) else {}


def read_entries() -> dict[str, Any]:
    """Return all entries by arrival name; an empty dict if the file is missing or damaged."""
    entries = read_json_or_empty(ATTEMPTS)
    return entries if isinstance(entries, dict) else {}


def write_entry(arrival: Path, failures: int, reason: str) -> None:
    """Set the failures of an arrival, and drop the entries of arrivals that left the inbox."""
    entries = {name: entry for name, entry in read_entries().items() if os.path.lexists(INBOX / name)}
    entries.pop(arrival.name, None)
    if failures > 0 and arrival.exists():
        entries[arrival.name] = {"fingerprint": digest(arrival), "failures": failures, "reason": reason}
    write_atomically(ATTEMPTS, json.dumps(entries))


def digest(arrival: Path) -> str:
    """Return a SHA-256 of the paths, sizes and change times in an arrival; all missing arrivals share one."""
    return hashlib.sha256(repr(sorted(fingerprint(arrival))).encode("utf-8", "surrogateescape")).hexdigest()


def fingerprint(arrival: Path) -> Fingerprint:
    """Return path, size in bytes and change time in ns of an arrival and everything in it.

    What is unreadable or removed meanwhile is left out: `landuse ingest` reports it.
    """
    return frozenset(filter(None, map(file_stat, walk(arrival))))


def walk(arrival: Path) -> Iterator[Path]:
    """Yield an arrival and everything below it, without recursion; unreadable folders are skipped.

    Behind a link only the first MAX_LINKED are walked: it may lead to /proc or to a whole disk.
    """
    return islice(descend(arrival), MAX_LINKED if os.path.islink(arrival) else None)


def descend(arrival: Path) -> Iterator[Path]:
    """Yield an arrival and everything below it. Only the arrival itself may be a link that is followed."""
    pending = [arrival]
    while pending:
        path = pending.pop()
        yield path
        with suppress(OSError):
            if path.is_dir() and (path == arrival or not path.is_symlink()):
                pending += path.iterdir()


def file_stat(file: Path) -> tuple[str, int, int] | None:
    """Return path, size in bytes and change time in ns; None if the file cannot be read or is gone."""
    with suppress(OSError):
        stat = file.lstat()
        return str(file), stat.st_size, stat.st_ctime_ns
    return None
