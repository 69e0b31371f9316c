"""The lock on the aliases of a model: an open entry of the ledger. No clock of another machine is trusted.

Turns: whoever wants the lock opens an entry and then looks for others. Of two that see each other the smaller id waits
and the other gives way; since each is written before its owner looks, at least one sees the other.

Life: a holder counts up a tag of its entry every `RENEW_SECONDS`. Whoever meets an entry whose count stands still for
`STILL_LOOKS` looks marks it as given up, which is final. A look that took long, because the server or this process was
away, counts once.

Recovery: by the next holder of the lock, from the entry and the aliases alone. One that was stopped, too, is therefore
repeated by the holder after it. A holder that was merely paused looks for the mark before it moves an alias or closes
an entry, and stops. Should it be paused once more between that look and the move, alias and ledger differ, which every
command reports.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from threading import Event, Thread
from time import monotonic, sleep

from mlflow import MlflowClient

from landuse.core.errors import Unavailable, printable
from landuse.registry.audit_log import COUNT, GIVEN_UP, OPEN, Entry, entries
from landuse.tracking.backend_store import handled_errors

RENEW_SECONDS = 2.0
LOOK_SECONDS = 0.5
STILL_LOOKS = 120
STILL_LOOKS_OF_EARLIER = 1200  # of an entry without a count, by an earlier version
QUIET_LOOKS = 10  # before the user is told what is waited for
WAIT_SECONDS = 60


class TurnLost(Unavailable):
    """Others gave up the entry of this process: it must change nothing more."""


class Watch:
    """A watch on the open entries of a model, looked at again and again; `mine` is left out."""

    def __init__(self, name: str, mine: str = "") -> None:
        self.name, self.mine = name, mine
        self.seen: dict[str, tuple[str | None, int]] = {}  # the count of each entry, and for how many looks it stood
        self.alive: set[str] = set()

    def look(self) -> list[Entry]:
        """Return the open entries, the smallest id first, after giving up those that stood still for too long."""
        others = [entry for entry in entries(self.name, OPEN) if entry.id != self.mine]
        for entry in others:
            if not entry.is_orphan():
                self.observe(entry)
        return sorted(others, key=lambda entry: entry.id)

    def observe(self, entry: Entry) -> None:
        """Compare an entry with how it was at the look before."""
        counted = entry.tags.get(COUNT)
        before, looks = self.seen.get(entry.id, (counted, 0))
        if counted != before:
            self.alive.add(entry.id)
            looks = 0
        limit = STILL_LOOKS_OF_EARLIER if counted is None else STILL_LOOKS
        if looks == QUIET_LOOKS:
            seconds = (limit - looks) * LOOK_SECONDS
            print(f"landuse: {describe(entry)}, but shows no life: waiting {seconds:.0f} s for it", file=sys.stderr)
        if looks >= limit:
            MlflowClient().set_tag(entry.id, GIVEN_UP, "it stood still")
        self.seen[entry.id] = counted, looks + 1


@contextmanager
def kept_alive(mine: Entry) -> Iterator[None]:
    """Count up an entry, from a thread, as long as the context lasts."""
    over = Event()
    thread = Thread(target=renew, args=(mine.id, MlflowClient(), over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(RENEW_SECONDS)  # not longer: the store may be out of reach


def renew(entry_id: str, client: MlflowClient, over: Event) -> None:
    """Count up an entry until it is over; a store that does not answer is tried again."""
    for number in count(1):
        if over.wait(RENEW_SECONDS):
            return
        with suppress(*handled_errors()):
            client.set_tag(entry_id, COUNT, str(number))


def wait_for_turn(mine: Entry) -> list[Entry]:
    """Wait until no other live entry of the model is open; return the orphans, the smallest id first.

    Raises Unavailable if `mine` has to give way, and TurnLost if it was given up meanwhile.
    """
    watch, end = Watch(mine.tags["model"], mine.id), monotonic() + WAIT_SECONDS
    while True:
        others = watch.look()
        orphans = [entry for entry in others if entry.is_orphan()]
        if len(orphans) == len(others):
            require_turn(mine)
            return orphans
        for entry in others:
            if entry.id in watch.alive and (entry.id < mine.id or monotonic() > end):
                raise busy_error(entry)
        sleep(LOOK_SECONDS)


def find_orphans(name: str) -> list[Entry]:
    """Return the orphans of a model, watching its open entries until each is known to be one, or shows life."""
    watch = Watch(name)
    while True:
        others = watch.look()
        orphans = [entry for entry in others if entry.is_orphan()]
        if all(entry in orphans or entry.id in watch.alive for entry in others):
            return orphans
        sleep(LOOK_SECONDS)


def require_turn(mine: Entry) -> None:
    """Raise TurnLost unless the entry is still open and was not given up."""
    still_open = {entry.id for entry in entries(mine.tags["model"], OPEN) if GIVEN_UP not in entry.tags}
    if mine.id not in still_open:
        raise TurnLost(
            f"this {mine.action} of {mine.tags['model']} stood still until another command took it for dead: "
            "landuse history shows what became of it, then try again"
        )


def refuse_if_busy(name: str) -> None:
    """Raise Unavailable if an entry of the model is open."""
    if opened := entries(name, OPEN):
        raise busy_error(opened[0])


def busy_error(entry: Entry) -> Unavailable:
    """Build the error that names the command which holds the lock."""
    return Unavailable(f"{describe(entry)}: try again when it is over")


def describe(entry: Entry) -> str:
    """Describe an open entry: what is under way, by whom, since when by their clock."""
    by = f"{entry.action} of {entry.tags['model']} is under way, by {entry.tags['who']} since {entry.when}"
    return printable(f"another {by}")
