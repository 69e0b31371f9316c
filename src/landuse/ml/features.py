"""The files of `artifacts/features/`: one row per image, in the manifest's order."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import made, opened, read_record, sha256_of
from landuse.core.paths import FEATURES, MANIFEST

EMBEDDINGS = FEATURES / "embeddings.npy"
ACTIVATIONS = FEATURES / "activations.npy"
BACKBONE = FEATURES / "backbone.weights.h5"
FACTS = FEATURES / "features.json"


class RowFile:
    """A .npy array of a known number of rows, written one row after the other, so that memory stays flat."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows, self.written = path, rows, 0

    def __enter__(self) -> Self:
        self.file = self.path.open("wb")
        return self

    def append(self, row: NDArray) -> None:
        """Write one row; the first one settles shape and dtype."""
        if not self.written:
            header = {"descr": row.dtype.str, "fortran_order": False, "shape": (self.rows, *row.shape)}
            np.lib.format.write_array_header_1_0(self.file, header)
        self.file.write(np.ascontiguousarray(row).tobytes())
        self.written += 1

    def __exit__(self, *_: object) -> None:
        self.file.close()


def embeddings() -> NDArray[np.float32]:
    """Pooled embeddings [images, channels] of the images as they are, left on disk until a row is asked for."""
    return mapped(EMBEDDINGS)


def activations() -> NDArray:
    """Activations at the cut [images, views, …], left on disk until a row is asked for."""
    return mapped(ACTIVATIONS)


def mapped(path: Path) -> NDArray:
    """An array that stays on disk. Raises LanduseError where its file is missing or damaged."""
    with opened(path):
        return np.load(path, mmap_mode="r")


def facts() -> dict[str, Any]:
    """What the features were made with: `params` of extract, `cut`, sha256 of the backbone's weights and the manifest.

    Raises LanduseError where the manifest lists other images by now.
    """
    found = read_record(FACTS)
    if found["manifest_sha256"] != manifest_digest():
        raise LanduseError(f"{FEATURES} is of other images than {MANIFEST} lists now: dvc repro split makes it anew")
    return found


def manifest_digest() -> str:
    """The sha256 of the manifest: of which images, in which order, the rows are."""
    return sha256_of(made(MANIFEST))
