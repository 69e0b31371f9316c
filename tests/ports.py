"""Ports for the servers of tests."""

import socket
from contextlib import suppress
from random import sample

OURS = range(20_000, 32_000)  # below those that Linux gives to whoever connects, which would take it between two starts


def free_port() -> str:
    """A port of 127.0.0.1 on which nobody listens, also after the server on it was stopped and before it is back."""
    for port in sample(OURS, len(OURS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise OSError("no port is free")
