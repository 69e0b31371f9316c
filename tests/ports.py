"""Ports for the servers of tests."""

import socket
from contextlib import suppress
from random import sample

TEST_PORTS = range(20_000, 32_000)  # below Linux's ephemeral ports, which a client could take between two starts


def free_port() -> str:
    """Return a free port of 127.0.0.1 that stays free while a server on it restarts."""
    for port in sample(TEST_PORTS, len(TEST_PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise OSError("no port is free")
