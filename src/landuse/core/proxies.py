"""Proxies and certificates from the environment: used for other machines, bypassed for this one."""

import json
import os
import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from landuse.core.addresses import public, split_address
from landuse.core.errors import LanduseError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
HIDDEN_PROXIES = "LANDUSE_PROXIES"  # environment variable: proxies of the user that are hidden from Prefect


def normalize_network_settings() -> None:
    """Make all libraries read proxies and certificates alike, and reach this machine without a proxy."""
    direct = ",".join(dict.fromkeys(filter(None, map(normalize_host, [*no_proxy_hosts(), *LOOPBACK]))))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
    fallback = user_proxies().get("all_proxy") or user_proxies().get("ALL_PROXY", "")
    for name in ("http_proxy", "https_proxy"):
        if fallback and is_supported(fallback) and not {name, name.upper()} & os.environ.keys():
            os.environ[name] = fallback  # urllib and boto do not read ALL_PROXY
    for name in CERTIFICATES:
        if name in os.environ and not holds_certificates(Path(os.environ[name])):
            del os.environ[name]


def no_proxy_hosts() -> list[str]:
    """Return the hosts that the user excludes from proxying."""
    return re.split(r"[,;\s]+", os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""))


def normalize_host(entry: str) -> str:
    """Return an entry of NO_PROXY in a form that all libraries read: IPv6 without brackets; empty if one would fail."""
    bracketed = re.fullmatch(r"\[(.+)\](:\d+)?", entry)
    with suppress(ValueError):
        return str(ip_address(bracketed[1] if bracketed else entry))
    with suppress(UnicodeError):
        entry = entry.encode("idna").decode() if not entry.isascii() else entry
    return entry if re.fullmatch(r"[\w.*-]+(:\d+)?(/\d+)?", entry, re.ASCII) else ""


def holds_certificates(path: Path) -> bool:
    """Return True if a certificate file can be loaded, or a certificate folder exists."""
    import ssl

    with suppress(OSError, ValueError):
        if path.is_file():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        return path.exists()
    return False


def is_supported(proxy: str) -> bool:
    """Return True if the HTTP libraries in use support a proxy; they do not support SOCKS."""
    with suppress(ValueError):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    return False


def user_proxies() -> dict[str, str]:
    """Return the proxies of the user's environment, including those hidden from this process."""
    names = (*PROXIES, *map(str.upper, PROXIES))
    visible = {name: os.environ[name] for name in names if os.environ.get(name)}
    hidden: dict[str, str] = json.loads(os.environ.get(HIDDEN_PROXIES) or "{}")
    return visible | hidden


def hide_unsupported_proxies() -> dict[str, str]:
    """Return environment variables that hide unsupported proxies: Prefect's client fails on them, even unused."""
    unsupported = {name: proxy for name, proxy in user_proxies().items() if not is_supported(proxy)}
    return dict.fromkeys(unsupported, "") | {HIDDEN_PROXIES: json.dumps(unsupported)} if unsupported else {}


def restore_hidden_proxies() -> dict[str, str]:
    """Return environment variables that restore hidden proxies for a program that Prefect starts."""
    return user_proxies() | {HIDDEN_PROXIES: ""} if os.environ.get(HIDDEN_PROXIES) else {}


def refuse_unsupported_proxy(url: str) -> None:
    """Raise LanduseError if the user's proxy for a URL is unsupported: it would be silently bypassed."""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

    scheme, host, proxies = url.partition("://")[0].lower(), hostname_of(url), user_proxies()
    if not host or proxy_bypass_environment(host):
        return
    names = (f"{scheme}_proxy", "all_proxy")
    name = next((each for name in names for each in (name, name.upper()) if each in proxies), None)
    if name and not is_supported(proxies[name]):
        remedy = f"set {scheme.upper()}_PROXY to an http:// proxy, or name {host} in NO_PROXY"
        raise LanduseError(f"{name} = {public(proxies[name])}: landuse can go through HTTP proxies only; {remedy}")


def hostname_of(url: str) -> str | None:
    """Return the host of a URL, whatever characters its login contains."""
    _, host, _ = split_address(url)
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname
    return None
