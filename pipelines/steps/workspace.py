"""Working folder of a training: the project itself or, with overridden params, a copy that leaves it unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from landuse import tracking
from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.paths import PARAMS, SERVICES
from landuse.params import Params, load_params
from landuse.params.errors import RENAMED, suggestion
from landuse.project.worktree import copy_project, remove_copy

COPY = SERVICES / "workspace"


@contextmanager
def workspace(overrides: dict[str, Any] | None) -> Iterator[Path]:
    """Yield the folder to run stages in. Results made in a copy stay in DVC's cache and the MLflow store.

    Raises LanduseError if a key or value is not allowed, or the project is not a git repository with a commit.
    """
    if not overrides:
        yield Path()
        return
    params = apply_overrides(overrides)
    with tracking.store():
        pass  # creates the experiment here, so that its artifacts are not stored in the copy
    remove_copy(COPY)
    try:
        project = copy_project(COPY)
        (project / PARAMS).write_text(params, encoding="utf-8")
        refuse_wrong_values(project / PARAMS)
        yield project
    finally:
        remove_copy(COPY)


def apply_overrides(overrides: dict[str, Any]) -> str:
    """Return params.yaml with the values of `section.key` replaced, and URLs reduced to their public part."""
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if name in RENAMED:
            raise LanduseError(f"{name}: renamed to {RENAMED[name]}")
        if key not in content.get(section, {}):
            sections = get_type_hints(Params)
            likely = suggestion(key, sections[section]) if section in sections else suggestion(section, Params)
            raise LanduseError(f"{name} = {value!r}: there is no such key in {PARAMS}{likely}")
        content[section][key] = value
    return yaml.safe_dump(public_values(content), sort_keys=False)


def refuse_wrong_values(params: Path) -> None:
    """Raise LanduseError if the copy's params.yaml is invalid, without naming that file."""
    try:
        load_params(params)
    except LanduseError as error:
        raise LanduseError(str(error).replace(f"{params}: ", "")) from None
