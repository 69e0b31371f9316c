"""Types of flow parameters. Prefect keeps and shows them, so addresses, which may hold a login, are refused."""

import re
from typing import Annotated, Any

from pydantic import WithJsonSchema

from landuse.core.addresses import public
from landuse.core.errors import LanduseError

ADDRESS = r"://|^\s*//|:[^/]*@|[?&;#][\w.-]*="  # with a scheme, or mistyped without one
DEEPEST = 3  # of lists and objects within a value of params


def without_address(depth: int) -> dict[str, Any]:
    """A JSON schema for values in which no text is an address: the server refuses others before it stores them."""
    plain = [{"type": ["number", "boolean", "null"]}, {"type": "string", "not": {"pattern": ADDRESS}}]
    if not depth:
        return {"anyOf": plain}
    inner = without_address(depth - 1)
    keys = {"not": {"pattern": ADDRESS}}
    nested = {"type": "object", "additionalProperties": inner, "propertyNames": keys}
    return {"anyOf": [*plain, {"type": "array", "items": inner}, nested]}


Text = Annotated[str, WithJsonSchema(without_address(0))]
Overrides = Annotated[dict[str, Any], WithJsonSchema(without_address(DEEPEST))]


def refuse_address(key: str, text: str) -> None:
    """Raise LanduseError for a value that may hold a secret."""
    if re.search(ADDRESS, text) or public(text) != text:
        remedy = "Prefect would keep and show it; set data.source in params.yaml instead"
        raise LanduseError(f"{key} = {public(text)}: a flow takes no address: {remedy}")
