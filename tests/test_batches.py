"""What a network is trained on: which images and views, in what order, blended how."""

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
from landuse.train.batches import Chance, Chunk, Passes, passes
from landuse.train.loop import mix

TRAIN = TrainParams(**tiny.CHANGES["train"])
EXTRACT = ExtractParams(**tiny.CHANGES["extract"])


def all_of(some: Passes) -> Chunk:
    """A whole pass as one chunk."""
    return Chunk(*map(np.concatenate, zip(*some, strict=True)))


def test_images_are_read_in_drawn_views_where_everything_is_trained(trained: Path) -> None:
    splits = pd.read_csv(SPLITS)
    read = passes(splits, "train", replace(TRAIN, unfreeze_from="all"), EXTRACT)
    chunk = all_of(read)
    assert chunk.inputs.shape == (18, 64, 64, 3) and chunk.inputs.dtype == np.uint8 and chunk.labels.shape == (18, 3)
    assert len(read) == 18 and read.batches == 3 and (chunk.labels.sum(axis=1) == 1).all()
    views = {
        view(read_image(DATA / path, 64), number).tobytes() for path in splits["path"][read.rows] for number in range(8)
    }
    plain = {read_image(DATA / path, 64).tobytes() for path in splits["path"][read.rows]}
    seen = {image.tobytes() for image in chunk.inputs}
    assert seen <= views and seen - plain and len(seen) == 18


def test_cached_activations_are_read_by_row_and_view(trained: Path) -> None:
    splits = pd.read_csv(SPLITS)
    read, cached = passes(splits, "train", TRAIN, EXTRACT), features.activations()
    chunk = all_of(read)
    where = {cached[row, number].tobytes(): row for row in read.rows for number in range(EXTRACT.views)}
    rows = [where[activation.tobytes()] for activation in chunk.inputs]
    assert sorted(rows) == read.rows.tolist() and (splits["subset"][read.rows] == "train").all()
    assert [tiny.LABELS[code] for code in chunk.labels.argmax(axis=1)] == splits["label"][rows].tolist()


def test_every_pass_sees_every_image_once_in_another_order_and_view() -> None:
    read = Passes(lambda rows, views: np.stack([rows, views], axis=1), np.arange(20), np.eye(20), 6, Chance(8, 0, 1))
    first, second = (all_of(read).inputs for _ in range(2))
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(20))
    assert (first != second).any(axis=0).all() and {*first[:, 1], *second[:, 1]} == set(range(8))


@pytest.mark.parametrize(
    ("images", "batch_size", "seen"), [(64, 32, 64), (65, 32, 64), (68, 32, 64), (69, 32, 69), (5, 32, 5), (1, 8, 1)]
)
def test_a_last_batch_of_few_images_is_left_out_of_what_is_learned_from(
    images: int, batch_size: int, seen: int
) -> None:
    def read(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return rows[:, None]

    labels = np.eye(2, dtype=np.float32)[np.arange(images) % 2]
    learned = Passes(read, np.arange(images), labels, batch_size, Chance(8, 0.4, 1))
    first, second = (all_of(learned) for _ in range(2))
    assert len(learned) == len(first.inputs) == len(first.shares) == seen
    assert learned.batches == -(-seen // batch_size) and len({*first.inputs[:, 0]}) == seen
    assert seen == images or {*first.inputs[:, 0]} != {*second.inputs[:, 0]}, "others every time"
    assert len(Passes(read, np.arange(images), labels, batch_size, None)) == images


def test_a_pass_comes_in_chunks_of_whole_batches_that_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    room = sys.modules["landuse.train.batches"]

    monkeypatch.setattr(room, "CHUNK_BYTES", 800)
    read = Passes(lambda rows, views: np.zeros((len(rows), 10)), np.arange(20), np.eye(20), 3, None)
    assert [len(chunk.labels) for chunk in read] == [9, 9, 2] and read.batches == 7
    large = Passes(lambda rows, views: np.zeros((len(rows), 1000)), np.arange(20), np.eye(20), 3, None)
    assert {len(chunk.labels) for chunk in large} == {3, 2}


def test_validation_sees_the_images_as_they_are_and_in_order(trained: Path) -> None:
    read = passes(pd.read_csv(SPLITS), "validation", TRAIN, EXTRACT)
    for _ in range(2):
        assert np.array_equal(all_of(read).inputs, features.activations()[read.rows, 0])


def test_mixup_blends_inputs_and_labels_alike_and_only_in_training() -> None:
    values, labels = np.arange(4, dtype=np.float32)[:, None], np.eye(4, dtype=np.float32)
    chunk = all_of(Passes(lambda rows, views: values[rows], np.arange(4), labels, 4, Chance(1, 0.4, 1)))
    inputs, targets = mix(chunk.inputs, chunk.shares).numpy(), mix(chunk.labels, chunk.shares).numpy()
    assert targets @ values[:, 0] == pytest.approx(inputs[:, 0]) and targets.sum(axis=1) == pytest.approx(1)
    assert (targets.max(axis=1) < 1).any()
    plain = all_of(Passes(lambda rows, views: values[rows], np.arange(4), labels, 4, None))
    assert (mix(plain.inputs, plain.shares).numpy() == values).all() and (plain.shares == 1).all()
    assert mix(values, np.array([1, 0, 1, 0], np.float32)).numpy().ravel().tolist() == [0, 2, 2, 0]


def test_images_of_a_rare_class_weigh_more_and_equal_classes_weigh_one() -> None:
    def weights(codes: list[int]) -> list[float]:
        labels = np.eye(3, dtype=np.float32)[codes]
        return Passes(lambda *_: np.zeros(1), np.arange(len(codes)), labels, 4, None).class_weight().tolist()

    assert weights([0] * 6 + [1] * 3 + [2] * 3) == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert weights([0, 0, 1, 1, 2, 2]) == [1, 1, 1]
