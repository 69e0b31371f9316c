"""Champion changes: all or nothing, recorded in the ledger, recovered by the next command if interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from landuse import registry
from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.registry import CHAMPION, PREVIOUS, audit_log, lock, version_numbers
from landuse.registry.audit_log import DONE, UNDONE, Entry
from landuse.registry.provenance import ForeignCode
from landuse.registry.smoke_test import check_answers


def current_champion(name: str, check_ledger: bool = True) -> str | None:
    """Return the champion's version number, after recovering interrupted changes.

    Watches open entries of other machines until they show life or were still for a minute. Raises Unavailable if a
    change is under way, and LanduseError if the champion is not the ledger's; without
    `check_ledger` the latter is not checked.
    """
    if lock.find_orphans(name):
        with exclusive_entry(name, "repair", "a command was stopped in the middle"):
            pass
    if check_ledger and disagreement(name):
        lock.refuse_if_busy(name)  # a change under way looks like one made by hand
        if complaint := disagreement(name):
            raise LanduseError(complaint)
    return registry.aliases(name).get(CHAMPION)


def disagreement(name: str) -> str | None:
    """Describe how alias and ledger differ, with the remedy; None if they agree or the ledger is empty.

    They also agree if the champion's version was deleted: the registry then removes its alias.
    """
    champion, recorded = registry.aliases(name).get(CHAMPION), recorded_champions(name)
    if not recorded or recorded[-1] == champion:
        return None
    if champion is None and audit_log.champions(audit_log.finished_entries(name))[-1] not in version_numbers(name):
        return None
    now = "gone" if champion is None else f"version {champion}"
    return (
        f"the champion of {name} is {now}, by the ledger it is version {recorded[-1]}: the alias was moved by hand; "
        "landuse promote VERSION --force --reason TEXT settles it"
    )


def recorded_champions(name: str, *more: Entry) -> list[str]:
    """Return the ledger's champions, with further entries applied, that still exist; the current one last.

    A champion that returned after a version deleted since is listed once.
    """
    existing = version_numbers(name)
    recorded = audit_log.champions([*audit_log.finished_entries(name), *more])
    return [number for number, _ in groupby(number for number in recorded if number in existing)]


@contextmanager
def exclusive_entry(name: str, action: str, why: str) -> Iterator[Entry]:
    """Open an entry, the lock on the aliases of a model, and recover orphaned entries before the body runs.

    Raises Unavailable if another command holds the lock, and TurnLost if others took this one for dead.
    """
    mine = audit_log.open_entry(name, action, why)
    with lock.kept_alive(mine):
        try:
            for orphan in lock.wait_for_turn(mine):
                recover(orphan, mine)
            yield mine
        except lock.TurnLost:  # whoever took it for dead closes it
            raise
        except BaseException as error:
            close(mine, mine, UNDONE, one_line(error))
            raise
        close(mine, mine, DONE)


def close(entry: Entry, mine: Entry, status: str, note: str = "") -> None:
    """End an entry, if others have not given up `mine`, which holds the lock. Raises TurnLost if they have."""
    lock.require_turn(mine)
    audit_log.close_entry(entry, status, note)


def change_champion(
    name: str, number: str, action: str, why: str, expected: str | None, blessing: dict[str, Any] | None
) -> None:
    """Make a version the champion if the current champion is still the `expected` one.

    Raises Unavailable if it is not, and LanduseError if the new champion does not load and predict; both aliases are
    then restored. Raises TurnLost if others took this process for dead: they have restored or finished it.
    """
    with exclusive_entry(name, action, why) as entry:
        aliases = registry.aliases(name)
        if aliases.get(CHAMPION) != expected:
            raise Unavailable(f"the champion of {name} became version {aliases.get(CHAMPION)} meanwhile: try again")
        position = str(1 + max((entry.number for entry in audit_log.finished_entries(name)), default=0))
        tags = {"number": position, "from": expected, "previous": aliases.get(PREVIOUS), "to": number}
        entry = audit_log.add_tags(entry, tags)
        if blessing is not None:
            audit_log.attach_blessing(entry, blessing)
        try:
            apply(entry, entry)
            check_loads(name, number)
        except BaseException:
            undo(entry, entry)
            raise


def apply(entry: Entry, mine: Entry) -> None:
    """Set both aliases to what the ledger says once this entry is finished; `mine` holds the lock."""
    *before, champion = recorded_champions(mine.tags["model"], entry)
    point_alias(mine, PREVIOUS, before[-1] if before else None)
    point_alias(mine, CHAMPION, champion)


def undo(entry: Entry, mine: Entry) -> None:
    """Restore both aliases to what they were before the entry; `mine` holds the lock."""
    point_alias(mine, CHAMPION, entry.before)
    point_alias(mine, PREVIOUS, entry.tags.get("previous"))


def point_alias(mine: Entry, alias: str, number: str | None) -> None:
    """Point an alias to a version unless it already does; remove it if there is no version or it was deleted.

    Raises TurnLost if others gave up the entry that holds the lock.
    """
    name = mine.tags["model"]
    if number is not None and registry.find_version(name, number) is None:
        number = None
    if registry.aliases(name).get(alias) != number:
        lock.require_turn(mine)
        registry.set_alias(name, alias, number)


def check_loads(name: str, number: str) -> None:
    """Load the champion in a fresh process and let it predict its example. Raises LanduseError if that fails.

    A version with foreign code, which only a forced promotion lets through, is loaded without running that code.
    """
    with TemporaryDirectory() as folder, suppress(ForeignCode):
        version = registry.get_version(name, number)
        classifier = registry.fetch_model(version, Path(folder))
        check_answers(version, Path(folder), classifier)


def recover(orphan: Entry, mine: Entry) -> None:
    """Finish an orphaned entry if its version already is champion and loads; otherwise undo it.

    `mine` holds the lock.
    """
    name = orphan.tags["model"]
    champion = registry.aliases(name).get(CHAMPION)
    if orphan.after is None or champion not in (orphan.before, orphan.after):
        close(orphan, mine, UNDONE, "stopped before it moved anything")
        return
    try:
        if champion != orphan.after:
            raise LanduseError("stopped before it moved the champion")
        check_loads(name, orphan.after)
        apply(orphan, mine)
        close(orphan, mine, DONE, "stopped in the middle, finished by the next command")
    except LanduseError as error:
        undo(orphan, mine)
        close(orphan, mine, UNDONE, str(error))
