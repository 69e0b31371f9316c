"""Handover: another version becomes champion, all of it or nothing, and the ledger says so."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from landuse import registry
from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.registry import CHAMPION, PREVIOUS, audit_log
from landuse.registry.audit_log import DONE, OPEN, UNDONE, Entry
from landuse.registry.provenance import Foreign
from landuse.registry.smoke_test import check_answers


def settled_champion(name: str, mind_the_ledger: bool = True) -> str | None:
    """The present champion, once what was left half done is finished or undone.

    Raises LanduseError where it is being moved, or is not the one of the ledger, unless that is of no matter.
    """
    if any(entry.orphaned() for entry in audit_log.entries(name, OPEN)):
        with turn(name, "repair", "a command was stopped in the middle"):
            pass
    if mind_the_ledger and disagreement(name):
        audit_log.give_way(name)  # a move under way looks like one by hand
        if words := disagreement(name):
            raise LanduseError(words)
    return registry.aliases(name).get(CHAMPION)


def disagreement(name: str) -> str | None:
    """How the alias and the ledger differ, and what to do about it; None where they agree or there is no ledger yet.

    The registry takes the alias of a version away that it deletes: then they agree too.
    """
    champion, recorded = registry.aliases(name).get(CHAMPION), standing(name)
    if not recorded or recorded[-1] == champion:
        return None
    if champion is None and audit_log.champions(audit_log.done(name))[-1] not in registry.numbers(name):
        return None
    now = "gone" if champion is None else f"version {champion}"
    return (
        f"the champion of {name} is {now}, by the ledger it is version {recorded[-1]}: the alias was moved by hand; "
        "landuse promote VERSION --force --reason TEXT settles it"
    )


def standing(name: str, *more: Entry) -> list[str]:
    """The champions of the ledger, and of more entries, that the registry still has; the present one last.

    One that came back after a version that was deleted since stands there once.
    """
    there = registry.numbers(name)
    left = (number for number in audit_log.champions([*audit_log.done(name), *more]) if number in there)
    return [number for number, _ in groupby(left)]


@contextmanager
def turn(name: str, action: str, why: str) -> Iterator[Entry]:
    """The right to move the aliases of a model: an open entry, and what others left half done settled.

    Raises Unavailable where another command has it.
    """
    mine = audit_log.open_entry(name, action, why)
    try:
        for orphan in audit_log.wait_for_turn(mine):
            settle(orphan)
        yield mine
    except BaseException as error:
        audit_log.close(mine, UNDONE, one_line(error))
        raise
    audit_log.close(mine, DONE)


def hand_over(name: str, number: str, action: str, why: str, seen: str | None, blessing: dict[str, Any] | None) -> None:
    """Make a version the champion, if the champion still is the one that was `seen`.

    Raises Unavailable where it is not, LanduseError where the new one does not load and answer; then all is as before.
    """
    with turn(name, action, why) as entry:
        held = registry.aliases(name)
        if held.get(CHAMPION) != seen:
            raise Unavailable(f"the champion of {name} became version {held.get(CHAMPION)} meanwhile: try again")
        position = str(len(audit_log.done(name)) + 1)
        entry = audit_log.write(entry, {"number": position, "from": seen, "previous": held.get(PREVIOUS), "to": number})
        if blessing is not None:
            audit_log.attach(entry, blessing)
        try:
            move(entry)
            prove(name, number)
        except BaseException:
            take_back(entry)
            raise


def move(entry: Entry) -> None:
    """Set both aliases as the ledger will have them with this entry."""
    name = entry.tags["model"]
    *before, champion = standing(name, entry)
    put(name, PREVIOUS, before[-1] if before else None)
    put(name, CHAMPION, champion)


def take_back(entry: Entry) -> None:
    """Both aliases as they were before the entry."""
    name = entry.tags["model"]
    put(name, CHAMPION, entry.before)
    put(name, PREVIOUS, entry.tags.get("previous"))


def put(name: str, alias: str, number: str | None) -> None:
    """Let an alias stand for a version, or for none where there is none or it was deleted, if it does not yet."""
    if number is not None and registry.find_version(name, number) is None:
        number = None
    if registry.aliases(name).get(alias) != number:
        registry.set_alias(name, alias, number)


def prove(name: str, number: str) -> None:
    """Load the champion in a fresh process and let it answer. Raises LanduseError where it is not up to that.

    One of foreign code, which the gate lets through by force only, is loaded as we do, without any of that code.
    """
    with TemporaryDirectory() as folder, suppress(Foreign):
        version = registry.get_version(name, number)
        classifier = registry.fetch_model(version, Path(folder))
        check_answers(version, Path(folder), classifier)


def settle(orphan: Entry) -> None:
    """Finish an entry whose process is dead, if its version is champion already and loads; otherwise undo it."""
    name = orphan.tags["model"]
    champion = registry.aliases(name).get(CHAMPION)
    if orphan.after is None or champion not in (orphan.before, orphan.after):
        audit_log.close(orphan, UNDONE, "stopped before it moved anything")
        return
    try:
        if champion != orphan.after:
            raise LanduseError("stopped before it moved the champion")
        prove(name, orphan.after)
        move(orphan)
        audit_log.close(orphan, DONE, "stopped in the middle, finished by the next command")
    except LanduseError as error:
        take_back(orphan)
        audit_log.close(orphan, UNDONE, str(error))
