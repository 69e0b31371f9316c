"""Whether a Dask scheduler answers at an address."""

import asyncio
from importlib.metadata import version
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

from distributed.comm.core import connect
from distributed.security import Security

from landuse.core.errors import LanduseError, Unavailable, one_line

CONNECT_SECONDS = 10
VERSION = version("distributed")


def check_scheduler(address: str, name: str, role: str) -> None:
    """Shake hands with the scheduler at an address: Dask itself would wait for ever where something else listens.

    Args:
        address: an address that `compute.check_address` accepts
        name: what messages call it
        role: `client` or `worker`, by which Dask's settings name certificates

    Raises LanduseError if certificates are missing, and Unavailable if no scheduler answers.
    """
    url, options = urlsplit(address), connection_options(address, name, role)
    try:
        create_connection((str(url.hostname), int(url.port or 0)), CONNECT_SECONDS).close()
        asyncio.run(asyncio.wait_for(shake_hands(address, options), CONNECT_SECONDS))
    except TimeoutError:
        raise no_scheduler(address, name, f"no answer in {CONNECT_SECONDS} s") from None
    except Exception as error:  # each kind of server, and each version of Dask, fails in its own way
        raise no_scheduler(address, name, one_line(error, 100)) from None


def connection_options(address: str, name: str, role: str) -> dict[str, Any]:
    """Return what Dask needs for a connection. Raises LanduseError if certificates are missing or cannot be read."""
    variables = f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__{role.upper()}__CERT and …__{role.upper()}__KEY"
    try:
        options: dict[str, Any] = Security().get_connection_args(role)  # type: ignore[no-untyped-call]  # untyped
    except OSError as error:
        raise LanduseError(f"a file in {variables} is no certificate or key ({one_line(error, 100)})") from None
    if address.startswith("tls:") and options["ssl_context"] is None:
        raise LanduseError(f"{name} = {address}: name certificates in {variables}")
    return options


async def shake_hands(address: str, options: dict[str, Any]) -> None:
    """Connect as Dask does, and disconnect."""
    comm: Any = await connect(address, CONNECT_SECONDS, **options)  # type: ignore[no-untyped-call]  # untyped
    await comm.close()


def no_scheduler(address: str, name: str, reason: str) -> Unavailable:
    """Describe that no scheduler answers, with the remedy."""
    return Unavailable(
        f"{name} = {address}: no Dask scheduler of version {VERSION} answers there ({reason}): start one by dask "
        "scheduler, or correct the address"
    )
