"""A Prefect server of a team, named by `LANDUSE_PREFECT_API_URL`, which takes the place of the one of `make up`."""

import os
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request

from landuse.core.addresses import public
from landuse.core.auth import authorization_header
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.proxies import refuse_unsupported_proxy
from pipelines.services.health import http_status

ADDRESS, LOGIN = "LANDUSE_PREFECT_API_URL", "LANDUSE_PREFECT_API_AUTH_STRING"
API = "/api"
EXAMPLE = f"http://prefect.example.org:4200{API}"


def api_url() -> str:
    """Return the address of the team's Prefect API, or an empty string if none is named.

    Raises LanduseError if it is not the plain address of an API.
    """
    address = os.environ.get(ADDRESS, "").strip().rstrip("/")
    if address and not is_plain(address):
        raise LanduseError(f"{ADDRESS} = {public(address)}: name an API such as {EXAMPLE}, and its login in {LOGIN}")
    return address


def is_plain(address: str) -> bool:
    """Return True for an HTTP address that ends with /api and has no login, which Prefect would print."""
    try:
        url = urlsplit(address)
        named = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return named and address.endswith(API) and address == public(address)


def is_named() -> bool:
    """Return True if the project uses a Prefect server of a team."""
    return bool(api_url())


def settings() -> dict[str, str]:
    """Return the settings by which Prefect's clients reach the team's server, by a company's certificates too."""
    return {
        "api.url": api_url(),
        "ui_url": api_url().removesuffix(API),
        "api.auth_string": os.environ.get(LOGIN, ""),
        "api.ssl_cert_file": os.environ.get("SSL_CERT_FILE", ""),
    }


def check() -> None:
    """Ask the team's server whether it takes the login.

    Raises LanduseError if it does not, or is no Prefect server, and Unavailable if it does not answer.
    """
    address, secret = api_url(), os.environ.get(LOGIN, "")
    refuse_unsupported_proxy(address)
    headers = {"Authorization": authorization_header(secret)} if secret else {}
    status = http_status(Request(f"{address}/admin/version", headers=headers), ProxyHandler())
    if status in (401, 403):
        raise LanduseError(f"{ADDRESS} = {address} refuses the login: set {LOGIN} to its user:password")
    if status is None or status >= 500:
        raise Unavailable(f"{ADDRESS} = {address} does not answer: check that it is up, and the address")
    if status != 200:
        raise LanduseError(f"{ADDRESS} = {address} is no API of a Prefect server (status {status}): name another")
