"""Write the best values of a study into `params.yaml`, without changing anything else."""

from difflib import unified_diff
from typing import Any

import yaml

from landuse.core.errors import LanduseError
from landuse.core.files import write_atomically
from landuse.core.paths import PARAMS


def apply(values: dict[str, Any]) -> str:
    """Set values in the section `train`, keeping comments and everything else; return the diff.

    Raises LanduseError if YAML anchors would change any other value as well, or prevent the change.
    """
    with PARAMS.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = replace_values(before, values)
    refuse_entangled(before, after, values)
    write_atomically(PARAMS, after)
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), str(PARAMS), str(PARAMS), n=0, lineterm=""))


def refuse_entangled(before: str, after: str, values: dict[str, Any]) -> None:
    """Raise LanduseError if two texts of a params file differ in anything but these values of `train`."""
    expected = yaml.safe_load(before)
    expected["train"] |= values
    try:
        actual = yaml.safe_load(after)
    except yaml.YAMLError:
        actual = None
    if actual != expected:
        best = ", ".join(f"{key}: {to_yaml(value)}" for key, value in values.items())
        raise LanduseError(f"{PARAMS} shares values by anchors, so it was not changed: write under train {best}")


def replace_values(text: str, values: dict[str, Any]) -> str:
    """Replace values of `train` in the text of a params file, from the last to the first."""
    for key, node in reversed(section_entries(text, "train")):
        if key.value in values and yaml.safe_load(node.value) != values[key.value]:
            old, new = text[node.start_mark.index : node.end_mark.index], to_yaml(values[key.value])
            text = text[: node.start_mark.index] + new + align_comment(old, new, text[node.end_mark.index :])
    return text


def to_yaml(value: object) -> str:
    """Format a value as YAML on one line: 2.0e-05, since 2e-05 would be read as a string."""
    dumped: str = yaml.safe_dump(value, default_flow_style=True)
    return dumped.splitlines()[0]


def section_entries(text: str, name: str) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the nodes of the keys and values in a section of a params file."""
    root = yaml.compose(text)
    section = next(node for key, node in (root.value if root else ()) if key.value == name)
    entries: list[tuple[yaml.Node, yaml.Node]] = section.value
    return entries


def align_comment(old: str, new: str, rest: str) -> str:
    """Return the text after a replaced value, with its comment in the same column if there is room."""
    blanks = len(rest) - len(rest.lstrip(" "))
    if not rest.lstrip(" ").startswith("#"):
        return rest
    return " " * max(blanks + len(old) - len(new), 1) + rest.lstrip(" ")
