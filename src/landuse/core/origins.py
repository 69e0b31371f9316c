"""Who may ask: no page of another site, and nobody under a name that is not this server's (DNS rebinding)."""

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:[0-9]{1,5})?")
PRIVATE = (".local", ".internal")  # no public name ends like this, so nobody can point one at this server
NAVIGATION, DOCUMENT = {"GET", "HEAD"}, b"document"
Headers = Mapping[bytes, bytes]


class OriginCheck:
    """Knows the names of a server by the address it listens on, and the name by which that was given.

    On loopback these are `localhost` and loopback addresses. Elsewhere: every address in digits, every name that public
    DNS cannot hold, and the name of the machine. The name that `--host` gave is always one. Ports are not compared: a
    tunnel may have another, and a page that was led here by its own name cannot change that.
    """

    def __init__(self, address: str, given: str = "") -> None:
        listening = urlsplit(address).hostname or ""
        self.own = {listening, given.lower(), "localhost"}
        self.machine = socket.gethostname().lower()
        self.loopback = is_loopback(listening)

    def objection(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """A status and why a request is refused; None where it may come in."""
        host = headers.get(b"host")  # HTTP/1.1 without one is refused as malformed; no browser speaks 1.0
        if host is not None and not self.knows(host.decode("latin-1").lower()):
            return 421, f"this server is not the Host that the request names: ask it as {self.expected()}"
        if is_foreign(method, headers):
            return 403, "requests of other sites' pages are refused: Origin must be this server"
        return None

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        found = HOST.fullmatch(host)
        if not found:
            return False
        name = found[1].strip("[]").removesuffix(".")
        if name in self.own:
            return True
        if self.loopback:
            return is_loopback(name)
        return "." not in name or is_address(name) or name.endswith(PRIVATE) or name == self.machine

    def expected(self) -> str:
        """The names to use instead."""
        return "localhost or 127.0.0.1" if self.loopback else "its address in digits, or name it with --host"


def is_foreign(method: str, headers: Headers) -> bool:
    """Whether a browser sends the request for a page of another site. Following a link to this one is not foreign.

    A browser's own word (Sec-Fetch-Site) counts more than Origin, which a proxy with TLS in front makes differ from
    Host. Programs send neither.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        asked = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest", DOCUMENT))
        follows_link = method in NAVIGATION and asked == (b"navigate", DOCUMENT)
        return site not in (b"same-origin", b"none") and not follows_link
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower()


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    with suppress(ValueError):
        return bool(ip_address(name))
    return False


def is_loopback(name: str) -> bool:
    """Whether a host is an IP address of this machine alone."""
    return is_address(name) and ip_address(name).is_loopback
