"""Write values into `params.yaml`, without changing anything else."""

from collections.abc import Mapping
from difflib import unified_diff
from typing import Any

import yaml

from landuse.core.errors import LanduseError
from landuse.core.files import write_atomically
from landuse.core.paths import PARAMS

Changes = Mapping[str, Mapping[str, Any]]  # values by section and key
WIDTH, INDENT = 110, " " * 5  # of lists that take several lines


def apply(changes: Changes) -> str:
    """Set values, keeping comments and everything else; return the diff.

    Raises LanduseError if YAML anchors would change any other value as well, or prevent the change.
    """
    with PARAMS.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = replace_all(before, changes)
    write_atomically(PARAMS, after)
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), str(PARAMS), str(PARAMS), n=0, lineterm=""))


def replace_all(text: str, changes: Changes) -> str:
    """Replace values of several sections in the text of a params file. Raises LanduseError as `apply` does."""
    after = text
    for section, values in changes.items():
        after = replace_values(after, section, values)
    refuse_entangled(text, after, changes)
    return after


def refuse_entangled(before: str, after: str, changes: Changes) -> None:
    """Raise LanduseError if two texts of a params file differ in anything but these values."""
    expected = yaml.safe_load(before)
    for section, values in changes.items():
        expected[section] |= values
    try:
        actual = yaml.safe_load(after)
    except yaml.YAMLError:
        actual = None
    if actual != expected:
        wanted = "; ".join(
            f"under {section} " + ", ".join(f"{key}: {to_yaml(value)}" for key, value in values.items())
            for section, values in changes.items()
        )
        raise LanduseError(f"{PARAMS} shares values by anchors, so it was not changed: write {wanted}")


def replace_values(text: str, section: str, values: Mapping[str, Any]) -> str:
    """Replace values of a section in the text of a params file, from the last to the first."""
    for key, node in reversed(section_entries(text, section)):
        old = text[node.start_mark.index : node.end_mark.index]
        if key.value in values and yaml.safe_load(old) != values[key.value]:
            new = to_yaml(values[key.value])
            text = text[: node.start_mark.index] + new + align_comment(old, new, text[node.end_mark.index :])
    return text


def to_yaml(value: object) -> str:
    """Format a value as YAML in one line, or a long list in several: 2.0e-05, since 2e-05 would be read as a string."""
    dumped: str = yaml.safe_dump(value, default_flow_style=True, width=WIDTH, allow_unicode=True)
    lines = dumped.removesuffix("...\n").rstrip().splitlines()
    return f"\n{INDENT}".join(line.strip() for line in lines)


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
