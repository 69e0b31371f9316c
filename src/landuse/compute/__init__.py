"""Where work on images is done: in this process, or by Dask workers if the address of their scheduler is given."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from landuse.core.errors import LanduseError
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.params import ComputeParams
from landuse.params.types import DASK_ADDRESS

VARIABLE, KEY = "LANDUSE_DASK", "compute.address"  # the environment variable goes before the parameter
EXAMPLE = "tcp://127.0.0.1:8786"


@contextmanager
def open_pool(params: ComputeParams, notify: Callable[[str], None], pushed: bool = False) -> Iterator[Pool]:
    """Yield the workers of the scheduler that is named, or this process if none is.

    Images that are not `pushed` with data/ are in no DVC remote: if workers read from that, they are left to this
    process. Raises LanduseError for what is no address. Once there is work, the pool raises LanduseError for missing
    certificates or a scheduler of another version, and Unavailable if none answers, or it has no worker.
    """
    name = VARIABLE if VARIABLE in os.environ else KEY
    address = os.environ.get(VARIABLE, params.address)
    if not address or (params.images == "remote" and not pushed):
        yield THIS_PROCESS
        return
    check_address(address, name)
    from landuse.compute.cluster import open_cluster

    with open_cluster(address, name, params.images, notify) as pool:
        yield pool


def check_address(address: str, name: str) -> None:
    """Raise LanduseError for what is no address of a scheduler; it is not repeated if it may have a password."""
    if "@" in address:
        raise LanduseError(f"{name} has a login, which Dask does not know: write {EXAMPLE}")
    try:
        is_address = re.fullmatch(DASK_ADDRESS, address) and urlsplit(address).hostname and urlsplit(address).port
    except ValueError:
        is_address = None
    if not is_address:
        raise LanduseError(f"{name} = {address}: not an address such as {EXAMPLE}")
