"""Raw bytes over a socket, for requests that no well-behaved client sends."""

import json
import re
import socket
from time import monotonic
from typing import NamedTuple


class Received(NamedTuple):
    """Everything received until the server closed: the statuses, the decoded bytes, and the seconds it took."""

    statuses: list[int]
    text: str
    seconds: float

    @property
    def message(self) -> str:
        return json.loads(self.text.rpartition("\r\n\r\n")[2])["message"]


def connect(url: str, receive_buffer: int = 0) -> socket.socket:
    """Open a connection whose operations time out after 20 s."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.connect((host, int(port)))
    return sock


def read_to_end(sock: socket.socket) -> Received:
    """Read until the server closes the connection; a reset raises."""
    start, content = monotonic(), b""
    while chunk := sock.recv(65536):
        content += chunk
    text = content.decode("latin-1")
    return Received([int(status) for status in re.findall(r"HTTP/1\.1 (\d+)", text)], text, monotonic() - start)


def exchange(url: str, request: str | bytes) -> Received:
    """Send bytes on a new connection and read until the server closes it."""
    with connect(url) as sock:
        sock.sendall(request.encode("latin-1") if isinstance(request, str) else request)
        return read_to_end(sock)


def request(first: str, *headers: str, host: str = "localhost") -> str:
    """Return the head of a request: its method and path, then the headers."""
    return "\r\n".join((f"{first} HTTP/1.1", f"Host: {host}", *headers, "", ""))
