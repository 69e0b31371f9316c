"""Host and Origin checks against cross-site requests and DNS rebinding."""

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:[0-9]{1,5})?")
PRIVATE = (".local", ".internal")  # suffixes that public DNS cannot hold, so nobody can point one at this server
NAVIGATION, DOCUMENT = {"GET", "HEAD"}, b"document"
Headers = Mapping[bytes, bytes]


class OriginCheck:
    """Check that requests name this server as Host and do not come from pages of other sites.

    On loopback, `localhost` and loopback addresses are accepted as Host. Elsewhere: all numeric addresses, all names
    that public DNS cannot hold, and the name of the machine. The name given as `--host` is always accepted. Ports are
    not compared: a tunnel may use another one, and DNS rebinding cannot change the port.
    """

    def __init__(self, address: str, given: str = "") -> None:
        listening = urlsplit(address).hostname or ""
        self.names = {listening, given.lower(), "localhost"}
        self.machine = socket.gethostname().lower()
        self.loopback = is_loopback(listening)

    def objection(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason for refusing a request, or None if it is allowed."""
        host = headers.get(b"host")  # without one, HTTP/1.1 is refused as malformed, and no browser uses 1.0
        if host is not None and not self.is_own_name(host.decode("latin-1").lower()):
            return 421, f"this server is not the Host that the request names: ask it as {self.expected()}"
        if is_foreign(method, headers):
            return 403, "requests of other sites' pages are refused: Origin must be this server"
        return None

    def is_own_name(self, host: str) -> bool:
        """Return True if a Host header names this server."""
        match = HOST.fullmatch(host)
        if not match:
            return False
        name = match[1].strip("[]").removesuffix(".")
        if name in self.names:
            return True
        if self.loopback:
            return is_loopback(name)
        return "." not in name or is_address(name) or name.endswith(PRIVATE) or name == self.machine

    def expected(self) -> str:
        """Return the names to use instead, in words."""
        return "localhost or 127.0.0.1" if self.loopback else "its address in digits, or name it with --host"


def is_foreign(method: str, headers: Headers) -> bool:
    """Return True if a browser sent the request from a page of another site. Following a link is allowed.

    Sec-Fetch-Site takes precedence over Origin, which differs from Host behind a TLS proxy. Programs send neither.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        mode = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest", DOCUMENT))
        follows_link = method in NAVIGATION and mode == (b"navigate", DOCUMENT)
        return site not in (b"same-origin", b"none") and not follows_link
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower()


def is_address(name: str) -> bool:
    """Return True if a host is an IP address."""
    with suppress(ValueError):
        return bool(ip_address(name))
    return False


def is_loopback(name: str) -> bool:
    """Return True if a host is a loopback IP address."""
    return is_address(name) and ip_address(name).is_loopback
