"""Batches for training, read from cached activations or from images, with new random views in every epoch."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.paths import DATA
from landuse.ml import features
from landuse.ml.images import Pixels, parallel_map, read_image, view
from landuse.ml.network import ALL
from landuse.params import ExtractParams, TrainParams

CHUNK_BYTES = 16_000_000
SMALL_BATCH = 1 / 8  # of a full batch: a last batch up to this size is dropped

Inputs = NDArray[Any]  # float16 or float32 activations, or uint8 images
Reader = Callable[[NDArray[np.intp], NDArray[np.intp]], Inputs]


class Chunk(NamedTuple):
    """Consecutive batches: inputs [n, …], one-hot labels [n, classes], and mixup weights [n], 1 = not mixed."""

    inputs: Inputs
    labels: NDArray[np.float32]
    mixup_weights: NDArray[np.float32]


class Augmentation:
    """Random choices for each training epoch: the order, one of `views` per image, and the mixup weights."""

    def __init__(self, views: int, mixup: float, seed: int) -> None:
        self.views, self.mixup, self.rng = views, mixup, np.random.default_rng(seed)

    def sample(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Sample order, view numbers and mixup weights [count] for one epoch."""
        order, weights = np.arange(count), np.ones(count, np.float32)
        self.rng.shuffle(order)
        views = self.rng.integers(0, self.views, count)
        if self.mixup:
            weights = self.rng.beta(self.mixup, self.mixup, count).astype(np.float32)
        return order, views, weights


class BatchLoader:
    """Some rows of the split. Each iteration is one epoch, in chunks of whole batches that fit in memory.

    `read` takes row numbers and view numbers; `example` is its result for a single row. Without augmentation, images
    come in order and unchanged. With it they are shuffled, and a small last batch is dropped (other images every time):
    BatchNorm would take its statistics for those of the whole set just before validation.
    """

    def __init__(
        self,
        read: Reader,
        rows: NDArray[np.intp],
        labels: NDArray[np.float32],
        batch_size: int,
        augmentation: Augmentation | None,
    ) -> None:
        self.read, self.rows, self.labels = read, rows, labels
        self.batch_size, self.augmentation = batch_size, augmentation
        self.example = read(rows[:1], np.zeros(1, np.intp))

    def __len__(self) -> int:
        """Return the number of images per epoch."""
        count, rest = len(self.rows), len(self.rows) % self.batch_size
        dropped = self.augmentation and rest < count and rest <= SMALL_BATCH * self.batch_size
        return count - rest if dropped else count

    @property
    def batches(self) -> int:
        """The number of batches per epoch."""
        return -(-len(self) // self.batch_size)

    def __iter__(self) -> Iterator[Chunk]:
        order, views, weights = self.plan_epoch()
        size = self.chunk_size()
        for start in range(0, len(order), size):
            part = slice(start, start + size)
            chosen = order[part]
            yield Chunk(self.read(self.rows[chosen], views[part]), self.labels[chosen], weights[part])

    def plan_epoch(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Return order, view numbers and mixup weights [images] for one epoch."""
        count = len(self.rows)
        if self.augmentation:
            order, views, weights = self.augmentation.sample(count)
        else:
            order, views, weights = np.arange(count), np.zeros(count, np.intp), np.ones(count, np.float32)
        return order[: len(self)], views[: len(self)], weights[: len(self)]

    def chunk_size(self) -> int:
        """Return the number of images per chunk: as many batches as fit into `CHUNK_BYTES`, at least one."""
        return max(CHUNK_BYTES // self.example.nbytes // self.batch_size, 1) * self.batch_size

    def class_weights(self) -> NDArray[np.float32]:
        """Return the inverse class frequencies [classes], scaled so that balanced classes weigh 1."""
        counts = self.labels.sum(axis=0)
        weights: NDArray[np.floating] = len(self.rows) / len(counts) / counts
        return weights.astype(np.float32)


def make_loader(splits: pd.DataFrame, subset: str, params: TrainParams, extracted: ExtractParams) -> BatchLoader:
    """Build the loader of a subset: augmented for `train`; in order and unchanged for the others."""
    codes = pd.Categorical(splits["label"]).codes
    rows = np.flatnonzero(splits["subset"] == subset)
    labels = np.eye(codes.max() + 1, dtype=np.float32)[codes[rows]]
    augmentation = Augmentation(extracted.views, params.mixup, params.seed) if subset == "train" else None
    return BatchLoader(make_reader(splits["path"], params, extracted), rows, labels, params.batch_size, augmentation)


def make_reader(paths: "pd.Series[str]", params: TrainParams, extracted: ExtractParams) -> Reader:
    """Build the reader of the network's training inputs: images for end-to-end training, else cached activations."""
    return image_reader(paths, extracted.image_size) if params.unfreeze_from == ALL else activation_reader()


def activation_reader() -> Reader:
    """Build a reader of cached activations, in the dtype in which they are stored."""
    return features.activations().of_views


def image_reader(paths: "pd.Series[str]", size: int) -> Reader:
    """Build a reader of image views, as uint8 [n, size, size, 3], on all cores."""

    def read_view(row_and_view: tuple[int, int]) -> Pixels:
        row, number = row_and_view
        return view(read_image(DATA / paths[row], size), number)

    return lambda rows, views: np.stack(list(parallel_map(read_view, zip(rows, views, strict=True))))
