"""The bench: a network and what it is trained on, for one training or for many from the same start."""

from dataclasses import replace
from functools import partial
from math import inf, isfinite

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
from landuse.train.batches import Passes, passes, reader
from landuse.train.callbacks import Watch
from landuse.train.loop import Learner, Outcome

ROWS_AT_ONCE = 256


class Bench:
    """The network as it is before training, the cached features and the split."""

    def __init__(self, params: TrainParams) -> None:
        tf.config.experimental.enable_op_determinism()
        keras.utils.clear_session()  # layers are numbered per process, and their names stand in the files
        self.facts, self.splits = features.facts(), read_table(SPLITS)
        refuse_other_images(self.splits)
        refuse_other_cut(self.facts["cut"], params.unfreeze_from)
        self.extracted = ExtractParams(**self.facts["params"])
        with training_precision():
            self.network = self.build(params)
        self.seeing = embedder(self.network, params.unfreeze_from)
        self.head = self.network.get_layer(HEAD)
        self.start = self.weights()
        self.learner = Learner(self.seeing, self.head, self.passes("train", params))

    def build(self, params: TrainParams) -> keras.Model:
        """The network as it is before training."""
        backbone = build_backbone(replace(self.extracted, weights=str(features.BACKBONE.absolute())))
        keras.utils.set_random_seed(params.seed)
        network = build_network(backbone, self.splits["label"].nunique(), params.averaged_views)
        unfreeze(network, params.unfreeze_from)
        return network

    def trained(self, params: TrainParams) -> keras.Model:
        """The network as it is now, in float32 throughout."""
        if device() == "CPU":
            return self.network
        twin = self.build(params)
        twin.set_weights(self.network.get_weights())
        return twin

    def weights(self) -> list[NDArray]:
        """Of all that follows the cut, as they are now."""
        return [np.array(variable) for variable in (*self.seeing.variables, *self.head.variables)]

    def restore(self, weights: list[NDArray]) -> None:
        """Put back what `weights` gave."""
        for variable, value in zip((*self.seeing.variables, *self.head.variables), weights, strict=True):
            variable.assign(value)

    def images(self, params: TrainParams) -> dict[str, int]:
        """How many images a pass learns from, and how many choose the best epoch."""
        return {subset: len(self.passes(subset, params)) for subset in ("train", "validation")}

    def passes(self, subset: str, params: TrainParams) -> Passes:
        """The passes over a subset."""
        return passes(self.splits, subset, params, self.extracted)

    def embeddings(self, rows: NDArray[np.intp], params: TrainParams) -> NDArray[np.float32]:
        """What the head sees of rows of the split [images, channels], averaged over views as the model does."""
        read, dtype = reader(self.splits["path"], params, self.extracted), self.seeing.inputs[0].dtype
        views = 1 if params.unfreeze_from == ALL else params.averaged_views
        parts = np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))

        def seen(view: int) -> NDArray[np.float32]:
            inputs = (read(part, np.full(len(part), view)).astype(dtype) for part in parts)
            return np.concatenate([self.seeing.predict_on_batch(batch) for batch in inputs]).astype(np.float32)

        return np.mean([seen(view) for view in range(views)], axis=0)

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """What flows into the softmax [images, classes], of embeddings."""
        weights, bias = self.head.get_weights()
        return embeddings @ weights + bias

    def fit(self, params: TrainParams, watch: Watch) -> pd.DataFrame:
        """Train from the start, the weights of the epoch with the least validation loss kept; one row per epoch.

        Raises LanduseError where the loss grows without bound.
        """
        self.restore(self.start)
        train, validation = self.passes("train", params), self.passes("validation", params)
        learner, rows, best, least = self.learner, [], 0, inf
        learner.begin(params, train.batches)
        while len(rows) < params.epochs and len(rows) - best < params.patience:
            learned = learner.learn(train, partial(watch.moved, "train"))
            judged = learner.judge(validation, partial(watch.moved, "validation"))
            if not isfinite(learned.loss + judged.loss):
                raise LanduseError(
                    f"train.learning_rate = {params.learning_rate}: the loss grew without bound; lower it"
                )
            rows.append(history_row(len(rows) + 1, learned, judged, learner.rate))
            if judged.loss < least:
                least, best, weights = judged.loss, len(rows), self.weights()
            watch.ended(rows[-1], learned, judged)
        self.restore(weights)
        return pd.DataFrame(rows)


def refuse_other_images(splits: pd.DataFrame) -> None:
    """Raise LanduseError where the split is of other images than the manifest, and so the features, lists."""
    if splits["path"].tolist() != read_table(MANIFEST, ["path"])["path"].tolist():
        raise LanduseError(f"{SPLITS} is of other images than {MANIFEST} lists now: dvc repro split makes it anew")


def refuse_other_cut(cut: str, unfreeze_from: str) -> None:
    """Raise LanduseError where training would begin elsewhere than the cached features were cut."""
    if unfreeze_from != cut:
        raise LanduseError(
            f"train.unfreeze_from = {unfreeze_from}: what is cached was cut at {cut}; dvc repro extracts it anew"
        )


def history_row(epoch: int, learned: Outcome, judged: Outcome, rate: float) -> dict[str, float]:
    """What `history.csv` holds of an epoch."""
    return {
        "epoch": epoch,
        "train_loss": learned.loss,
        "train_accuracy": learned.accuracy,
        "validation_loss": judged.loss,
        "validation_accuracy": judged.accuracy,
        "learning_rate": rate,
    }
