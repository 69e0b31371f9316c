"""The features of the images in the manifest, read from the shards in `artifacts/features/`."""

from mmap import MADV_DONTNEED, mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_record, read_table, require, sha256_of
from landuse.core.paths import FEATURES, MANIFEST
from landuse.core.process import raise_open_file_limit
from landuse.ml import shards

BACKBONE = FEATURES / "backbone.weights.h5"
METADATA = FEATURES / "features.json"
MAPPED_BYTES = 200_000_000  # of rows read, between two times that pages are given back


class Rows:
    """An array [images, …] in the order of the manifest, of which the shards hold the rows, memory-mapped.

    Images with the same content share a row. `numbers` and `rows` [images] say in which array, and where.
    """

    def __init__(
        self, arrays: list[tuple[NDArray[Any], mmap]], numbers: NDArray[np.intp], rows: NDArray[np.intp]
    ) -> None:
        self.arrays, self.mappings = zip(*arrays, strict=True)
        self.numbers, self.rows = numbers, rows
        self.shape, self.dtype = (len(rows), *self.arrays[0].shape[1:]), self.arrays[0].dtype
        self.bytes_read = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, images: slice | NDArray[np.intp]) -> NDArray[Any]:
        numbers, rows = self.numbers[images].tolist(), self.rows[images].tolist()
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            values[place] = self.arrays[number][row]
        self.count_read(values)
        return values

    def of_views(self, images: NDArray[np.intp], views: NDArray[np.intp]) -> NDArray[Any]:
        """Return a view of each of some images [n, …], for an array [images, views, …]."""
        places = zip(self.numbers[images].tolist(), self.rows[images].tolist(), views.tolist(), strict=True)
        values = np.empty((len(images), *self.shape[2:]), self.dtype)
        for place, (number, row, view) in enumerate(places):
            values[place] = self.arrays[number][row, view]
        self.count_read(values)
        return values

    def count_read(self, values: NDArray[Any]) -> None:
        """Give mapped pages back now and then, or they would count as memory of this process."""
        self.bytes_read += values.nbytes
        if self.bytes_read > MAPPED_BYTES and hasattr(mmap, "madvise"):
            self.bytes_read = 0
            for mapping in self.mappings:
                mapping.madvise(MADV_DONTNEED)


def embeddings() -> Rows:
    """Pooled embeddings [images, channels] of the unchanged images, float32."""
    return read_rows(shards.EMBEDDINGS)


def activations() -> Rows:
    """Activations at the cut [images, views, …]: float32 if pooled, else float16."""
    return read_rows(shards.ACTIVATIONS)


def read_rows(name: str) -> Rows:
    """Open an array of all shards. Raises LanduseError if one is missing or damaged, or has not all images."""
    require(FEATURES / shards.INDEX)
    found = shards.read_shards(FEATURES)
    raise_open_file_limit()  # each array that is memory-mapped is an open file
    places = {
        content: (number, row) for number, shard in enumerate(found) for row, content in enumerate(shard.contents)
    }
    try:
        located = np.array([places[content] for content in read_table(MANIFEST, ["sha256"])["sha256"]], np.intp)
    except KeyError:
        raise LanduseError(f"{FEATURES} lacks images that {MANIFEST} lists: dvc repro makes it again") from None
    return Rows([shard.mapped(name) for shard in found], located[:, 0], located[:, 1])


def processors() -> list[str]:
    """Return the kinds of processors that computed the features, sorted; those of an earlier version are not known."""
    return sorted({kind for shard in shards.read_shards(FEATURES) for kind in shard.processors})


def metadata() -> dict[str, Any]:
    """Return how the features were made: extract's `params`, `cut`, and the sha256 of backbone weights and manifest.

    Raises LanduseError if the manifest has changed since.
    """
    record = read_record(METADATA)
    if record["manifest_sha256"] != manifest_digest():
        raise LanduseError(f"{FEATURES} is of other images than {MANIFEST} lists now: dvc repro split makes it anew")
    return record


def manifest_digest() -> str:
    """Return the sha256 of the manifest, which determines the images and their order."""
    return sha256_of(require(MANIFEST))
