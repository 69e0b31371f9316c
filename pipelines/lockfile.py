"""dvc.lock, which DVC writes in place: whatever is killed meanwhile, it must not be left half written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landuse.errors import LanduseError
from landuse.paths import SERVICES

LOCK_FILE = "dvc.lock"


@contextmanager
def kept_whole(folder: Path) -> Iterator[None]:
    """Keep a copy while a stage is at work in the folder, and put it back if the stage is stopped."""
    kept = folder / SERVICES / LOCK_FILE
    if (folder / LOCK_FILE).exists():
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / LOCK_FILE, part := kept.with_suffix(".part"))
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
    """Put the copy back that a stage which did not come to its end left."""
    with suppress(FileNotFoundError):
        os.replace(folder / SERVICES / LOCK_FILE, folder / LOCK_FILE)
