"""History: who made which version champion, when, from which, and why."""

from landuse import registry, tracking
from landuse.handover import settled_champion
from landuse.ledger import DONE, OPEN, Entry, entries


def history(name: str) -> str:
    """One line per entry of the ledger, the latest first, below the aliases as they are.

    Raises LanduseError where the registry does not know the model, or the ledger does not agree with it.
    """
    with tracking.store():
        settled_champion(name)
        held = registry.aliases(name)
        ledger = entries(name)
    now = ", ".join(f"{alias} {number}" for alias, number in sorted(held.items())) or "no version has an alias"
    return "\n".join([f"{name}: {now}", *map(line, reversed(ledger))])


def line(entry: Entry) -> str:
    """One entry for people."""
    move = f"{entry.before or '-'} -> {entry.after or '-'}"
    outcome = {DONE: "", OPEN: " (under way)"}.get(entry.status, " (undone)")
    note = f"; {entry.tags['note']}" if "note" in entry.tags else ""
    return f"{entry.when}  {entry.action:<8} {move:<10} {entry.tags['who']}: {entry.tags['why']}{outcome}{note}"
