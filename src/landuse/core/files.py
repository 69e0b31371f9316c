"""Reading outputs of earlier stages, with errors that say how to restore them; and atomic writes."""

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

CONFLICT_MARKER = "<<<<<<< "  # git writes it into a file with an unresolved merge conflict
TEXT_COLUMNS = ("path", "label", "subset", "actual", "predicted", "class")


class Record(dict[str, Any]):
    """The JSON object in a file. A missing key raises LanduseError: the file is not the one that was expected."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> None:
        raise LanduseError(f"{self.path} has no {key}: dvc repro makes it again")


def require(path: Path) -> Path:
    """Return the path. Raises LanduseError if nothing is there."""
    if not path.exists():
        raise LanduseError(f"{path} is not here: dvc repro makes it")
    return path


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Context in which a file is read. Raises LanduseError if it is missing, or damaged and thus fails to parse."""
    try:
        yield require(path)
    except (ValueError, EOFError, RuntimeError, OSError) as error:  # raised by the parsers of all formats used
        if getattr(error, "errno", None) is not None:  # an error of the system, not of Arrow's parser
            raise
        raise LanduseError(f"{path} is damaged: dvc repro makes it again") from None


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises LanduseError if the file is missing or damaged."""
    with reading(path):
        return Record(path)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a CSV or Parquet file, all columns or some. Raises LanduseError if it is missing or damaged.

    Text columns are not type-inferred: a class may be called `1` or `NA`.
    """
    import pandas as pd

    with reading(path):
        if path.suffix == ".parquet":
            return pd.read_parquet(path, columns=columns)
        return pd.read_csv(path, usecols=columns, dtype=dict.fromkeys(TEXT_COLUMNS, "str"), keep_default_na=False)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically by renaming: a full disk or a power cut leaves the old content."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or the rename may reach the disk before the content
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
