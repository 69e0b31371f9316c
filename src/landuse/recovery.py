"""Whatever command comes next heals what one that was killed left behind."""

import os
from contextlib import suppress

from landuse.core.errors import LanduseError
from landuse.core.paths import HOLDERS, SWAP
from landuse.core.process import are_lost

STAGE = "DVC_STAGE"  # environment variable: DVC is at work, and this is a stage of it


def recover_killed() -> None:
    """Finish or take back an ingest that was killed, and remove DVC's list of processes that are gone.

    Where another ingest, stage or DVC command is at work, or DVC cannot read its files, that is left to a later one.
    """
    with suppress(LanduseError, OSError):
        if STAGE not in os.environ and (SWAP.exists() or are_lost(HOLDERS)):
            from landuse import ingest

            ingest.recover_killed()
