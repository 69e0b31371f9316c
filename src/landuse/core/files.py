"""Files that an earlier stage wrote, or an error that says how to have them again; and files that are written whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landuse.core.errors import LanduseError

if TYPE_CHECKING:
    import pandas as pd

BOTH_SIDES = "<<<<<<< "  # git leaves it where a merge has to be settled
TEXT = ("path", "label", "subset", "actual", "predicted", "class")


class Record(dict[str, Any]):
    """The JSON object in a file. To ask for a key that it has not raises LanduseError: another file is in its place."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> None:
        raise LanduseError(f"{self.path} has no {key}: dvc repro makes it again")


def made(path: Path) -> Path:
    """The path, if there is something. Raises LanduseError where there is not."""
    if not path.exists():
        raise LanduseError(f"{path} is not here: dvc repro makes it")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The path, to be read within the context. Raises LanduseError where it is missing, or what it holds is damaged."""
    try:
        yield made(path)
    except (ValueError, EOFError, RuntimeError, OSError) as error:  # so say the parsers of every format here
        if getattr(error, "errno", None) is not None:  # the system's, not Arrow's
            raise
        raise LanduseError(f"{path} is damaged: dvc repro makes it again") from None


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises LanduseError where it is missing or damaged."""
    with opened(path):
        return Record(path)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """The rows of a CSV or Parquet file, all columns or some. Raises LanduseError as `read_record` does.

    Classes may be called `1` or `NA`.
    """
    import pandas as pd

    with opened(path):
        if path.suffix == ".parquet":
            return pd.read_parquet(path, columns=columns)
        return pd.read_csv(path, usecols=columns, dtype=dict.fromkeys(TEXT, "str"), keep_default_na=False)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file in one rename, so that it is never there by half: a full disk or a power cut leaves the old one."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else the name may reach the disk before the content
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
