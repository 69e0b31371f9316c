"""Parquet output. It cannot be appended to: it is packed from JSON lines, and unpacked again to resume."""

import json
import os
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from landuse.core.errors import LanduseError

SUFFIX = ".parquet"
BATCH_ROWS = 2000


def schema(labels: list[str]) -> pa.Schema:
    """Return the schema, one row per image: path, the fields of a prediction, error, model."""
    candidate = pa.struct({"label": pa.string(), "probability": pa.float64()})
    return pa.schema(
        {
            "path": pa.string(),
            "label": pa.string(),
            "confidence": pa.float64(),
            "unsure": pa.bool_(),
            "top": pa.list_(candidate),
            "probabilities": pa.struct(dict.fromkeys(labels, pa.float64())),
            "error": pa.string(),
            "model": pa.string(),
        }
    )


def pack(lines: Path, path: Path, labels: list[str]) -> None:
    """Convert JSON lines into a Parquet file, put in place by a rename, and delete them."""
    unfinished = path.with_name(path.name + ".unfinished")
    columns = schema(labels)
    with lines.open(encoding="utf-8") as file, parquet.ParquetWriter(unfinished, columns) as writer:
        while rows := [json.loads(line) for line in islice(file, BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, columns))
    os.replace(unfinished, path)
    lines.unlink()


def unpack(path: Path, lines: Path) -> None:
    """Convert a Parquet file of earlier predictions into JSON lines. Raises LanduseError if it is something else."""
    try:
        with lines.open("w", encoding="utf-8") as file, parquet.ParquetFile(path) as earlier:
            foreign = set(earlier.schema_arrow.names) - set(schema([]).names)
            if foreign:
                raise LanduseError(f"--output {path} has the column {min(foreign)} of somebody else: name another file")
            for batch in earlier.iter_batches(BATCH_ROWS):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
    except (pa.ArrowException, OSError, TypeError, LanduseError) as error:
        lines.unlink(missing_ok=True)
        if isinstance(error, LanduseError) or getattr(error, "errno", None):
            raise
        raise LanduseError(f"--output {path} is no Parquet file of predictions: name another file") from None
