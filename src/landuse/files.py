"""Files that an earlier stage wrote, or an error that says how to have them again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landuse.errors import LanduseError

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("path", "label", "subset", "actual", "predicted", "class")


def made(path: Path) -> Path:
    """The path, if there is something. Raises LanduseError where there is not."""
    if not path.exists():
        raise LanduseError(f"{path} is not here: dvc repro makes it")
    return path


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises LanduseError where it is missing or damaged."""
    try:
        return json.loads(made(path).read_text(encoding="utf-8"))
    except ValueError:
        raise LanduseError(f"{path} is damaged: dvc repro makes it again") from None


def read_table(path: Path) -> "pd.DataFrame":
    """The rows of a CSV file, where classes may be called `1` or `NA`. Raises LanduseError as `read_record` does."""
    import pandas as pd

    try:
        return pd.read_csv(made(path), dtype=dict.fromkeys(TEXT, "str"), keep_default_na=False)
    except ValueError:
        raise LanduseError(f"{path} is damaged: dvc repro makes it again") from None
