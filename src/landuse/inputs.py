"""What a stage depends on has to stay as it is while the stage runs: DVC records what stands there in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os.path import normpath
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from landuse.errors import LanduseError, Unavailable
from landuse.params import Params, load_params
from landuse.paths import DVC_YAML

Traits = tuple[int, int, int]
AGAIN = "DVC would take what came of it for the result of that, so it is not kept; dvc repro makes it again"


@contextmanager
def kept(stage: str) -> Iterator[Params]:
    """The params, for a stage of `dvc.yaml` to run within.

    Raises Unavailable where in the end a value or a file that the stage depends on is not what it was.
    """
    params, needs = load_params(), what_it_needs(stage)
    files = traits(needs)
    yield params
    refuse_edited(stage, values(needs, params), values(needs, load_params()))
    refuse_changed(stage, files, traits(needs))


def what_it_needs(stage: str) -> dict[str, Any]:
    """The entry of a stage in `dvc.yaml`. Raises LanduseError where there is none."""
    try:
        return yaml.safe_load(DVC_YAML.read_text(encoding="utf-8"))["stages"][stage]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise LanduseError(f"{DVC_YAML} has no stage {stage}: restore it with git checkout {DVC_YAML}") from None


def refuse_edited(stage: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise Unavailable where a value differs."""
    for key, value in before.items():
        if after[key] != value:
            raise Unavailable(f"{key} was {value!r} when {stage} began, and is {after[key]!r} now: {AGAIN}")


def refuse_changed(stage: str, before: dict[Path, Traits | None], after: dict[Path, Traits | None]) -> None:
    """Raise Unavailable where a file is another, came or went."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            raise Unavailable(f"{path} was changed while {stage} ran: {AGAIN}")


def values(needs: dict[str, Any], params: Params) -> dict[str, Any]:
    """The params that a stage depends on, as `section.key`."""
    entries = ([entry] if isinstance(entry, str) else next(iter(entry.values())) for entry in needs["params"])
    names = {name for entry in entries for name in entry}
    found = {f"{name}.{key}": value for name, section in asdict(params).items() for key, value in section.items()}
    return {key: value for key, value in found.items() if not names.isdisjoint({key, key.partition(".")[0]})}


def traits(needs: dict[str, Any]) -> dict[Path, Traits | None]:
    """The files that a stage depends on, and what DVC too knows an unchanged one by: inode, time, size.

    What is hidden or compiled does not count, nor do the weights, of which the stage itself records the digest.
    """
    roots = [Path(normpath(Path(needs.get("wdir", ""), dep))) for dep in needs["deps"] if not dep.startswith("$")]
    return {path: trait(path) for root in roots for path in (root, *root.rglob("*")) if counts(path)}


def counts(path: Path) -> bool:
    """Whether a path is neither hidden nor compiled."""
    return not any(part.startswith((".", "__pycache__")) for part in path.parts)


def trait(path: Path) -> Traits | None:
    """Of a file; None of a folder and of what is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if S_ISREG(found.st_mode) else None
