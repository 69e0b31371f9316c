"""Requests as no well-behaved client sends them: bytes on a socket."""

import json
import re
import socket
from time import monotonic
from typing import NamedTuple


class Heard(NamedTuple):
    """All that came until the server closed: the statuses, the last message, and the seconds it took."""

    statuses: list[int]
    text: str
    seconds: float

    @property
    def message(self) -> str:
        return json.loads(self.text.rpartition("\r\n\r\n")[2])["message"]


def dial(place: str, receive_buffer: int = 0) -> socket.socket:
    """A connection; every wait of it ends after 20 s, as an error."""
    host, port = place.removeprefix("http://").rstrip("/").split(":")
    plug = socket.socket()
    if receive_buffer:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plug.settimeout(20)
    plug.connect((host, int(port)))
    return plug


def hear(plug: socket.socket) -> Heard:
    """Read until the server closes; a reset is an error."""
    start, text = monotonic(), b""
    while part := plug.recv(65536):
        text += part
    decoded = text.decode("latin-1")
    return Heard([int(status) for status in re.findall(r"HTTP/1\.1 (\d+)", decoded)], decoded, monotonic() - start)


def tell(place: str, request: str | bytes) -> Heard:
    """Send bytes, and hear what comes of them."""
    with dial(place) as plug:
        plug.sendall(request.encode("latin-1") if isinstance(request, str) else request)
        return hear(plug)


def request(first: str, *headers: str, host: str = "localhost") -> str:
    """The head of a request."""
    return "\r\n".join((f"{first} HTTP/1.1", f"Host: {host}", *headers, "", ""))
