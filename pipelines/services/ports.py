"""Who listens on a port of this machine."""

import socket
from contextlib import suppress
from textwrap import shorten

import psutil

LOOPBACK = "127.0.0.1"
SHOWN_CHARACTERS = 100


def listener(port: str) -> str | None:
    """Which program listens on the port, if one does; that of another user is not known by its number."""
    try:
        found = listeners(port)
    except psutil.AccessDenied:  # macOS tells root alone
        return None if is_free(port) else "another program"
    for pid in found:
        return f"process {pid} ({command_of(pid)})" if pid else "another user's program"
    return None


def listeners(port: str) -> list[int | None]:
    """The processes that listen on the port; None stands for one of another user.

    Raises AccessDenied where the system does not tell.
    """
    found = psutil.net_connections("tcp")
    return [each.pid for each in found if each.laddr.port == int(port) and each.status == psutil.CONN_LISTEN]


def is_free(port: str) -> bool:
    """Whether a server could listen on the port."""
    with suppress(OSError), socket.create_server((LOOPBACK, int(port))):
        return True
    return False


def command_of(pid: int) -> str:
    """The beginning of the command line of a process."""
    with suppress(psutil.Error):
        return shorten(" ".join(psutil.Process(pid).cmdline()), SHOWN_CHARACTERS)
    return "it has just ended"
