"""Listeners on the ports of this machine."""

import socket
from contextlib import suppress
from textwrap import shorten

import psutil

LOOPBACK = "127.0.0.1"
MAX_COMMAND_CHARACTERS = 100


def listener(port: str) -> str | None:
    """Describe the program that listens on a port; None if there is none. Other users' PIDs are not known."""
    try:
        pids = listening_pids(port)
    except psutil.AccessDenied:  # macOS only tells root
        return None if is_free(port) else "another program"
    for pid in pids:
        return f"process {pid} ({command_line(pid)})" if pid else "another user's program"
    return None


def listening_pids(port: str) -> list[int | None]:
    """Return the PIDs that listen on a port; None stands for a process of another user.

    Raises AccessDenied if the system does not tell.
    """
    listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return [each.pid for each in listening if each.laddr and each.laddr.port == int(port)]


def is_free(port: str) -> bool:
    """Return True if a server could listen on the port."""
    with suppress(OSError), socket.create_server((LOOPBACK, int(port))):
        return True
    return False


def command_line(pid: int) -> str:
    """Return the command line of a process, shortened."""
    with suppress(psutil.Error):
        return shorten(" ".join(psutil.Process(pid).cmdline()), MAX_COMMAND_CHARACTERS)
    return "it has just ended"
