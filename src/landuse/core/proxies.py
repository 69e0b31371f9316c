"""Proxies and certificates that the user's shell names: obeyed on the way out, never in the way on this machine."""

import json
import os
import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from landuse.core.addresses import parts, public
from landuse.core.errors import LanduseError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
HIDDEN = "LANDUSE_PROXIES"  # environment variable: the proxies of the user that are hidden from Prefect


def set_straight() -> None:
    """Let every library read the user's proxies and certificates alike, and ask this machine without a proxy."""
    direct = ",".join(dict.fromkeys(filter(None, map(host, [*unproxied(), *LOOPBACK]))))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
    everything = of_the_user().get("all_proxy") or of_the_user().get("ALL_PROXY", "")
    for name in ("http_proxy", "https_proxy"):
        if everything and is_spoken(everything) and not {name, name.upper()} & os.environ.keys():
            os.environ[name] = everything  # urllib and boto do not read ALL_PROXY
    for name in CERTIFICATES:
        if name in os.environ and not holds_certificates(Path(os.environ[name])):
            del os.environ[name]


def unproxied() -> list[str]:
    """The hosts that the user has asked without the proxy."""
    return re.split(r"[,;\s]+", os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""))


def host(entry: str) -> str:
    """An entry of NO_PROXY as every library reads it: IPv6 without brackets; empty where one of them would fail."""
    bracketed = re.fullmatch(r"\[(.+)\](:\d+)?", entry)
    with suppress(ValueError):
        return str(ip_address(bracketed[1] if bracketed else entry))
    with suppress(UnicodeError):
        entry = entry.encode("idna").decode() if not entry.isascii() else entry
    return entry if re.fullmatch(r"[\w.*-]+(:\d+)?(/\d+)?", entry, re.ASCII) else ""


def holds_certificates(path: Path) -> bool:
    """Whether a file of certificates can be loaded; of a folder, whether it is there."""
    import ssl

    with suppress(OSError, ValueError):
        if path.is_file():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        return path.exists()
    return False


def is_spoken(proxy: str) -> bool:
    """Whether the HTTP libraries here can go through a proxy: they speak no SOCKS."""
    with suppress(ValueError):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    return False


def of_the_user() -> dict[str, str]:
    """The proxies that the user's shell names, also where they are hidden from this process."""
    names = (*PROXIES, *map(str.upper, PROXIES))
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    return found | json.loads(os.environ.get(HIDDEN) or "{}")


def hidden() -> dict[str, str]:
    """Variables that hide from Prefect a proxy at which its client would fail without ever using it."""
    found = of_the_user()
    unspoken = {name: "" for name, proxy in found.items() if not is_spoken(proxy)}
    return unspoken | {HIDDEN: json.dumps({name: found[name] for name in unspoken})} if unspoken else {}


def shown() -> dict[str, str]:
    """Variables that show the user's proxies again to a program which Prefect starts."""
    return of_the_user() | {HIDDEN: ""} if os.environ.get(HIDDEN) else {}


def refuse_unspoken_proxy(url: str) -> None:
    """Raise LanduseError where a host would be asked past the proxy of the user, which nothing here can go through."""
    from urllib.request import proxy_bypass_environment

    scheme, host, found = url.partition("://")[0].lower(), hostname_of(url), of_the_user()
    if not host or proxy_bypass_environment(host):
        return
    names = (f"{scheme}_proxy", "all_proxy")
    name = next((each for name in names for each in (name, name.upper()) if each in found), None)
    if name and not is_spoken(found[name]):
        remedy = f"set {scheme.upper()}_PROXY to an http:// proxy, or name {host} in NO_PROXY"
        raise LanduseError(f"{name} = {public(found[name])}: landuse can go through HTTP proxies only; {remedy}")


def hostname_of(url: str) -> str | None:
    """The host of a URL, whatever stands in its login."""
    _, host, _ = parts(url)
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname
    return None
