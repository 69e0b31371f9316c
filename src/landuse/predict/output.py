"""The output of predictions: a file appended to row by row, so that interrupted work can be resumed."""

import csv
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.process import lock_file
from landuse.predict import parquet
from landuse.predict.rows import CsvLines, ImageResult, JsonLines
from landuse.predict.tally import Tally

RowFormat = CsvLines | JsonLines
FORMATS: dict[str, type[RowFormat]] = {".csv": CsvLines, ".jsonl": JsonLines, parquet.SUFFIX: JsonLines}
BLOCK = 1 << 16


class Output:
    """A text file of rows, open for appending. `tally` counts the rows in it."""

    def __init__(self, file: TextIO, lines: RowFormat) -> None:
        self.file, self.lines, self.tally = file, lines, Tally()
        self.path_hashes = np.empty(0, np.uint64)

    def read_existing(self) -> None:
        """Read the rows written earlier, cut off a partial row at the end, and write the header if the file is empty.

        Raises LanduseError, KeyError, TypeError, ValueError or csv.Error, before any change, if the file holds
        something else.
        """
        self.file.seek(0)
        start = self.file.read(len(self.lines.prefix))
        if not (start.startswith(self.lines.prefix) or self.lines.prefix.startswith(start)):
            raise ValueError("unexpected start of the file")
        self.file.seek(0)
        self.path_hashes = np.sort(np.fromiter(self.existing_hashes(), np.uint64))
        drop_partial_row(self.file.buffer)
        if self.file.seek(0, SEEK_END) == 0:
            self.file.write(self.lines.header)

    def existing_hashes(self) -> Iterator[int]:
        """Yield the path hash of every complete row, and count it."""
        for row in self.lines.parse(line for line in self.file if line.endswith("\n")):
            if not isinstance(row.path, str):
                raise ValueError("a row without a path")
            if row.model != self.lines.model:
                raise LanduseError(f"holds predictions of {row.model}, and now {self.lines.model} would answer")
            self.tally.count(row.path, unsure=row.unsure, error=row.error)
            yield path_hash(row.path)

    def __contains__(self, path: str) -> bool:
        """Return whether a row for the path was written earlier."""
        wanted = np.uint64(path_hash(path))
        index = np.searchsorted(self.path_hashes, wanted)
        return bool(index < len(self.path_hashes) and self.path_hashes[index] == wanted)

    def write(self, result: ImageResult) -> None:
        """Append a row and flush it, so that it survives a kill of this process."""
        self.file.write(self.lines.format_row(result))
        self.file.flush()
        unsure = result.prediction is not None and result.prediction.unsure
        self.tally.count(result.path, unsure=unsure, error=result.error)


def path_hash(path: str) -> int:
    """Hash a path to 64 bits, so that a million finished paths take 8 MB."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest())


def require_writable(path: Path) -> None:
    """Raise LanduseError if the suffix names no known format, or the folder does not exist."""
    if path.suffix not in FORMATS:
        raise LanduseError(f"--output {path}: name a file that ends with {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise LanduseError(f"--output {path}: there is no folder {path.parent}")


@contextmanager
def standard_output(labels: list[str], model: str) -> Iterator[Output]:
    """Write CSV to standard output."""
    output = Output(sys.stdout, CsvLines(labels, model))
    print(output.lines.header, end="")
    yield output


@contextmanager
def append_to_file(path: Path, labels: list[str], model: str) -> Iterator[Output]:
    """Open a file of rows for appending. Parquet cannot be appended to: JSON lines stand in until the end.

    Raises LanduseError if the file has another format, belongs to another model, is being written by another process,
    or cannot be written.
    """
    text_file = path.with_name(path.name + ".jsonl") if path.suffix == parquet.SUFFIX else path
    busy = f"--output {path}: another landuse predict is writing it, wait for it"
    try:
        with ExitStack() as files:
            file = files.enter_context(open_locked(text_file, busy))
            packed = path != text_file and path.exists() and file.seek(0, SEEK_END) == 0
            try:
                if packed:
                    file = files.enter_context(open_unpacked(path, text_file, busy))
                output = Output(file, FORMATS[path.suffix](labels, model))
                read_existing(output, path)
            except LanduseError:
                if packed:
                    text_file.unlink()
                raise
            yield output
            if path != text_file:
                parquet.pack(text_file, path, labels)
    except OSError as error:
        raise LanduseError(f"--output {path}: {error.strerror or error}") from None


def open_locked(path: Path, busy: str) -> TextIO:
    """Open a file for appending and lock it. Raises Unavailable with `busy` if another process has the lock."""
    file = path.open("a+", encoding="utf-8", newline="")
    try:
        lock_file(file, busy)
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            raise Unavailable(busy)  # replaced by its last holder before the lock was acquired
    except BaseException:
        file.close()
        raise
    return file


def open_unpacked(path: Path, lines: Path, busy: str) -> TextIO:
    """Unpack a Parquet file into JSON lines and open them, locked before they appear under their name."""
    unfinished = lines.with_name(lines.name + ".unfinished")
    parquet.unpack(path, unfinished)
    file = open_locked(unfinished, busy)
    os.replace(unfinished, lines)
    return file


def read_existing(output: Output, path: Path) -> None:
    """Read the rows of an output. Raises LanduseError if it is not an output, or belongs to another model."""
    try:
        output.read_existing()
    except LanduseError as error:
        raise LanduseError(f"--output {path} {error}: name another file") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise LanduseError(f"--output {path} holds no predictions with these classes: name another file") from None


def drop_partial_row(file: BinaryIO) -> None:
    """Truncate the file after its last newline, dropping a row that a kill interrupted."""
    end = file.seek(0, SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        if (last := file.read(end - start).rfind(b"\n")) >= 0:
            file.truncate(start + last + 1)
            return
        end = start
    file.truncate(0)
