"""Client of the Prefect server, for code that runs outside of a flow."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client

from landuse.core.errors import Unavailable, one_line
from pipelines.services import team_server


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """Open a client of the server's API. Raises Unavailable if a request fails."""
    with http_errors_as_unavailable(), get_client(sync_client=True) as client:
        yield client


@contextmanager
def http_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable if the server does not answer or rejects a request."""
    try:
        yield
    except httpx.HTTPError as error:
        remedy = f"check {team_server.ADDRESS}" if team_server.is_named() else "make up starts it where it is down"
        raise Unavailable(f"Prefect server: {one_line(error, 240)}; {remedy}") from None
