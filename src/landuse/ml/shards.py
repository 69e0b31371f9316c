"""Shards: files with the features of up to 256 image contents, and an index of which row is of which content."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from shutil import copyfile
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from landuse.core.files import read_record, reading, sha256_of, write_atomically

ROWS = 256
INDEX, EMBEDDINGS, ACTIVATIONS = "index", "embeddings", "activations"  # folders, with a file for each shard
ARRAYS = (EMBEDDINGS, ACTIVATIONS)
FIELDS = ("key", "contents", "digests", "processors")  # of an index


class Row(NamedTuple):
    """A row of a shard."""

    content: str
    shard: "Shard"
    number: int


@dataclass(frozen=True, eq=False)
class Shard:
    """Two arrays with a row for each content, which is the sha256 of an image file.

    key: of all that made the rows, besides the images
    digests: sha256 of the file of each array
    processors: the kinds that made the rows, sorted; empty in shards of earlier versions
    """

    key: str
    contents: tuple[str, ...]
    digests: dict[str, str]
    files: dict[str, Path]
    processors: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its files, which is the same whenever and wherever they are made."""
        return shard_name(self.key, self.contents)

    def rows(self) -> list[Row]:
        """Return its rows."""
        return [Row(content, self, number) for number, content in enumerate(self.contents)]

    def array(self, name: str) -> NDArray[Any]:
        """Memory-map one of ARRAYS. Raises LanduseError if it is missing or damaged."""
        return self.mapped(name)[0]

    def mapped(self, name: str) -> tuple[NDArray[Any], mmap]:
        """Memory-map one of ARRAYS, and return the mapping too. Raises LanduseError if it is missing or damaged."""
        with reading(self.files[name]) as path:
            array, mapping = map_array(path)
            if len(array) != len(self.contents):
                raise ValueError("other rows than the index has")
        return array, mapping

    def is_complete(self) -> bool:
        """Return True if both files are there."""
        return all(path.exists() for path in self.files.values())

    def damaged_files(self) -> list[Path]:
        """Return the files that are there, but have another content than when they were written."""
        existing = [(name, path) for name, path in self.files.items() if path.exists()]
        return [path for name, path in existing if sha256_of(path) != self.digests[name]]


def map_array(path: Path) -> tuple[NDArray[Any], mmap]:
    """Memory-map a .npy file as `RowFile` writes it. Raises ValueError or OSError if it is damaged."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        mapping = mmap(file.fileno(), 0, access=ACCESS_READ)
        if len(mapping) != file.tell() + prod(shape) * dtype.itemsize:
            raise ValueError("the file is truncated")
        return np.ndarray(shape, dtype, mapping, file.tell()), mapping


class RowFile:
    """Writer of a .npy array with a given number of rows, one row at a time to keep memory flat."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows, self.written = path, rows, 0

    def __enter__(self) -> Self:
        self.file = self.path.open("wb")
        return self

    def append(self, row: NDArray[Any]) -> None:
        """Write one row. The first row sets shape and dtype."""
        if not self.written:
            header = {"descr": row.dtype.str, "fortran_order": False, "shape": (self.rows, *row.shape)}
            np.lib.format.write_array_header_1_0(self.file, header)
        self.file.write(np.ascontiguousarray(row).tobytes())
        self.written += 1

    def __exit__(self, *_: object) -> None:
        self.file.close()


def shard_name(key: str, contents: tuple[str, ...]) -> str:
    """Return the name of a shard."""
    return hashlib.sha256(" ".join((key, *contents)).encode()).hexdigest()[:32]


def shard_files(folder: Path, name: str) -> dict[str, Path]:
    """Return the paths of the arrays of a shard in a folder."""
    return {array: folder / array / f"{name}.npy" for array in ARRAYS}


def make_folders(folder: Path) -> None:
    """Make what a folder with shards consists of."""
    for name in (INDEX, *ARRAYS):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_shard(
    folder: Path,
    key: str,
    contents: tuple[str, ...],
    rows: Iterator[tuple[NDArray[Any], NDArray[Any]]],
    processors: Callable[[], Iterable[str]] = frozenset,
) -> Shard:
    """Write a shard of as many rows as there are contents: an embedding and activations each. The index comes last.

    `processors` is asked for them when the rows are there.
    """
    files = shard_files(folder, shard_name(key, contents))
    make_folders(folder)
    with ExitStack() as stack:
        writers = [stack.enter_context(RowFile(path, len(contents))) for path in files.values()]
        for row in islice(rows, len(contents)):
            for writer, values in zip(writers, row, strict=True):
                writer.append(values)
    digests = {name: sha256_of(path) for name, path in files.items()}
    shard = Shard(key, contents, digests, files, tuple(sorted(processors())))
    write_index(folder, shard)
    return shard


def copy_shard(shard: Shard, folder: Path) -> None:
    """Copy a shard to a folder."""
    transfer(shard, folder, copyfile)


def move_shard(shard: Shard, folder: Path) -> None:
    """Move a shard to a folder on the same disk; its index in the old folder stays."""
    transfer(shard, folder, os.replace)


def transfer(shard: Shard, folder: Path, bring: Callable[[Path, Path], object]) -> None:
    """Bring the files of a shard to a folder, the index last."""
    make_folders(folder)
    for name, target in shard_files(folder, shard.name).items():
        bring(shard.files[name], target)
    write_index(folder, shard)


def write_index(folder: Path, shard: Shard) -> None:
    """Write the file by which `read_shards` finds a shard in a folder, where its arrays have to be already."""
    record = {field: getattr(shard, field) for field in FIELDS}
    write_atomically(folder / INDEX / f"{shard.name}.json", json.dumps(record) + "\n")


def read_shards(folder: Path) -> list[Shard]:
    """Return the shards in a folder, sorted by name. Raises LanduseError if the index of one is damaged."""
    return [read_shard(path, shard_files(folder, path.stem)) for path in sorted((folder / INDEX).glob("*.json"))]


def read_shard(index: Path, files: dict[str, Path]) -> Shard:
    """Read the index of a shard, whose arrays are in other files. Raises LanduseError if it is damaged."""
    record = read_record(index)
    with reading(index):
        return parse_shard(record, files)


def parse_shard(record: dict[str, Any], files: dict[str, Path]) -> Shard:
    """Return the shard that an index describes. Raises ValueError if it is none that `write_index` wrote."""
    key, contents, digests, processors = (record.get(field, []) for field in FIELDS)
    if not (isinstance(digests, dict) and isinstance(contents, list) and isinstance(processors, list)):
        raise ValueError("not the index of a shard")
    texts = (key, *contents, *digests.values(), *processors)
    if not all(isinstance(text, str) for text in texts) or digests.keys() != set(ARRAYS):
        raise ValueError("not the index of a shard")
    return Shard(key, tuple(contents), digests, files, tuple(processors))
