"""A log of all predictions, for monitoring: Parquet files in one folder per day. It never delays a request."""

import os
import sys
from contextlib import suppress
from datetime import date
from itertools import groupby
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import parquet

from landuse.core.errors import LanduseError
from landuse.serve.metrics import Metrics

BATCH_ROWS = 1000
BATCH_SECONDS = 30
QUEUE_ROWS = 10 * BATCH_ROWS
SCHEMA = pa.schema(
    {
        "time": pa.timestamp("us", "UTC"),
        "version": pa.string(),
        "label": pa.string(),
        "confidence": pa.float32(),
        "unsure": pa.bool_(),
        "embedding": pa.list_(pa.float16()),
        "sha256": pa.string(),
    }
)
Row = dict[str, Any]


class PredictionLog:
    """Writes rows in batches of up to 1,000, at least every 30 seconds: a kill loses no more than that.

    If the disk is full or too slow, rows are dropped and counted. Raises LanduseError if the folder cannot be created.
    """

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.folder, self.metrics = folder, metrics
        self.rows: Queue[Row | None] = Queue(QUEUE_ROWS)
        self.thread = Thread(target=self.run, name="prediction-log", daemon=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LanduseError(f"serve.log = {folder}: {error.strerror}; name another folder, or null") from None

    def add(self, row: Row) -> None:
        """Queue a row without blocking; drop it if the queue is full."""
        try:
            self.rows.put_nowait(row)
        except Full:
            self.metrics.lost.inc()

    def start(self) -> None:
        """Start writing in a background thread."""
        self.thread.start()

    def close(self) -> None:
        """Write the queued rows and stop."""
        self.rows.put(None)
        self.thread.join()

    def run(self) -> None:
        """Write batches until closed."""
        more = True
        while more:
            batch, more = self.next_batch()
            for day, rows in groupby(batch, key=lambda row: row["time"].date()):
                self.write(day, list(rows))

    def next_batch(self) -> tuple[list[Row], bool]:
        """Return the rows of one batch, and whether more may follow."""
        batch: list[Row] = []
        end = monotonic() + BATCH_SECONDS
        with suppress(Empty):
            while len(batch) < BATCH_ROWS:
                row = self.rows.get(timeout=max(0, end - monotonic()))
                if row is None:
                    return batch, False
                batch.append(row)
        return batch, True

    def write(self, day: date, rows: list[Row]) -> None:
        """Write rows of one day atomically, by renaming a complete file into place."""
        folder, name = self.folder / f"day={day}", f"{uuid4().hex}.parquet"
        unfinished = folder / f".{name}"
        try:
            folder.mkdir(exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished)
            os.replace(unfinished, folder / name)
        except OSError as error:
            self.metrics.lost.inc(len(rows))
            print(f"landuse serve: {len(rows)} predictions are not in {folder}: {error.strerror}", file=sys.stderr)
            with suppress(OSError):
                unfinished.unlink()
