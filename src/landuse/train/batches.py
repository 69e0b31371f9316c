"""What the network is trained on: batches of cached activations, or of images; views are drawn anew every epoch."""

from collections.abc import Callable

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


class Batches(keras.utils.PyDataset):
    """Batches (inputs [n, …], one-hot labels [n, classes]) of some rows of the split.

    With a seed the order is shuffled and one of `views` is drawn per image, anew every epoch; without, every image
    comes once as it is.
    """

    def __init__(
        self, read: Read, rows: NDArray, labels: NDArray, size: int, views: int, seed: int | None, workers: int
    ):
        super().__init__(workers=workers)
        self.read, self.rows, self.labels, self.size, self.views = read, rows, labels, size, views
        self.random = None if seed is None else np.random.default_rng(seed)
        self.on_epoch_end()

    @property
    def images(self) -> int:
        """How many images one pass holds."""
        return len(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def on_epoch_end(self) -> None:
        """Draw order and views of the next pass."""
        self.order, self.drawn = np.arange(len(self.rows)), np.zeros(len(self.rows), np.intp)
        if self.random is not None:
            self.random.shuffle(self.order)
            self.drawn = self.random.integers(0, self.views, len(self.rows))

    def __getitem__(self, index: int) -> tuple[NDArray, NDArray]:
        chosen = self.order[index * self.size : (index + 1) * self.size]
        inputs = np.stack([self.read(self.rows[i], self.drawn[i]) for i in chosen])
        return inputs, self.labels[chosen]

    def class_weight(self) -> dict[int, float]:
        """The inverse of each class's share, scaled so that equal classes weigh 1."""
        counts = self.labels.sum(axis=0)
        return {index: float(len(self.labels) / len(counts) / count) for index, count in enumerate(counts)}


def batches(splits: pd.DataFrame, subset: str, params: TrainParams, extracted: ExtractParams) -> Batches:
    """The batches of a subset: shuffled views for `train`, the images as they are for the others."""
    codes = pd.Categorical(splits["label"]).codes
    rows = np.flatnonzero(splits["subset"] == subset)
    labels = np.eye(codes.max() + 1, dtype=np.float32)[codes[rows]]
    seed = params.seed if subset == "train" else None
    if params.unfreeze_from == ALL:
        read, workers = image_reader(splits["path"], extracted.image_size), 2
    else:
        read, workers = activation_reader(), 1
    return Batches(read, rows, labels, params.batch_size, extracted.views, seed, workers)


def activation_reader() -> Read:
    """Reads the cached activations of an image and view as float32."""
    activations = features.activations()
    return lambda row, number: activations[row, number].astype(np.float32)


def image_reader(paths: pd.Series, size: int) -> Read:
    """Reads an image and turns it to a view, as uint8 [size, size, 3]."""
    return lambda row, number: view(read_image(DATA / paths[row], size), number)
