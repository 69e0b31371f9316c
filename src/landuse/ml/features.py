"""The files in `artifacts/features/`: one row per image, in the order of the manifest."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_record, reading, require, sha256_of
from landuse.core.paths import FEATURES, MANIFEST

EMBEDDINGS = FEATURES / "embeddings.npy"
ACTIVATIONS = FEATURES / "activations.npy"
BACKBONE = FEATURES / "backbone.weights.h5"
METADATA = FEATURES / "features.json"


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


def embeddings() -> NDArray[np.float32]:
    """Pooled embeddings [images, channels] of the unchanged images, memory-mapped."""
    return memory_map(EMBEDDINGS)


def activations() -> NDArray[np.float16 | np.float32]:
    """Activations at the cut [images, views, …], memory-mapped: float32 if pooled, else float16."""
    return memory_map(ACTIVATIONS)


def memory_map(path: Path) -> NDArray[Any]:
    """Memory-map an array file. Raises LanduseError if it is missing or damaged."""
    with reading(path):
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


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
