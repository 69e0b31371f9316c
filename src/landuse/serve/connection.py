"""HTTP connections with limits on time and number, which uvicorn lacks, closed without resetting the client."""

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from landuse.serve.reply import error_reply

HEADER_SECONDS = 10  # from connecting, or from the first byte of the next request, to the end of its headers
KEEP_ALIVE_SECONDS = 5  # without a next request
WRITE_SECONDS = 20  # for the client to read its reply, plus one second for every MIN_BYTES_PER_SECOND bytes of it
MIN_BYTES_PER_SECOND = 500_000
LINGER_SECONDS = 2  # from the server's last byte to the end of the connection, if the client does not close it
LINGER_BYTES = 32 * 1024 * 1024  # that a client may still send meanwhile: the size limit of a request
DRAIN_SECONDS = 1  # for requests already on their way when the server shuts down
MAX_CONNECTIONS = 500
TOO_MANY_CONNECTIONS = "the server has too many connections; try again"


class Connection(H11Protocol):
    """A connection with deadlines for headers, reading the reply and closing. The middleware times request bodies."""

    lingering: "LingeringTransport"
    deadline: asyncio.TimerHandle | None = None  # for the next headers, or for closing
    write_deadline: asyncio.TimerHandle | None = None
    linger_bytes_left = LINGER_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for the first request, or refuse the connection if there are too many."""
        self.lingering = LingeringTransport(transport, self)
        super().connection_made(self.lingering)  # type: ignore[arg-type]  # it delegates to a transport
        transport.set_write_buffer_limits(0)  # `pause_writing` is called as soon as one byte is not accepted
        limit = connection_limit()
        if len(self.connections) <= limit:
            self.set_deadline(HEADER_SECONDS, self.expire)
            return
        self.refuse(503, TOO_MANY_CONNECTIONS)
        if len(self.connections) > 2 * limit:
            self.lingering.close_fully()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self.cancel_deadline()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process bytes of a request, or discard those of a refused one."""
        if self.transport.is_closing():
            self.discard(len(data))
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self.cancel_deadline()
        elif self.deadline is None:
            self.set_deadline(HEADER_SECONDS, self.expire)

    def set_deadline(self, seconds: float, callback: Callable[[], None]) -> None:
        """Replace the deadline: call `callback` after so many seconds unless cancelled."""
        self.cancel_deadline()
        self.deadline = self.loop.call_later(seconds, callback)

    def cancel_deadline(self) -> None:
        """Cancel the deadline."""
        if self.deadline:
            self.deadline.cancel()
            self.deadline = None

    def expire(self) -> None:
        """Close a connection whose headers did not come in time, with a 408 if they had begun."""
        if self.conn.trailing_data[0]:
            self.refuse(408, f"the headers of the request did not come within {HEADER_SECONDS} s")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP; uvicorn calls this wherever in a request it notices."""
        self.refuse(400, "the request is not valid HTTP/1.1")

    def refuse(self, status: int, message: str) -> None:
        """Reply in place of the app, unless it has begun to, and close."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # discards the app's reply
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reply = error_reply(status, message, close=True)
            start = h11.Response(status_code=reply.status, headers=reply.headers)
            for event in (start, h11.Data(data=reply.body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def linger(self) -> None:
        """Half-close and let the client read the reply: a full close would reset a client that is still sending."""
        with suppress(OSError):  # the client is gone already
            self.transport.write_eof()
        self.flow.resume_reading()
        self.set_deadline(LINGER_SECONDS, self.lingering.close_fully)

    def discard(self, size: int) -> None:
        """Discard bytes that arrive after the half-close; abort the connection if there are too many."""
        self.linger_bytes_left -= size
        if self.linger_bytes_left < 0:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not read its reply."""
        super().pause_writing()
        seconds = WRITE_SECONDS + self.transport.get_write_buffer_size() / MIN_BYTES_PER_SECOND
        self.write_deadline = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the deadline: the client has read."""
        super().resume_writing()
        if self.write_deadline:
            self.write_deadline.cancel()
            self.write_deadline = None

    def shutdown(self) -> None:
        """Finish the request in progress or just arriving, and close: the server is shutting down."""
        if self.cycle is None or self.cycle.response_complete:
            self.set_deadline(DRAIN_SECONDS, self.expire)
        else:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
            super().shutdown()


class LingeringTransport:
    """Wraps an asyncio transport so that `close` half-closes it first; see `Connection.linger`."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self.transport, self.connection, self.half_closed = transport, connection, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def is_closing(self) -> bool:
        """Return whether the server can no longer send."""
        return self.half_closed or self.transport.is_closing()

    def close(self) -> None:
        """Half-close, then linger."""
        if not self.is_closing():
            self.half_closed = True
            self.connection.linger()

    def close_fully(self) -> None:
        """Close once the write buffer is flushed."""
        self.transport.close()


def connection_limit() -> int:
    """Return the most connections to serve: with those being refused, fewer than the limit on open files."""
    return min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
