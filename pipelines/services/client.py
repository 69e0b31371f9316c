"""The Prefect server, asked by what works beside the flows."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client

from landuse.core.errors import Unavailable, one_line


@contextmanager
def server() -> Iterator[SyncPrefectClient]:
    """The server's API. Raises Unavailable as `answering` does."""
    with answering(), get_client(sync_client=True) as client:
        yield client


@contextmanager
def answering() -> Iterator[None]:
    """Raises Unavailable where the server does not answer, or does not do what it is asked."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Unavailable(f"Prefect server: {one_line(error, 240)}; make up starts it where it is down") from None
