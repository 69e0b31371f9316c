"""Helpers for tests with a real server."""

import subprocess
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import pytest


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Wait until a server responds; fail the test if it does not start."""
    end = monotonic() + 90
    while monotonic() < end and server.poll() is None:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, TimeoutError, ConnectionError):
            sleep(0.2)
    pytest.fail("the server did not start")
