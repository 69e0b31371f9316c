"""Where work on images is done: in this process, or by Dask workers if the address of their scheduler is given."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from landuse.core.errors import LanduseError
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.params import ComputeParams
from landuse.params.types import DASK_ADDRESS

VARIABLE = "LANDUSE_DASK"  # environment variable that goes before compute.address


@contextmanager
def open_pool(params: ComputeParams, notify: Callable[[str], None], pushed: bool = False) -> Iterator[Pool]:
    """Yield the workers of the scheduler that is named, or this process if none is.

    Images that are not `pushed` with data/ are in no DVC remote: if workers read from that, they are left to this
    process. Raises LanduseError for what is no address. Once there is work, the pool raises LanduseError if no
    scheduler answers, or one of another version, and Unavailable if it has no worker.
    """
    address = os.environ.get(VARIABLE, params.address)
    if not address or (params.images == "remote" and not pushed):
        yield THIS_PROCESS
        return
    if not re.fullmatch(DASK_ADDRESS, address):
        raise LanduseError(f"{VARIABLE} = {address}: not an address such as tcp://127.0.0.1:8786")
    from landuse.compute.cluster import open_cluster

    with open_cluster(address, params.images, notify) as pool:
        yield pool
