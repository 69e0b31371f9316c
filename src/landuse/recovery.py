"""Recovery from a killed command, at the start of the next one."""

import os
from contextlib import suppress

from landuse.core.errors import LanduseError
from landuse.core.paths import DVC_RWLOCK, SWAP
from landuse.core.process import is_stale_rwlock

STAGE = "DVC_STAGE"  # environment variable that DVC sets for the stages it runs


def recover_interrupted() -> None:
    """Complete or roll back an interrupted ingest, and remove DVC's list of processes if they have ended.

    Do nothing while another ingest, stage or DVC command runs, or if DVC cannot read its files: a later command will.
    """
    with suppress(LanduseError, OSError):
        if STAGE not in os.environ and (SWAP.exists() or is_stale_rwlock(DVC_RWLOCK)):
            from landuse import ingest

            ingest.recover_interrupted()
