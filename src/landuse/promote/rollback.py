"""Rollback: the champion before becomes champion again."""

from landuse import registry
from landuse.core.errors import LanduseError
from landuse.registry.transition import hand_over, settled_champion, standing


def rollback(name: str) -> str:
    """Go back by one champion, as the ledger has them; returns the version that now is champion.

    Raises LanduseError where there is none to go back to, or where it does not load; then all is as before.
    """
    with registry.at_hand():
        champion = settled_champion(name)
        before = [number for number in standing(name) if number != champion]
        if not before:
            raise LanduseError(f"{name} has no champion to go back to: landuse history shows which there were")
        left = "a version that was deleted" if champion is None else f"version {champion}"
        hand_over(name, before[-1], "rollback", f"back from {left}", champion, None)
        return before[-1]
