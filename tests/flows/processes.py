"""Commands, and waiting for what other processes and threads do."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that another process or thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def python(script: str) -> tuple[str, ...]:
    """A command that runs a script."""
    return (sys.executable, "-c", script)
