"""What a stage depends on has to stay as it is while the stage runs: DVC records what stands there in the end.

And what it makes must not be written through links into the cache, where DVC makes them.
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
from landuse.core.files import BOTH_SIDES, sha256_of
from landuse.core.paths import DVC_YAML
from landuse.params import Params, load_params

Traits = tuple[int, int]
AGAIN = "DVC would take what came of it for the result of that, so it is not kept; dvc repro makes it again"


@contextmanager
def kept(stage: str) -> Iterator[Params]:
    """The params, for a stage of `dvc.yaml` to run within.

    Raises Unavailable where in the end a value or a file that the stage depends on is not what it was.
    """
    params, needs = load_params(), what_it_needs(stage)
    before = traits(needs)
    let_go_of_links(needs)
    yield params
    refuse_edited(stage, values(needs, params), values(needs, load_params()))
    refuse_changed(stage, before, traits(needs))


def what_it_needs(stage: str) -> dict[str, Any]:
    """The entry of a stage in `dvc.yaml`. Raises LanduseError where there is none."""
    try:
        text = DVC_YAML.read_text(encoding="utf-8")
        if BOTH_SIDES in text:
            raise LanduseError(f"{DVC_YAML} has both sides of a merge: keep one of them")
        return yaml.safe_load(text)["stages"][stage]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise LanduseError(f"{DVC_YAML} has no stage {stage}: restore it with git checkout {DVC_YAML}") from None


def code_of(stage: str) -> str:
    """The sha256 of the source files that a stage runs through, as `dvc.yaml` lists them."""
    needs = what_it_needs(stage)
    files = filter(os.path.exists, below(needs, [dep for dep in needs["deps"] if dep.startswith("src/")]))
    return hashlib.sha256("".join(sha256_of(Path(file)) for file in sorted(files)).encode()).hexdigest()


def let_go_of_links(needs: dict[str, Any]) -> None:
    """Remove links among what a stage makes, as DVC itself does before it runs one; what persists is written whole."""
    made = [out for key in ("outs", "metrics") for out in needs.get(key, []) if isinstance(out, str)]
    for path in below(needs, made):
        if islink(path) or os.path.exists(path) and os.stat(path).st_nlink > 1:
            os.unlink(path)


def refuse_edited(stage: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise Unavailable where a value differs."""
    for key, value in before.items():
        if after[key] != value:
            raise Unavailable(f"{key} was {value!r} when {stage} began, and is {after[key]!r} now: {AGAIN}")


def refuse_changed(stage: str, before: dict[str, Traits], after: dict[str, Traits]) -> None:
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


def traits(needs: dict[str, Any]) -> dict[str, Traits]:
    """The files that a stage depends on, with time of the last change and size; inodes change on some file systems.

    What is hidden or compiled does not count, nor do the weights, of which the stage itself records the digest.
    """
    found = {}
    for path in below(needs, [dep for dep in needs["deps"] if not dep.startswith("$")]):
        with suppress(FileNotFoundError):  # gone as soon as it was listed
            facts = os.stat(path)
            found[path] = facts.st_mtime_ns, facts.st_size
    return found


def below(needs: dict[str, Any], roots: list[str]) -> Iterator[str]:
    """Files that a stage names, and those in folders that it names, but for hidden and compiled ones."""
    for root in (normpath(join(needs.get("wdir", ""), root)) for root in roots):
        if not isdir(root):
            yield root
        for folder, folders, names in os.walk(root):
            folders[:] = filter(counts, folders)
            yield from (join(folder, name) for name in filter(counts, names))


def counts(name: str) -> bool:
    """Whether a file or folder is neither hidden nor compiled."""
    return not name.startswith((".", "__pycache__"))
