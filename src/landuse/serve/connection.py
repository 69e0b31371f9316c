"""HTTP connections with limits of time and number, which uvicorn's own lack, closed so that nobody is reset."""

import asyncio
import resource
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from landuse.serve.reply import refusal

HEADER_SECONDS = 10  # from connecting, or from the first byte of the next request, to the end of its headers
KEEP_ALIVE_SECONDS = 5  # without a next request
WRITE_SECONDS = 20  # for the client to read its answer, and one more for every SLOWEST bytes of it
SLOWEST = 500_000  # bytes per second
LINGER_SECONDS = 2  # from the last word of the server to the end of the connection, if the client does not end it
LINGER_BYTES = 32 * 1024 * 1024  # that a client may still send meanwhile: as much as a request may have
DRAIN_SECONDS = 1  # that a server which ends leaves to requests on their way
MOST_CONNECTIONS = 500
TOO_MANY = "the server has too many connections; try again"


class Connection(H11Protocol):
    """A connection that waits for a header, a reader or its end only so long. Bodies are timed where they are read."""

    deadline: asyncio.TimerHandle | None = None  # of the next header, or of the end
    stalled: asyncio.TimerHandle | None = None
    spare = LINGER_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the first request, unless there are too many connections."""
        super().connection_made(LingeringTransport(transport, self))
        transport.set_write_buffer_limits(0)  # `pause_writing` is told of the first byte that is not taken
        most = most_connections()
        if len(self.connections) <= most:
            self.wait(HEADER_SECONDS, self.expire)
            return
        self.refuse(503, TOO_MANY)
        if len(self.connections) > 2 * most:
            self.transport.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self.stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in: of the request, or of one that is refused already."""
        if self.transport.is_closing():
            self.discard(len(data))
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self.stop_waiting()
        elif self.deadline is None:
            self.wait(HEADER_SECONDS, self.expire)

    def wait(self, seconds: float, end: Any) -> None:
        """Call `end` unless something else happens within so many seconds."""
        self.stop_waiting()
        self.deadline = self.loop.call_later(seconds, end)

    def stop_waiting(self) -> None:
        """Cancel the deadline."""
        if self.deadline:
            self.deadline.cancel()
            self.deadline = None

    def expire(self) -> None:
        """No header came in time; who began one is told."""
        if self.conn.trailing_data[0]:
            self.refuse(408, f"the headers of the request did not come within {HEADER_SECONDS} s")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; uvicorn asks for it, wherever in a request that is noticed."""
        self.refuse(400, "the request is not valid HTTP/1.1")

    def refuse(self, status: int, message: str) -> None:
        """Answer in place of the app, if it did not begin to, and close."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the app's answer is not sent any more
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reply = refusal(status, message, closing=True)
            start = h11.Response(status_code=reply.status, headers=reply.headers)
            for event in (start, h11.Data(data=reply.body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def linger(self) -> None:
        """Say that nothing more comes, and let the client read it: whoever still sends would be reset instead."""
        with suppress(OSError):  # it is gone already
            self.transport.write_eof()
        self.flow.resume_reading()
        self.wait(LINGER_SECONDS, self.transport.end)

    def discard(self, size: int) -> None:
        """Let go of what comes after the last word; of too much, the connection too."""
        self.spare -= size
        if self.spare < 0:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read its answer."""
        super().pause_writing()
        seconds = WRITE_SECONDS + self.transport.get_write_buffer_size() / SLOWEST
        self.stalled = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self.stalled:
            self.stalled.cancel()
            self.stalled = None

    def shutdown(self) -> None:
        """The server ends: answer what is under way, or comes at this moment, and close."""
        if self.cycle is None or self.cycle.response_complete:
            self.wait(DRAIN_SECONDS, self.expire)
        else:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
            super().shutdown()


class LingeringTransport:
    """A transport of asyncio's, closed by half first; see `Connection.linger`."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self.transport, self.connection, self.lingers = transport, connection, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def is_closing(self) -> bool:
        """Whether anything more can be said."""
        return self.lingers or self.transport.is_closing()

    def close(self) -> None:
        """Begin to close."""
        if not self.is_closing():
            self.lingers = True
            self.connection.linger()

    def end(self) -> None:
        """Close, once what was written is sent."""
        self.transport.close()


def most_connections() -> int:
    """How many connections there may be: with those that are being refused, fewer than files may be open."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
