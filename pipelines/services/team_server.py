"""A Prefect server of a team, named by `LANDUSE_PREFECT_API_URL`, which takes the place of the one of `make up`."""

import os
import re
import socket
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request

from landuse.core.addresses import public
from landuse.core.auth import authorization_header
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.proxies import refuse_unsupported_proxy
from pipelines.services.health import http_status

ADDRESS, LOGIN = "LANDUSE_PREFECT_API_URL", "LANDUSE_PREFECT_API_AUTH_STRING"
API = "/api"
RESERVED = "[/%&<>]"  # characters that Prefect allows in no name
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


def worker_name() -> str:
    """Return the name by which the server knows the worker of this project: its folder and machine."""
    folder = Path.cwd()
    name = re.sub(RESERVED, "-", folder.name)
    return f"{name} on {socket.gethostname()} ({sha256(str(folder).encode()).hexdigest()[:8]})"


def refuse_other_workers(pool: str) -> None:
    """Raise LanduseError if another project has a worker on the team's server: each would take the other's runs."""
    from prefect.client.schemas.objects import WorkerStatus

    from pipelines.services.client import prefect_client

    with prefect_client() as client:
        workers = client.read_workers_for_work_pool(pool)
    for worker in workers:
        if worker.status == WorkerStatus.ONLINE and worker.name != worker_name():
            raise LanduseError(
                f"{ADDRESS} = {api_url()} has a worker of another project, {worker.name}: make down there and wait two "
                "minutes, or name another server"
            )
