"""Shards: rows written one by one, found again by the contents that they are of."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from landuse.ml.shards import ROWS, RowFile, copy_shard, move_shard, read_shards, write_shard

CONTENTS = ("aa", "bb", "cc")


def features_of(contents: tuple[str, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate features that tell the contents apart."""
    for content in contents:
        number = int(content, 16)
        yield np.full(4, number, np.float32), np.full((2, 3), number, np.float16)


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


def test_a_shard_is_read_back_with_a_row_for_each_content(tmp_path: Path) -> None:
    written = write_shard(tmp_path, "key", CONTENTS, features_of(CONTENTS))
    (shard,) = read_shards(tmp_path)
    assert (shard.key, shard.contents, shard.digests) == ("key", CONTENTS, written.digests)
    assert shard.array("embeddings")[:, 0].tolist() == [0xAA, 0xBB, 0xCC]
    assert shard.array("activations").shape == (3, 2, 3) and shard.array("activations").dtype == np.float16


def test_the_same_contents_and_features_give_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_shard(tmp_path / name, "key", CONTENTS, features_of(CONTENTS))
    one, other = (sorted(path for path in (tmp_path / name).rglob("*.*")) for name in ("one", "other"))
    assert [path.name for path in one] == [path.name for path in other] and len(one) == 3
    assert all(path.read_bytes() == twin.read_bytes() for path, twin in zip(one, other, strict=True))


def test_another_key_or_other_contents_have_files_of_another_name(tmp_path: Path) -> None:
    for key, contents in (("key", CONTENTS), ("other", CONTENTS), ("key", CONTENTS[:2]), ("key", CONTENTS[::-1])):
        write_shard(tmp_path, key, contents, features_of(contents))
    assert len(read_shards(tmp_path)) == 4


def test_a_shard_whose_writing_was_interrupted_is_not_found(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from features_of(CONTENTS[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "key", CONTENTS, failing())
    assert read_shards(tmp_path) == []


def test_a_changed_byte_and_a_missing_file_are_noticed(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "key", CONTENTS, features_of(CONTENTS))
    assert shard.is_complete() and not shard.damaged_files()
    path = shard.files["activations"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert shard.damaged_files() == [path]
    path.unlink()
    assert not shard.is_complete() and not shard.damaged_files()


@pytest.mark.parametrize("transfer", [copy_shard, move_shard])
def test_a_shard_in_another_folder_is_found_there(tmp_path: Path, transfer) -> None:
    shard = write_shard(tmp_path / "one", "key", CONTENTS, features_of(CONTENTS))
    transfer(shard, tmp_path / "other")
    (found,) = read_shards(tmp_path / "other")
    assert found.name == shard.name and not found.damaged_files() and found.is_complete()
    assert shard.is_complete() == (transfer is copy_shard)


def test_rows_are_streamed_to_disk(tmp_path: Path) -> None:
    contents, behind = tuple(f"{number:04x}" for number in range(ROWS)), 0

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal behind
        for number in range(ROWS):
            written = sum(path.stat().st_size for path in (tmp_path / "activations").iterdir()) // (64 * 1024)
            behind = max(behind, number - written)
            yield np.float32([number]), np.full((1, 16 * 1024), number, np.float32)

    shard = write_shard(tmp_path, "key", contents, rows())
    assert shard.array("activations")[:, 0, -1].tolist() == list(range(ROWS)) and behind <= 1
