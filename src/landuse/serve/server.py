"""Uvicorn, with connections of our own, and an end at which nobody who was let in is sent away without an answer."""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER

from landuse.serve.connection import KEEP_ALIVE_SECONDS, Connection
from landuse.serve.middleware import Door

FAREWELL_SECONDS = 10
HANDSHAKE_SECONDS = 0.05  # for who is connecting when the door closes
SO_ATTACH_FILTER = 26  # of Linux, as are the instructions: load the flags of TCP; is SYN set? drop; let the rest pass
NO_SYN = struct.pack("HBBI" * 4, 0x30, 0, 0, 13, 0x45, 0, 1, 0x02, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF)
QUIET = "error"  # what others send wrongly is answered to them; the log would fill with it


class Server(uvicorn.Server):
    """A server that, told to end, takes those in who wait at its door, answers everybody once more, and closes."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, and then as uvicorn does: wait for what is under way, at most so many seconds."""
        for door in sockets or []:
            ignore_newcomers(door)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        queued = [client for door in sockets or [] for client in accepted(door)]
        for door in [*self.servers, *(sockets or [])]:
            door.close()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        loop = asyncio.get_running_loop()
        connection = partial(Connection, self.config, self.server_state, self.lifespan.state, loop)
        for client in queued:
            await loop.connect_accepted_socket(connection, client)
        await super().shutdown(sockets)


def ignore_newcomers(door: socket.socket) -> None:
    """Let nobody begin to connect, so that nobody is connected between the last look and the end; they try again.

    Elsewhere than on Linux somebody may be, and is reset.
    """
    program = ctypes.create_string_buffer(NO_SYN)
    with suppress(OSError):
        door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(program)))


def accepted(door: socket.socket) -> Iterator[socket.socket]:
    """Who is connected, as the system sees it, and was not let in yet: closing the door would reset them."""
    try:
        while True:
            yield door.accept()[0]
    except OSError:  # there is nobody more
        return


def build_server(app: Door) -> Server:
    """A server for an app. Whatever else is installed, h11 reads HTTP, asyncio runs it, and there are no WebSockets."""
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_level=QUIET,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=FAREWELL_SECONDS,
        )
    )
