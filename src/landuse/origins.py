"""Which requests of a browser come from a server's own pages.

A page of another site, or of another server on this machine, can have the browser send requests here, and can give this
machine a name of its own (DNS rebinding). Programs send no Origin, and are let through.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
OWN_PAGES = frozenset({None, "none", "same-origin"})  # of Sec-Fetch-Site; "none": typed or bookmarked


def foreign_request(headers: Mapping[str, str], method: str, hosts: frozenset[str] = LOOPBACK) -> str | None:
    """Why a request is refused as one of another page or host; None for one that is not."""
    host = headers.get("host", "")
    if hostname(host) not in hosts:
        return f"Host {host[:80]!r} is not the name of this server"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return f"requests of pages of {origin[:80]!r} are refused"
    if headers.get("sec-fetch-site") not in OWN_PAGES and not is_link(headers, method):
        return "requests of pages of another server are refused"
    return None


def hostname(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def is_link(headers: Mapping[str, str], method: str) -> bool:
    """Whether a person followed a link of another page to this one."""
    return method == "GET" and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
        "navigate",
        "document",
    )
