"""Types of flow parameters. Prefect stores and shows them, so URLs, which may hold a login, are refused."""

import re
from typing import Annotated, Any

from pydantic import WithJsonSchema

from landuse.core.addresses import public
from landuse.core.errors import LanduseError

ADDRESS = r"://|^\s*//|:[^/]*@|[?&;#][\w.-]*="  # with a scheme, or mistyped without one
MAX_DEPTH = 3  # of lists and objects within a params value


def schema_without_addresses(depth: int) -> dict[str, Any]:
    """Return a JSON schema for values that contain no URL: the server rejects others before it stores them."""
    plain = [{"type": ["number", "boolean", "null"]}, {"type": "string", "not": {"pattern": ADDRESS}}]
    if not depth:
        return {"anyOf": plain}
    inner = schema_without_addresses(depth - 1)
    keys = {"not": {"pattern": ADDRESS}}
    nested = {"type": "object", "additionalProperties": inner, "propertyNames": keys}
    return {"anyOf": [*plain, {"type": "array", "items": inner}, nested]}


Text = Annotated[str, WithJsonSchema(schema_without_addresses(0))]
Overrides = Annotated[dict[str, Any], WithJsonSchema(schema_without_addresses(MAX_DEPTH))]


def refuse_address(key: str, text: str) -> None:
    """Raise LanduseError if a value may hold a secret."""
    if re.search(ADDRESS, text) or public(text) != text:
        remedy = "Prefect would keep and show it; set data.source in params.yaml instead"
        raise LanduseError(f"{key} = {public(text)}: a flow takes no address: {remedy}")
