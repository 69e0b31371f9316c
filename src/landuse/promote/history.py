"""History: who made which version champion, when, from which, and why."""

from landuse import registry
from landuse.registry.audit_log import DONE, OPEN, Entry, entries
from landuse.registry.transition import disagreement, settled_champion


def history(name: str) -> str:
    """The aliases as they are, whether the ledger agrees, and one line per entry of it, the latest first.

    Raises LanduseError where the registry does not know the model.
    """
    with registry.at_hand():
        settled_champion(name, mind_the_ledger=False)
        held, ledger, odd = registry.aliases(name), entries(name), disagreement(name)
    now = ", ".join(f"{alias} {number}" for alias, number in sorted(held.items())) or "no version has an alias"
    return "\n".join([f"{name}: {now}", *([odd] if odd else []), *map(line, reversed(ledger))])


def line(entry: Entry) -> str:
    """One entry for people."""
    move = f"{entry.before or '-'} -> {entry.after or '-'}"
    outcome = {DONE: "", OPEN: " (under way)"}.get(entry.status, " (undone)")
    note = f"; {entry.tags['note']}" if "note" in entry.tags else ""
    return f"{entry.when}  {entry.action:<8} {move:<10} {entry.tags['who']}: {entry.tags['why']}{outcome}{note}"
