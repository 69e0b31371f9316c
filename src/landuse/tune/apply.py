"""The values that a study found best, written into `params.yaml` and nothing else touched."""

from difflib import unified_diff
from typing import Any

import yaml

from landuse.core.errors import LanduseError
from landuse.core.files import write_whole
from landuse.core.paths import PARAMS


def apply(values: dict[str, Any]) -> str:
    """Put the values into the section `train`, comments and all else as they were; returns the diff.

    Raises LanduseError where another value would become another too, or none of `train`: YAML has anchors for that.
    """
    with PARAMS.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = replaced(before, values)
    refuse_entangled(before, after, values)
    write_whole(PARAMS, after)
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), str(PARAMS), str(PARAMS), n=0, lineterm=""))


def refuse_entangled(before: str, after: str, values: dict[str, Any]) -> None:
    """Raise LanduseError where a params file would not say the same as before, but for these values of `train`."""
    wanted = yaml.safe_load(before)
    wanted["train"] |= values
    try:
        found = yaml.safe_load(after)
    except yaml.YAMLError:
        found = None
    if found != wanted:
        best = ", ".join(f"{key}: {in_yaml(value)}" for key, value in values.items())
        raise LanduseError(f"{PARAMS} has values in common by anchors, so it is as it was: write under train {best}")


def replaced(text: str, values: dict[str, Any]) -> str:
    """The text of a params file with other values of keys of `train`, from the last to the first."""
    for key, node in reversed(child(yaml.compose(text), "train").value):
        if key.value in values and yaml.safe_load(node.value) != values[key.value]:
            old, new = text[node.start_mark.index : node.end_mark.index], in_yaml(values[key.value])
            text = text[: node.start_mark.index] + new + keep_column(old, new, text[node.end_mark.index :])
    return text


def in_yaml(value: Any) -> str:
    """A value as YAML has it, on one line: 2.0e-05, since 2e-05 would be a text."""
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def child(mapping: yaml.MappingNode, name: str) -> yaml.Node:
    """The value of a key."""
    return next(value for key, value in mapping.value if key.value == name)


def keep_column(old: str, new: str, rest: str) -> str:
    """What follows a value, its comment where it was if there is room."""
    blanks = len(rest) - len(rest.lstrip(" "))
    if not rest.lstrip(" ").startswith("#"):
        return rest
    return " " * max(blanks + len(old) - len(new), 1) + rest.lstrip(" ")
