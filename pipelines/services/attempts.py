"""How often each arrival made a run fail. The attempt is noted before it begins, so that a killed run counts too."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from landuse.core.files import write_whole
from landuse.core.paths import INBOX, SERVICES
from landuse.core.process import noted

ATTEMPTS = SERVICES / "attempts.json"
MOST = 2
KILLED = "the run that took it in was killed, or memory or power failed"


def begin(arrival: Path) -> None:
    """Note an attempt, as one that comes to no end."""
    write(arrival, failures(arrival) + 1, KILLED)


def fail(arrival: Path, reason: str) -> None:
    """Note why the attempt failed."""
    write(arrival, failures(arrival), reason)


def take_back(arrival: Path) -> None:
    """The attempt does not count."""
    write(arrival, failures(arrival) - 1, KILLED)


def forget(arrival: Path) -> None:
    """The attempt came to its end, whatever happened before."""
    write(arrival, 0, "")


def is_hopeless(arrival: Path) -> bool:
    """Whether it made as many runs fail as one may."""
    return failures(arrival) >= MOST


def failures(arrival: Path) -> int:
    """How many runs this very arrival made fail."""
    found = entry(arrival)
    return found["failures"] if found.get("fingerprint") == fingerprint_of(arrival) else 0


def reason_of(arrival: Path) -> str:
    """Why it failed the last time."""
    return entry(arrival).get("reason", KILLED)


def entry(arrival: Path) -> dict[str, Any]:
    """The note on an arrival of this name; an empty one where there is none."""
    found = entries().get(arrival.name)
    return found if isinstance(found, dict) and isinstance(found.get("failures"), int) else {}


def entries() -> dict[str, Any]:
    """All that is noted, by the name of the arrival; nothing where the notes are damaged."""
    found = noted(ATTEMPTS)
    return found if isinstance(found, dict) else {}


def write(arrival: Path, number: int, reason: str) -> None:
    """Note failures of an arrival; what lies in the inbox no more is forgotten."""
    notes = {name: kept for name, kept in entries().items() if os.path.lexists(INBOX / name)}
    notes.pop(arrival.name, None)
    if number > 0 and arrival.exists():
        notes[arrival.name] = {"fingerprint": fingerprint_of(arrival), "failures": number, "reason": reason}
    write_whole(ATTEMPTS, json.dumps(notes))


def fingerprint_of(arrival: Path) -> str:
    """A digest that tells an arrival from another one of the same name; one of its own for those that are gone."""
    try:
        found = sorted(filter(None, map(facts, contents(arrival))))
    except FileNotFoundError:
        found = []
    return hashlib.sha256(repr(found).encode("utf-8", "surrogateescape")).hexdigest()


def contents(arrival: Path) -> Iterator[Path]:
    """An arrival and all that lies in it, however deep; folders that cannot be looked into are passed over."""
    waiting = [arrival]
    while waiting:
        path = waiting.pop()
        yield path
        with suppress(OSError):
            if path.is_dir() and (path == arrival or not path.is_symlink()):
                waiting += path.iterdir()


def facts(file: Path) -> tuple[str, int, int] | None:
    """Name, size and time of the last change, in ns; None of a file that cannot be looked at.

    Raises FileNotFoundError where it was taken away.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return str(file), found.st_size, found.st_ctime_ns
