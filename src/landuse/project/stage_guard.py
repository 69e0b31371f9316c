"""Guard a running stage: its inputs must not change, because DVC records them as they are when the stage ends.

Its outputs must not be written through links, which DVC may have made, into the cache.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from os.path import isdir, islink, join, normpath
from pathlib import Path
from typing import Any

import yaml

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import CONFLICT_MARKER, sha256_of
from landuse.core.paths import DVC_YAML
from landuse.params import Params, load_params

FileState = tuple[int, int]  # modification time in nanoseconds, size in bytes
REMEDY = "DVC would record its outputs as made from that, so they are discarded; dvc repro makes them again"


@contextmanager
def guard_stage(stage: str) -> Iterator[Params]:
    """Yield the params for a stage of `dvc.yaml` to run with.

    Raises Unavailable if a param or a file that the stage depends on has changed by the end.
    """
    params, entry = load_params(), stage_entry(stage)
    before = file_states(entry)
    remove_output_links(entry)
    yield params
    refuse_changed_params(stage, stage_params(entry, params), stage_params(entry, load_params()))
    refuse_changed_files(stage, before, file_states(entry))


def stage_entry(stage: str) -> dict[str, Any]:
    """Return the entry of a stage in `dvc.yaml`. Raises LanduseError if there is none."""
    try:
        text = DVC_YAML.read_text(encoding="utf-8")
        if CONFLICT_MARKER in text:
            raise LanduseError(f"{DVC_YAML} has both sides of a merge: keep one of them")
        entry: dict[str, Any] = yaml.safe_load(text)["stages"][stage]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise LanduseError(f"{DVC_YAML} has no stage {stage}: restore it with git checkout {DVC_YAML}") from None
    return entry


def code_digest(stage: str) -> str:
    """Return the SHA-256 of the source files of a stage, as listed in `dvc.yaml`."""
    entry = stage_entry(stage)
    files = filter(os.path.exists, list_files(entry, [dep for dep in entry["deps"] if dep.startswith("src/")]))
    return hashlib.sha256("".join(sha256_of(Path(file)) for file in sorted(files)).encode()).hexdigest()


def remove_output_links(entry: dict[str, Any]) -> None:
    """Remove links among the outputs of a stage, as DVC does before it runs one.

    Outputs that persist (those that are not plain strings) are left alone, because stages write them atomically.
    """
    outputs = [out for key in ("outs", "metrics") for out in entry.get(key, []) if isinstance(out, str)]
    for path in list_files(entry, outputs):
        if islink(path) or os.path.exists(path) and os.stat(path).st_nlink > 1:
            os.unlink(path)


def refuse_changed_params(stage: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise Unavailable if a param differs."""
    for key, value in before.items():
        if after[key] != value:
            raise Unavailable(f"{key} was {value!r} when {stage} began, and is {after[key]!r} now: {REMEDY}")


def refuse_changed_files(stage: str, before: dict[str, FileState], after: dict[str, FileState]) -> None:
    """Raise Unavailable if a file was changed, added or removed."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            raise Unavailable(f"{path} was changed while {stage} ran: {REMEDY}")


def stage_params(entry: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the params that a stage depends on, keyed by `section.key`."""
    groups = ([item] if isinstance(item, str) else next(iter(item.values())) for item in entry["params"])
    names = {name for group in groups for name in group}
    values = {f"{name}.{key}": value for name, section in asdict(params).items() for key, value in section.items()}
    return {key: value for key, value in values.items() if not names.isdisjoint({key, key.partition(".")[0]})}


def file_states(entry: dict[str, Any]) -> dict[str, FileState]:
    """Return the state of each file that a stage depends on. Inodes are left out: some file systems change them.

    Hidden and compiled files do not count, nor do the weights, whose digest the stage itself records.
    """
    states = {}
    for path in list_files(entry, [dep for dep in entry["deps"] if not dep.startswith("$")]):
        with suppress(FileNotFoundError):  # removed since it was listed
            status = os.stat(path)
            states[path] = status.st_mtime_ns, status.st_size
    return states


def list_files(entry: dict[str, Any], roots: list[str]) -> Iterator[str]:
    """Yield the files among the roots of a stage and those in its folders, except hidden and compiled ones."""
    for root in (normpath(join(entry.get("wdir", ""), root)) for root in roots):
        if not isdir(root):
            yield root
        for folder, folders, names in os.walk(root):
            folders[:] = filter(is_relevant, folders)
            yield from (join(folder, name) for name in filter(is_relevant, names))


def is_relevant(name: str) -> bool:
    """Return True if a file or folder is neither hidden nor compiled."""
    return not name.startswith((".", "__pycache__"))
