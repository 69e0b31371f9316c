"""Uvicorn with custom connections and a shutdown that answers every client already connected."""

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
from landuse.serve.middleware import RequestMiddleware

GRACE_SECONDS = 10
HANDSHAKE_SECONDS = 0.05  # for TCP handshakes in progress when the socket closes
SO_ATTACH_FILTER = 26  # Linux only, as is this BPF program: load the TCP flags; drop if SYN is set; else accept
DROP_SYN = struct.pack("HBBI" * 4, 0x30, 0, 0, 13, 0x45, 0, 1, 0x02, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF)
LOG_LEVEL = "error"  # clients are told about their malformed requests; warnings would only fill the log


class Server(uvicorn.Server):
    """A server that, when told to stop, still accepts queued connections and answers each client before closing."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, then shut down as uvicorn does: wait up to GRACE_SECONDS for open requests."""
        for sock in sockets or []:
            drop_new_connections(sock)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        queued = [client for sock in sockets or [] for client in accept_queued(sock)]
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        loop = asyncio.get_running_loop()
        connection = partial(Connection, self.config, self.server_state, self.lifespan.state, loop)
        for client in queued:
            await loop.connect_accepted_socket(connection, client)
        await super().shutdown(sockets)


def drop_new_connections(sock: socket.socket) -> None:
    """Drop new SYNs, so that nobody connects between the last `accept` and closing the socket; clients retry.

    Linux only; elsewhere such a connection may be reset.
    """
    program = ctypes.create_string_buffer(DROP_SYN)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(program)))


def accept_queued(sock: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections in the listen queue, which closing the socket would reset."""
    try:
        while True:
            yield sock.accept()[0]
    except OSError:  # the queue is empty
        return


def build_server(app: RequestMiddleware) -> Server:
    """Build the server for an app: always h11 and asyncio, whatever else is installed, and no WebSockets."""
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_level=LOG_LEVEL,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
