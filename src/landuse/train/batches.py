"""What the network is trained on: batches of cached activations, or of images; views are drawn anew every epoch."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse import features
from landuse.dataset import read_image, view
from landuse.model import ALL
from landuse.params import ExtractParams, TrainParams
from landuse.paths import DATA

Read = Callable[[int, int], NDArray]


@dataclass(frozen=True)
class Chance:
    """What is drawn anew every epoch: the order, one of `views` per image, and the shares of mixup."""

    views: int
    mixup: float
    seed: int


class Batches(keras.utils.PyDataset):
    """Batches (inputs [n, …], one-hot labels [n, classes]) of some rows of the split.

    Without chance every image comes once, in order, as it is.
    """

    def __init__(
        self, read: Read, rows: NDArray, labels: NDArray, size: int, chance: Chance | None, workers: int
    ) -> None:
        super().__init__(workers=workers)
        self.read, self.rows, self.labels, self.size, self.chance = read, rows, labels, size, chance
        self.random = chance and np.random.default_rng(chance.seed)
        self.on_epoch_end()

    @property
    def images(self) -> int:
        """How many images one pass holds."""
        return len(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def on_epoch_end(self) -> None:
        """Draw order, views and shares of the next pass."""
        count = len(self.rows)
        self.order, self.drawn, self.shares = np.arange(count), np.zeros(count, np.intp), None
        if self.chance:
            self.random.shuffle(self.order)
            self.drawn = self.random.integers(0, self.chance.views, count)
        if self.chance and self.chance.mixup:
            self.shares = self.random.beta(self.chance.mixup, self.chance.mixup, count)

    def __getitem__(self, index: int) -> tuple[NDArray, NDArray]:
        batch = slice(index * self.size, (index + 1) * self.size)
        chosen = self.order[batch]
        inputs = np.stack([self.read(self.rows[i], self.drawn[i]) for i in chosen])
        if self.shares is None:
            return inputs, self.labels[chosen]
        return mix(inputs, self.shares[batch]), mix(self.labels[chosen], self.shares[batch])

    def class_weight(self) -> dict[int, float]:
        """The inverse of each class's share, scaled so that equal classes weigh 1."""
        counts = self.labels.sum(axis=0)
        return {index: float(len(self.labels) / len(counts) / count) for index, count in enumerate(counts)}


def mix(values: NDArray, shares: NDArray) -> NDArray:
    """Mixup (Zhang et al., 2018): each of [n, …] by its share with the one that mirrors it in the shuffled batch."""
    shares = shares.reshape(-1, *[1] * (values.ndim - 1))
    return (shares * values + (1 - shares) * values[::-1]).astype(values.dtype)


def batches(splits: pd.DataFrame, subset: str, params: TrainParams, extracted: ExtractParams) -> Batches:
    """The batches of a subset: shuffled views for `train`, the images as they are for the others."""
    codes = pd.Categorical(splits["label"]).codes
    rows = np.flatnonzero(splits["subset"] == subset)
    labels = np.eye(codes.max() + 1, dtype=np.float32)[codes[rows]]
    chance = Chance(extracted.views, params.mixup, params.seed) if subset == "train" else None
    if params.unfreeze_from == ALL:
        read, workers = image_reader(splits["path"], extracted.image_size), 2
    else:
        read, workers = activation_reader(), 1
    return Batches(read, rows, labels, params.batch_size, chance, workers)


def activation_reader() -> Read:
    """Reads the cached activations of an image and view as float32."""
    activations = features.activations()
    return lambda row, number: activations[row, number].astype(np.float32)


def image_reader(paths: pd.Series, size: int) -> Read:
    """Reads an image and turns it to a view, as uint8 [size, size, 3]."""
    return lambda row, number: view(read_image(DATA / paths[row], size), number)
