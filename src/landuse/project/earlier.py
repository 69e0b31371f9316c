"""Earlier outputs of a stage, found in DVC's own cache, so that a stage needs to make only what is new.

DVC removes the outputs of a stage before it runs it. What it had made before is still in DVC's cache, by content.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from landuse.core.paths import DVC_LOCK
from landuse.project.dvc_cache import cache_folder

FROM_SCRATCH = "LANDUSE_FROM_SCRATCH"  # environment variable; set, no stage reuses anything


def is_from_scratch() -> bool:
    """Return True if nothing earlier is to be reused."""
    return FROM_SCRATCH in os.environ


def earlier_outputs(path: Path) -> Iterator[str]:
    """Yield the MD5s of earlier versions of an output: that in dvc.lock, then those of other runs, the latest first."""
    if not is_from_scratch():
        records = chain(locked_stages(), recorded_runs(path))
        yield from unique(md5 for record in records if (md5 := output_md5(record, path)))


def output_md5(record: Any, path: Path) -> str | None:
    """Return the MD5 of an output in DVC's record of a stage; None if it is not there, or the record is damaged.

    Paths in a record may be relative to a stage's own folder.
    """
    with suppress(KeyError, TypeError, AttributeError):
        for out in record["outs"]:
            if os.path.normpath(str(out["path"])).removeprefix("../") == str(path):
                return str(out["md5"])
    return None


def unique(items: Iterator[str]) -> Iterator[str]:
    """Yield each item once."""
    seen: set[str] = set()
    for item in items:
        if item not in seen:
            seen.add(item)
            yield item


def locked_stages() -> Iterator[Any]:
    """Yield what dvc.lock records of the last run of each stage, as far as it can be read."""
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        yield from yaml.safe_load(DVC_LOCK.read_text(encoding="utf-8"))["stages"].values()


def recorded_runs(output: Path) -> Iterator[Any]:
    """Yield what DVC recorded of earlier runs that made an output, the latest first, whatever they depended on."""
    paths = [path for path in (cache_folder() / "runs").glob("*/*/*") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            if f"{output}\n" in text:
                yield yaml.safe_load(text)
