"""Start workers on this machine."""

import os
import sys
from urllib.parse import urlsplit

from distributed.utils import get_ip

from landuse.compute import check_address
from landuse.compute.scheduler import check_scheduler
from landuse.ml.images import cores

NAME = "ADDRESS"  # of the argument
DEATH_SECONDS = 60  # of looking for the scheduler, after which a worker ends


def start_workers(address: str, number: int | None) -> None:
    """Become the process that runs workers for a scheduler, by default one for each core, until it is stopped.

    Each listens where the scheduler can reach it, and nowhere else. Raises LanduseError for what is no address of a
    scheduler, and Unavailable if none answers.
    """
    check_address(address, NAME)
    check_scheduler(address, NAME, "worker")
    host = get_ip(urlsplit(address).hostname)  # type: ignore[no-untyped-call]  # untyped in distributed
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
