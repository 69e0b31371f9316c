"""Waiting for what servers and flows do."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # of a flow run


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Return the first truthy value of `condition`. Fails after `seconds`."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if value := condition():
            return value
        sleep(0.3)
    raise AssertionError(f"nothing after {seconds} s")
