"""Uvicorn, with connections of our own, and an end at which nobody who was let in is sent away without an answer."""

import asyncio
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER

from landuse.serve.connection import KEEP_ALIVE_SECONDS, Connection
from landuse.serve.door import Door

FAREWELL_SECONDS = 10
QUIET = "error"  # what others send wrongly is answered to them; the log would fill with it


class Server(uvicorn.Server):
    """A server that, told to end, takes those in who wait at its door, answers everybody once more, and closes."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, and then as uvicorn does: wait for what is under way, at most so many seconds."""
        queued = [client for door in sockets or [] for client in accepted(door)]
        for door in [*self.servers, *(sockets or [])]:
            door.close()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        loop = asyncio.get_running_loop()
        connection = partial(Connection, self.config, self.server_state, self.lifespan.state, loop)
        for client in queued:
            await loop.connect_accepted_socket(connection, client)
        await super().shutdown(sockets)


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
