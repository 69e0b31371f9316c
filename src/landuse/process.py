"""Which process did something, and whether it is still at work."""

import os
import socket
from collections.abc import Mapping

import psutil

HOST, PID, STARTED = "process.host", "process.id", "process.started"


def identity(pid: int | None = None) -> dict[str, str]:
    """What tells a process of this machine (by default this one) from any other, as tags."""
    process = psutil.Process(pid or os.getpid())
    return {HOST: socket.gethostname(), PID: str(process.pid), STARTED: f"{process.create_time():.2f}"}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process is known to have ended: it ran on this machine and does so no more."""
    if tags.get(HOST) != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(tags[PID]))
        return f"{process.create_time():.2f}" != tags[STARTED] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
