"""Python commands, and waiting for other processes and threads."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 60


def wait_until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait for a condition that another process or thread fulfils. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def python(script: str) -> tuple[str, ...]:
    """Return a command that runs a Python script."""
    return (sys.executable, "-c", script)
