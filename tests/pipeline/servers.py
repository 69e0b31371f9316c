"""What every test with a real server needs."""

import socket
import subprocess
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Until the server answers."""
    end = monotonic() + 90
    while monotonic() < end and server.poll() is None:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, TimeoutError, ConnectionError):
            sleep(0.2)
    pytest.fail("the server did not start")
