"""Protection of dvc.lock, which DVC overwrites in place: a killed stage must not leave it half written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from landuse.core.errors import LanduseError
from landuse.core.paths import DVC_LOCK, SERVICES


@contextmanager
def protect_lockfile(folder: Path) -> Iterator[None]:
    """Back up dvc.lock while a stage runs in the folder, and restore it if the stage is interrupted."""
    backup = folder / SERVICES / DVC_LOCK
    if (folder / DVC_LOCK).exists():
        backup.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / DVC_LOCK, part := backup.with_suffix(".part"))
        os.replace(part, backup)
    try:
        yield
    except LanduseError as error:
        if error.exit_code > 0:  # DVC exited by itself, and another process may have written since
            backup.unlink(missing_ok=True)
        restore_lockfile(folder)
        raise
    except BaseException:
        restore_lockfile(folder)
        raise
    backup.unlink(missing_ok=True)


def restore_lockfile(folder: Path) -> None:
    """Restore the backup that an interrupted stage left, if dvc.lock is incomplete."""
    backup, lock = folder / SERVICES / DVC_LOCK, folder / DVC_LOCK
    if backup.exists():
        if is_complete(lock, backup):  # the user may have run stages by hand and committed the result
            backup.unlink()
        else:
            os.replace(backup, lock)


def is_complete(lock: Path, backup: Path) -> bool:
    """Return True if dvc.lock was written to its end: it has every stage of the backup, with all of its keys."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError):
        text = lock.read_text(encoding="utf-8")
        now, before = (yaml.safe_load(each)["stages"] for each in (text, backup.read_text(encoding="utf-8")))
        return text.endswith("\n") and all(now.get(name, {}).keys() >= stage.keys() for name, stage in before.items())
    return False
