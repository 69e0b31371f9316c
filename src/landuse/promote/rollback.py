"""Rollback: make the previous champion the champion again."""

from landuse import registry
from landuse.core.errors import LanduseError
from landuse.registry.transition import change_champion, current_champion, recorded_champions


def rollback(name: str) -> str:
    """Go back to the champion before the current one in the ledger; returns the number of the new champion.

    Raises LanduseError if there is none, or it does not load; then nothing is changed.
    """
    with registry.existing_store():
        champion = current_champion(name)
        earlier = [number for number in recorded_champions(name) if number != champion]
        if not earlier:
            raise LanduseError(f"{name} has no champion to go back to: landuse history shows which there were")
        left = "a version that was deleted" if champion is None else f"version {champion}"
        change_champion(name, earlier[-1], "rollback", f"back from {left}", champion, None)
        return earlier[-1]
