"""The files between extract and train: rows written one by one, read as arrays."""

from pathlib import Path

import numpy as np
import pytest

from landuse.ml import features
from landuse.ml.features import RowFile


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_numpy_reads_an_array_written_row_by_row(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).uniform(0, 200, (7, *shape)).astype(dtype)
    with RowFile(tmp_path / "rows.npy", len(array)) as file:
        for row in array:
            file.append(np.asarray(row))
    for mode in (None, "r"):
        loaded = np.load(tmp_path / "rows.npy", mmap_mode=mode)
        assert loaded.dtype == array.dtype and np.array_equal(loaded, array)


def test_a_row_that_is_not_contiguous_is_written_in_its_logical_order(tmp_path: Path) -> None:
    image = np.arange(12).reshape(3, 4)
    with RowFile(tmp_path / "rows.npy", 1) as file:
        file.append(np.rot90(image))
    assert np.array_equal(np.load(tmp_path / "rows.npy")[0], np.rot90(image))


def test_activations_are_memory_mapped(trained: Path) -> None:
    assert isinstance(features.activations(), np.memmap)


def test_the_metadata_record_how_the_features_were_made(trained: Path) -> None:
    metadata = features.metadata()
    assert metadata["params"]["alpha"] == 0.35 and metadata["cut"] == "head" and len(metadata["weights_sha256"]) == 64
