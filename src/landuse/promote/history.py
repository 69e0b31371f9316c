"""History: list who made which version champion, when and why."""

from landuse import registry
from landuse.registry.audit_log import DONE, OPEN, Entry, entries
from landuse.registry.transition import current_champion, disagreement


def history(name: str) -> str:
    """Return the current aliases, any disagreement with the ledger, and the ledger's entries, newest first.

    Raises LanduseError if the model is not registered.
    """
    with registry.existing_store():
        current_champion(name, check_ledger=False)
        aliases, ledger, conflict = registry.aliases(name), entries(name), disagreement(name)
    current = ", ".join(f"{alias} {number}" for alias, number in sorted(aliases.items())) or "no version has an alias"
    return "\n".join([f"{name}: {current}", *([conflict] if conflict else []), *map(format_entry, reversed(ledger))])


def format_entry(entry: Entry) -> str:
    """Format an entry as one line."""
    move = f"{entry.before or '-'} -> {entry.after or '-'}"
    outcome = {DONE: "", OPEN: " (under way)"}.get(entry.status, " (undone)")
    note = f"; {entry.tags['note']}" if "note" in entry.tags else ""
    return f"{entry.when}  {entry.action:<8} {move:<10} {entry.tags['who']}: {entry.tags['why']}{outcome}{note}"
