"""Trainer: a network with its cached features and split, reusable across runs from the same initial weights."""

from dataclasses import replace
from functools import partial
from math import inf, isfinite
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import MANIFEST, SPLITS
from landuse.ml import features
from landuse.ml.network import ALL, HEAD, build_backbone, build_network, device, embedder, training_precision, unfreeze
from landuse.params import ExtractParams, TrainParams
from landuse.train.batches import BatchLoader, make_loader, make_reader
from landuse.train.callbacks import Callback
from landuse.train.loop import EpochMetrics, TrainingLoop

ROWS_AT_ONCE = 256

Weights = list[NDArray[Any]]


class Trainer:
    """The initial network, the cached features and the split."""

    def __init__(self, params: TrainParams) -> None:
        tf.config.experimental.enable_op_determinism()
        keras.utils.clear_session()  # layers are numbered per process, and their names are saved in the files
        self.metadata, self.splits = features.metadata(), read_table(SPLITS)
        refuse_other_images(self.splits)
        refuse_other_cut(self.metadata["cut"], params.unfreeze_from)
        self.extracted = ExtractParams(**self.metadata["params"])
        with training_precision():
            self.network = self.build(params)
        self.embedder = embedder(self.network, params.unfreeze_from)
        self.head = self.network.get_layer(HEAD)
        self.initial_weights = self.copy_weights()
        self.loop = TrainingLoop(self.embedder, self.head, self.loader("train", params))

    def build(self, params: TrainParams) -> keras.Model:
        """Build the initial network."""
        backbone = build_backbone(replace(self.extracted, weights=str(features.BACKBONE.absolute())))
        keras.utils.set_random_seed(params.seed)
        network = build_network(backbone, self.splits["label"].nunique(), params.tta_views)
        unfreeze(network, params.unfreeze_from)
        return network

    def float32_network(self, params: TrainParams) -> keras.Model:
        """Return the network with its current weights, in float32 throughout."""
        if device() == "CPU":
            return self.network
        copy = self.build(params)
        copy.set_weights(self.network.get_weights())
        return copy

    def copy_weights(self) -> Weights:
        """Copy the current weights of all layers after the cut."""
        return [np.array(variable) for variable in (*self.embedder.variables, *self.head.variables)]

    def restore_weights(self, weights: Weights) -> None:
        """Set the weights to a copy from `copy_weights`."""
        for variable, value in zip((*self.embedder.variables, *self.head.variables), weights, strict=True):
            variable.assign(value)

    def image_counts(self, params: TrainParams) -> dict[str, int]:
        """Count the images per epoch, by subset."""
        return {subset: len(self.loader(subset, params)) for subset in ("train", "validation")}

    def loader(self, subset: str, params: TrainParams) -> BatchLoader:
        """Build the loader of a subset."""
        return make_loader(self.splits, subset, params, self.extracted)

    def embeddings(self, rows: NDArray[np.intp], params: TrainParams) -> NDArray[np.float32]:
        """Compute the head's inputs [images, channels] for rows of the split, averaged over views as in the export."""
        read, dtype = make_reader(self.splits["path"], params, self.extracted), self.embedder.inputs[0].dtype
        views = 1 if params.unfreeze_from == ALL else params.tta_views
        parts = np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))

        def embed(view: int) -> NDArray[np.float32]:
            inputs = (read(part, np.full(len(part), view)).astype(dtype) for part in parts)
            return np.concatenate([self.embedder.predict_on_batch(batch) for batch in inputs]).astype(np.float32)

        mean: NDArray[np.float32] = np.mean([embed(view) for view in range(views)], axis=0)
        return mean

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the inputs of the softmax [images, classes] from embeddings."""
        weights, bias = self.head.get_weights()
        logits: NDArray[np.float32] = embeddings @ weights + bias
        return logits

    def fit(self, params: TrainParams, callback: Callback) -> pd.DataFrame:
        """Train from the initial weights, and keep the weights of the epoch with the lowest validation loss.

        Returns one row per epoch. Raises LanduseError if the loss diverges.
        """
        self.restore_weights(self.initial_weights)
        train, validation = self.loader("train", params), self.loader("validation", params)
        rows: list[dict[str, float]] = []
        best_epoch, lowest_loss = 0, inf
        self.loop.reset(params, train.batches)
        while len(rows) < params.epochs and len(rows) - best_epoch < params.patience:
            trained = self.loop.train_epoch(train, partial(callback.on_batches_end, "train"))
            validated = self.loop.eval_epoch(validation, partial(callback.on_batches_end, "validation"))
            if not isfinite(trained.loss + validated.loss):
                raise LanduseError(f"train.learning_rate = {params.learning_rate}: the loss diverged; lower it")
            rows.append(history_row(len(rows) + 1, trained, validated, self.loop.learning_rate))
            if validated.loss < lowest_loss:
                lowest_loss, best_epoch, best_weights = validated.loss, len(rows), self.copy_weights()
            callback.on_epoch_end(rows[-1], trained, validated)
        self.restore_weights(best_weights)
        return pd.DataFrame(rows)


def refuse_other_images(splits: pd.DataFrame) -> None:
    """Raise LanduseError if the split lists other images than the manifest, and so than the cached features."""
    if splits["path"].tolist() != read_table(MANIFEST, ["path"])["path"].tolist():
        raise LanduseError(f"{SPLITS} is of other images than {MANIFEST} lists now: dvc repro split makes it anew")


def refuse_other_cut(cut: str, unfreeze_from: str) -> None:
    """Raise LanduseError if training would start from another block than the one the cached features were cut at."""
    if unfreeze_from != cut:
        raise LanduseError(
            f"train.unfreeze_from = {unfreeze_from}: the cached features were cut at {cut}; dvc repro extracts them"
        )


def history_row(epoch: int, train: EpochMetrics, validation: EpochMetrics, learning_rate: float) -> dict[str, float]:
    """Build the row of `history.csv` for an epoch."""
    return {
        "epoch": epoch,
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "learning_rate": learning_rate,
    }
