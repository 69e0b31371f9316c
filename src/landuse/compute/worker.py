"""Start workers on this machine."""

import os
import re
import sys
from socket import create_connection
from urllib.parse import urlsplit

from distributed.utils import get_ip

from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.ml.images import cores
from landuse.params.types import DASK_ADDRESS

CONNECT_SECONDS = 10
DEATH_SECONDS = 60  # without a scheduler, after which a worker ends


def start_workers(address: str, number: int | None) -> None:
    """Become the process that runs workers for a scheduler, by default one for each core, until it is stopped.

    Each listens where the scheduler can reach it, and nowhere else. Raises LanduseError for what is no address of a
    scheduler, and Unavailable if none answers.
    """
    if not re.fullmatch(DASK_ADDRESS, address):
        raise LanduseError(f"{address} is not the address of a Dask scheduler, such as tcp://127.0.0.1:8786")
    scheduler = urlsplit(address)
    try:
        create_connection((str(scheduler.hostname), scheduler.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise Unavailable(f"no Dask scheduler answers at {address} ({one_line(error)}): start it first") from None
    host = get_ip(scheduler.hostname)  # type: ignore[no-untyped-call]  # untyped in distributed
    options = {
        "nworkers": number or cores(),
        "nthreads": 1,
        "host": host,
        "dashboard-address": f"{host}:0",  # its metrics, without pages
        "death-timeout": DEATH_SECONDS,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard", *arguments]
    os.execv(sys.executable, command)
