"""What the network is trained on: passes over cached activations or images; views are drawn anew for every pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.paths import DATA
from landuse.ml import features
from landuse.ml.images import map_ahead, read_image, view
from landuse.ml.network import ALL
from landuse.params import ExtractParams, TrainParams

CHUNK_BYTES = 16_000_000
FEW = 1 / 8  # of a batch: so few images are left out at the end of a pass

Read = Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray]


class Chunk(NamedTuple):
    """Some batches at once: inputs [n, …], one-hot labels [n, classes], and the shares of mixup [n], 1 where none."""

    inputs: NDArray
    labels: NDArray[np.float32]
    shares: NDArray[np.float32]


@dataclass(frozen=True)
class Chance:
    """What is drawn anew for every pass: the order, one of `views` per image, and the shares of mixup."""

    views: int
    mixup: float
    seed: int


class Passes:
    """Some rows of the split: every iteration is a pass over them, in chunks of whole batches that fit in memory.

    `read` takes row numbers and view numbers; `example` is what it gives for one row. Without chance every image comes
    in order, as it is. With it they are shuffled, and where few are left for a last batch, others every time, those few
    are left out: BatchNorm would take their statistics for those of all just before the pass is judged.
    """

    def __init__(self, read: Read, rows: NDArray, labels: NDArray, batch_size: int, chance: Chance | None) -> None:
        self.read, self.rows, self.labels, self.batch_size, self.chance = read, rows, labels, batch_size, chance
        self.example = read(rows[:1], np.zeros(1, np.intp))
        self.random = chance and np.random.default_rng(chance.seed)

    def __len__(self) -> int:
        """How many images a pass has."""
        count, rest = len(self.rows), len(self.rows) % self.batch_size
        left_out = self.chance and rest < count and rest <= FEW * self.batch_size
        return count - rest if left_out else count

    @property
    def batches(self) -> int:
        """How many batches a pass has."""
        return -(-len(self) // self.batch_size)

    def __iter__(self) -> Iterator[Chunk]:
        order, drawn, shares = self.draw()
        size = self.chunk_size()
        for start in range(0, len(order), size):
            part = slice(start, start + size)
            chosen = order[part]
            yield Chunk(self.read(self.rows[chosen], drawn[part]), self.labels[chosen], shares[part])

    def draw(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Order, views and shares of a pass [images]."""
        count = len(self.rows)
        order, drawn, shares = np.arange(count), np.zeros(count, np.intp), np.ones(count, np.float32)
        if self.chance:
            self.random.shuffle(order)
            drawn = self.random.integers(0, self.chance.views, count)
        if self.chance and self.chance.mixup:
            shares = self.random.beta(self.chance.mixup, self.chance.mixup, count).astype(np.float32)
        return order[: len(self)], drawn[: len(self)], shares[: len(self)]

    def chunk_size(self) -> int:
        """How many images a chunk holds: as many batches as fit, at least one."""
        return max(CHUNK_BYTES // self.example.nbytes // self.batch_size, 1) * self.batch_size

    def class_weight(self) -> NDArray[np.float32]:
        """The inverse of each class's share [classes], scaled so that equal classes weigh 1."""
        counts = self.labels.sum(axis=0)
        return (len(self.rows) / len(counts) / counts).astype(np.float32)


def passes(splits: pd.DataFrame, subset: str, params: TrainParams, extracted: ExtractParams) -> Passes:
    """The passes over a subset: shuffled views for `train`, the images in order and as they are for the others."""
    codes = pd.Categorical(splits["label"]).codes
    rows = np.flatnonzero(splits["subset"] == subset)
    labels = np.eye(codes.max() + 1, dtype=np.float32)[codes[rows]]
    chance = Chance(extracted.views, params.mixup, params.seed) if subset == "train" else None
    return Passes(reader(splits["path"], params, extracted), rows, labels, params.batch_size, chance)


def reader(paths: pd.Series, params: TrainParams, extracted: ExtractParams) -> Read:
    """Reads what the network is trained on."""
    return image_reader(paths, extracted.image_size) if params.unfreeze_from == ALL else activation_reader()


def activation_reader() -> Read:
    """Reads the cached activations of images and views, as they are stored."""
    activations = features.activations()
    return lambda rows, views: activations[rows, views]


def image_reader(paths: pd.Series, size: int) -> Read:
    """Reads images and turns them to views, as uint8 [n, size, size, 3], on all cores."""

    def turned(row_and_view: tuple[int, int]) -> NDArray:
        row, number = row_and_view
        return view(read_image(DATA / paths[row], size), number)

    return lambda rows, views: np.stack(list(map_ahead(turned, zip(rows, views, strict=True))))
