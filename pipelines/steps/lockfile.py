"""dvc.lock, which DVC writes in place: whatever is killed meanwhile, it must not be left half written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from landuse.core.errors import LanduseError
from landuse.core.paths import DVC_LOCK, SERVICES


@contextmanager
def kept_whole(folder: Path) -> Iterator[None]:
    """Keep a copy while a stage is at work in the folder, and put it back if the stage is stopped."""
    kept = folder / SERVICES / DVC_LOCK
    if (folder / DVC_LOCK).exists():
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / DVC_LOCK, part := kept.with_suffix(".part"))
        os.replace(part, kept)
    try:
        yield
    except LanduseError as error:
        if error.exit_code > 0:  # DVC came to its end, and others may have written since
            kept.unlink(missing_ok=True)
        restore(folder)
        raise
    except BaseException:
        restore(folder)
        raise
    kept.unlink(missing_ok=True)


def restore(folder: Path) -> None:
    """Put the copy back that a stage which did not come to its end left, where dvc.lock is not whole any more."""
    kept, lock = folder / SERVICES / DVC_LOCK, folder / DVC_LOCK
    if kept.exists():
        if is_whole(lock, kept):  # somebody may have run stages by hand, and committed what came of it
            kept.unlink()
        else:
            os.replace(kept, lock)


def is_whole(lock: Path, kept: Path) -> bool:
    """Whether DVC has written a lock to its end: it has every stage of the one before, with all that belongs to it."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError):
        text = lock.read_text(encoding="utf-8")
        now, before = (yaml.safe_load(each)["stages"] for each in (text, kept.read_text(encoding="utf-8")))
        return text.endswith("\n") and all(now.get(name, {}).keys() >= stage.keys() for name, stage in before.items())
    return False
