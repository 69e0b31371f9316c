"""Batches for training: which images and views, in what order, mixed how."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from landuse.core.paths import DATA, SPLITS
from landuse.ml import features
from landuse.ml.images import read_image, view
from landuse.params import ExtractParams, TrainParams
from landuse.train.batches import Augmentation, BatchLoader, Chunk, make_loader
from landuse.train.loop import mixup

TRAIN = TrainParams(**tiny.CHANGES["train"])
EXTRACT = ExtractParams(**tiny.CHANGES["extract"])


def whole_epoch(loader: BatchLoader) -> Chunk:
    """Collect an epoch into one chunk."""
    return Chunk(*map(np.concatenate, zip(*loader, strict=True)))


def test_end_to_end_training_reads_images_in_random_views(trained: Path) -> None:
    splits = pd.read_csv(SPLITS)
    loader = make_loader(splits, "train", replace(TRAIN, unfreeze_from="all"), EXTRACT)
    chunk = whole_epoch(loader)
    assert chunk.inputs.shape == (18, 64, 64, 3) and chunk.inputs.dtype == np.uint8 and chunk.labels.shape == (18, 3)
    assert len(loader) == 18 and loader.batches == 3 and (chunk.labels.sum(axis=1) == 1).all()
    paths = [DATA / path for path in splits["path"][loader.rows]]
    views = {view(read_image(path, 64), number).tobytes() for path in paths for number in range(8)}
    unchanged = {read_image(path, 64).tobytes() for path in paths}
    inputs = {image.tobytes() for image in chunk.inputs}
    assert inputs <= views and inputs - unchanged and len(inputs) == 18


def test_cached_activations_are_read_by_row_and_view(trained: Path) -> None:
    splits = pd.read_csv(SPLITS)
    loader, cached = make_loader(splits, "train", TRAIN, EXTRACT), features.activations()[:]
    chunk = whole_epoch(loader)
    row_of = {cached[row, number].tobytes(): row for row in loader.rows for number in range(EXTRACT.views)}
    rows = [row_of[activation.tobytes()] for activation in chunk.inputs]
    assert sorted(rows) == loader.rows.tolist() and (splits["subset"][loader.rows] == "train").all()
    assert [tiny.LABELS[code] for code in chunk.labels.argmax(axis=1)] == splits["label"][rows].tolist()


def test_every_epoch_has_every_image_once_in_another_order_and_view() -> None:
    def read(rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.stack([rows, views], axis=1)

    loader = BatchLoader(read, np.arange(20), np.eye(20), 6, Augmentation(8, 0, 1))
    first, second = (whole_epoch(loader).inputs for _ in range(2))
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(20))
    assert (first != second).any(axis=0).all() and {*first[:, 1], *second[:, 1]} == set(range(8))


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"),
    [(64, 32, 64), (65, 32, 64), (68, 32, 64), (69, 32, 69), (5, 32, 5), (1, 8, 1)],
)
def test_a_small_last_batch_is_dropped_in_training_only(images: int, batch_size: int, expected: int) -> None:
    def read(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return rows[:, None]

    labels = np.eye(2, dtype=np.float32)[np.arange(images) % 2]
    loader = BatchLoader(read, np.arange(images), labels, batch_size, Augmentation(8, 0.4, 1))
    first, second = (whole_epoch(loader) for _ in range(2))
    assert len(loader) == len(first.inputs) == len(first.mixup_weights) == expected
    assert loader.batches == -(-expected // batch_size) and len({*first.inputs[:, 0]}) == expected
    assert expected == images or {*first.inputs[:, 0]} != {*second.inputs[:, 0]}, "other images are dropped every time"
    assert len(BatchLoader(read, np.arange(images), labels, batch_size, None)) == images


def test_an_epoch_is_read_in_small_chunks_of_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["landuse.train.batches"], "CHUNK_BYTES", 800)
    small = BatchLoader(lambda rows, views: np.zeros((len(rows), 10)), np.arange(20), np.eye(20), 3, None)
    assert [len(chunk.labels) for chunk in small] == [9, 9, 2] and small.batches == 7
    large = BatchLoader(lambda rows, views: np.zeros((len(rows), 1000)), np.arange(20), np.eye(20), 3, None)
    assert {len(chunk.labels) for chunk in large} == {3, 2}


def test_validation_images_come_unchanged_and_in_order(trained: Path) -> None:
    loader = make_loader(pd.read_csv(SPLITS), "validation", TRAIN, EXTRACT)
    for _ in range(2):
        assert np.array_equal(whole_epoch(loader).inputs, features.activations()[:][loader.rows, 0])


def test_mixup_blends_inputs_and_labels_alike_and_only_in_training() -> None:
    values, labels = np.arange(4, dtype=np.float32)[:, None], np.eye(4, dtype=np.float32)

    def read(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return values[rows]

    mixed = whole_epoch(BatchLoader(read, np.arange(4), labels, 4, Augmentation(1, 0.4, 1)))
    inputs, targets = (mixup(array, mixed.mixup_weights).numpy() for array in (mixed.inputs, mixed.labels))
    assert targets @ values[:, 0] == pytest.approx(inputs[:, 0]) and targets.sum(axis=1) == pytest.approx(1)
    assert (targets.max(axis=1) < 1).any()
    plain = whole_epoch(BatchLoader(read, np.arange(4), labels, 4, None))
    assert (mixup(plain.inputs, plain.mixup_weights).numpy() == values).all() and (plain.mixup_weights == 1).all()
    assert mixup(values, np.array([1, 0, 1, 0], np.float32)).numpy().ravel().tolist() == [0, 2, 2, 0]


def test_rare_classes_weigh_more_and_balanced_classes_weigh_one() -> None:
    def weights(codes: list[int]) -> list[float]:
        labels = np.eye(3, dtype=np.float32)[codes]
        return BatchLoader(lambda *_: np.zeros(1), np.arange(len(codes)), labels, 4, None).class_weights().tolist()

    assert weights([0] * 6 + [1] * 3 + [2] * 3) == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert weights([0, 0, 1, 1, 2, 2]) == [1, 1, 1]
