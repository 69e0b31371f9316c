"""Parquet cannot grow row by row: it is packed from lines of JSON, and unpacked where there are more to come."""

import json
import os
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from landuse.core.errors import LanduseError

SUFFIX = ".parquet"
ROWS_AT_ONCE = 2000


def schema(labels: list[str]) -> pa.Schema:
    """One row per image: path, the prediction as everywhere, error, model."""
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
    """Turn lines of JSON into a Parquet file, in one rename, and remove them."""
    unfinished = path.with_name(path.name + ".unfinished")
    columns = schema(labels)
    with lines.open(encoding="utf-8") as file, parquet.ParquetWriter(unfinished, columns) as writer:
        while rows := [json.loads(line) for line in islice(file, ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, columns))
    os.replace(unfinished, path)
    lines.unlink()


def unpack(path: Path, lines: Path) -> None:
    """Turn a Parquet file of earlier predictions into lines of JSON."""
    try:
        with lines.open("w", encoding="utf-8") as file, parquet.ParquetFile(path) as earlier:
            more = set(earlier.schema_arrow.names) - set(schema([]).names)
            if more:
                raise LanduseError(f"--output {path} has the column {min(more)} of somebody else: name another file")
            for batch in earlier.iter_batches(ROWS_AT_ONCE):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
    except (pa.ArrowException, OSError, TypeError, LanduseError) as error:
        lines.unlink(missing_ok=True)
        if isinstance(error, LanduseError) or getattr(error, "errno", None):
            raise
        raise LanduseError(f"--output {path} is no Parquet file of predictions: name another file") from None
