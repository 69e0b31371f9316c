"""Types of flow parameters. Prefect keeps and shows them, so addresses, which may hold a login, are refused."""

from typing import Annotated, Any

from pydantic import WithJsonSchema

from landuse.addresses import public
from landuse.errors import LanduseError

NO_URL = {"not": {"type": "string", "pattern": "://"}}  # the server refuses it before it is stored
Arrival = Annotated[str, WithJsonSchema({"type": "string"} | NO_URL)]
Overrides = dict[str, Annotated[Any, WithJsonSchema(NO_URL)]]


def refuse_address(key: str, text: str) -> None:
    """Raise LanduseError for a value that may hold a secret."""
    if "://" in text or public(text) != text:
        remedy = "Prefect would keep and show it; set data.source in params.yaml instead"
        raise LanduseError(f"{key} = {public(text)}: a flow takes no address: {remedy}")
