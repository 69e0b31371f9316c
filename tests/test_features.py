"""The files between extract and train: rows written one by one, read as arrays."""

from pathlib import Path

import numpy as np
import pytest

from landuse.ml import features
from landuse.ml.features import RowFile


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_numpy_reads_what_was_written_row_by_row(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).uniform(0, 200, (7, *shape)).astype(dtype)
    with RowFile(tmp_path / "rows.npy", len(array)) as file:
        for row in array:
            file.append(np.asarray(row))
    for mode in (None, "r"):
        read = np.load(tmp_path / "rows.npy", mmap_mode=mode)
        assert read.dtype == array.dtype and np.array_equal(read, array)


def test_a_row_that_is_a_turned_view_is_written_as_it_looks(tmp_path: Path) -> None:
    image = np.arange(12).reshape(3, 4)
    with RowFile(tmp_path / "rows.npy", 1) as file:
        file.append(np.rot90(image))
    assert np.array_equal(np.load(tmp_path / "rows.npy")[0], np.rot90(image))


def test_activations_stay_on_disk_until_asked_for(trained: Path) -> None:
    assert isinstance(features.activations(), np.memmap)


def test_the_facts_say_what_the_features_were_made_with(trained: Path) -> None:
    facts = features.facts()
    assert facts["params"]["alpha"] == 0.35 and facts["cut"] == "head" and len(facts["weights_sha256"]) == 64
