"""What every test with a real server needs."""

import subprocess
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import pytest


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
