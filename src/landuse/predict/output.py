"""Where predictions go: a file that grows row by row, so that whatever stops the work, it goes on from there."""

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
from landuse.core.process import hold
from landuse.predict import parquet
from landuse.predict.rows import Answer, CsvLines, JsonLines
from landuse.predict.tally import Tally

KINDS = {".csv": CsvLines, ".jsonl": JsonLines, parquet.SUFFIX: JsonLines}
BLOCK = 1 << 16


class Output:
    """A text file of rows, open for more. `tally` counts what it holds."""

    def __init__(self, file: TextIO, lines: CsvLines | JsonLines) -> None:
        self.file, self.lines, self.tally = file, lines, Tally()
        self.done = np.empty(0, np.uint64)

    def read_past(self) -> None:
        """Take in the rows that are there, cut off half a row at the end, and write the header where nothing is.

        Raises LanduseError or ValueError and the like, before anything is changed, where it holds something else.
        """
        self.file.seek(0)
        head = self.file.read(len(self.lines.opening))
        if not (head.startswith(self.lines.opening) or self.lines.opening.startswith(head)):
            raise ValueError("another beginning")
        self.file.seek(0)
        self.done = np.sort(np.fromiter(self.past(), np.uint64))
        cut_half_a_row(self.file.buffer)
        if self.file.seek(0, SEEK_END) == 0:
            self.file.write(self.lines.header)

    def past(self) -> Iterator[int]:
        """The hashes of the paths of all whole rows."""
        for row in self.lines.read(line for line in self.file if line.endswith("\n")):
            if not isinstance(row.path, str):
                raise ValueError("a row without a path")
            if row.model != self.lines.model:
                raise LanduseError(f"holds predictions of {row.model}, and now {self.lines.model} would answer")
            self.tally.count(row.path, unsure=row.unsure, error=row.error)
            yield hashed(row.path)

    def __contains__(self, path: str) -> bool:
        number = np.uint64(hashed(path))
        index = np.searchsorted(self.done, number)
        return bool(index < len(self.done) and self.done[index] == number)

    def write(self, answer: Answer) -> None:
        """Append a row; from now on it outlives a kill of this process."""
        self.file.write(self.lines.line(answer))
        self.file.flush()
        unsure = answer.prediction is not None and answer.prediction.unsure
        self.tally.count(answer.path, unsure=unsure, error=answer.error)


def hashed(path: str) -> int:
    """64 bits that stand for a path: a million finished files take 8 MB."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest())


def refuse_unwritable(path: Path) -> None:
    """Raise LanduseError where the suffix names no format, or there is no such folder."""
    if path.suffix not in KINDS:
        raise LanduseError(f"--output {path}: name a file that ends with {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise LanduseError(f"--output {path}: there is no folder {path.parent}")


@contextmanager
def standard_output(labels: list[str], model: str) -> Iterator[Output]:
    """Lines of CSV for the next program."""
    output = Output(sys.stdout, CsvLines(labels, model))
    print(output.lines.header, end="")
    yield output


@contextmanager
def growing_file(path: Path, labels: list[str], model: str) -> Iterator[Output]:
    """The rows of a file, and room for more. Parquet, which cannot grow, is JSON lines beside it until the end.

    Raises LanduseError where the file is another's (of another format, another model, or another process at work), and
    where it cannot be written.
    """
    text_file = path.with_name(path.name + ".jsonl") if path.suffix == parquet.SUFFIX else path
    busy = f"--output {path}: another landuse predict is writing it, wait for it"
    try:
        with ExitStack() as files:
            file = files.enter_context(open_alone(text_file, busy))
            packed = path != text_file and path.exists() and file.seek(0, SEEK_END) == 0
            try:
                if packed:
                    file = files.enter_context(unpacked(path, text_file, busy))
                output = Output(file, KINDS[path.suffix](labels, model))
                read_past(output, path)
            except LanduseError:
                if packed:
                    text_file.unlink()
                raise
            yield output
            if path != text_file:
                parquet.pack(text_file, path, labels)
    except OSError as error:
        raise LanduseError(f"--output {path}: {error.strerror or error}") from None


def open_alone(path: Path, busy: str) -> TextIO:
    """Open a file for more rows and keep others out. Raises Unavailable with `busy` where another process has it."""
    file = path.open("a+", encoding="utf-8", newline="")
    try:
        hold(file, busy)
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            raise Unavailable(busy)  # whoever had it has put another in its place since
    except BaseException:
        file.close()
        raise
    return file


def unpacked(path: Path, lines: Path, busy: str) -> TextIO:
    """Open the lines of JSON that a Parquet file is unpacked to, in one rename; nobody else ever has them."""
    unfinished = lines.with_name(lines.name + ".unfinished")
    parquet.unpack(path, unfinished)
    file = open_alone(unfinished, busy)
    os.replace(unfinished, lines)
    return file


def read_past(output: Output, path: Path) -> None:
    """Find out what an output holds. Raises LanduseError where it is no output, or that of another model."""
    try:
        output.read_past()
    except LanduseError as error:
        raise LanduseError(f"--output {path} {error}: name another file") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise LanduseError(f"--output {path} holds no predictions with these classes: name another file") from None


def cut_half_a_row(file: BinaryIO) -> None:
    """Take away what follows the last line end: the row that a kill interrupted."""
    end = file.seek(0, SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        if (last := file.read(end - start).rfind(b"\n")) >= 0:
            file.truncate(start + last + 1)
            return
        end = start
    file.truncate(0)
