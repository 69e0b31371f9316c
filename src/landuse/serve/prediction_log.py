"""A log of every prediction, for monitoring: Parquet files in a folder per day. It never makes a request wait."""

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

BATCH = 1000
BATCH_SECONDS = 30
WAITING = 10 * BATCH
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


class Log:
    """Rows wait in memory until there are 1,000, or 30 seconds have gone by: a kill loses no more than these.

    Where the disk is full or too slow rows are lost, and counted. Raises LanduseError where the folder cannot be made.
    """

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.folder, self.metrics = folder, metrics
        self.rows: Queue[Row | None] = Queue(WAITING)
        self.thread = Thread(target=self.run, name="log", daemon=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LanduseError(f"serve.log = {folder}: {error.strerror}; name another folder, or null") from None

    def add(self, row: Row) -> None:
        """Take a row in, at once."""
        try:
            self.rows.put_nowait(row)
        except Full:
            self.metrics.lost.inc()

    def start(self) -> None:
        """Begin to write, in a thread of its own."""
        self.thread.start()

    def close(self) -> None:
        """Write what still waits."""
        self.rows.put(None)
        self.thread.join()

    def run(self) -> None:
        """Write batch after batch, until the end."""
        more = True
        while more:
            batch, more = self.next_batch()
            for day, rows in groupby(batch, key=lambda row: row["time"].date()):
                self.write(day, list(rows))

    def next_batch(self) -> tuple[list[Row], bool]:
        """The rows of one batch, and whether more may come."""
        batch: list[Row] = []
        end = monotonic() + BATCH_SECONDS
        with suppress(Empty):
            while len(batch) < BATCH:
                row = self.rows.get(timeout=max(0, end - monotonic()))
                if row is None:
                    return batch, False
                batch.append(row)
        return batch, True

    def write(self, day: date, rows: list[Row]) -> None:
        """Write rows of one day, in one rename: a file is whole or not there."""
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
