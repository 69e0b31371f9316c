"""Train: the head, the last blocks on cached activations, or everything from the images; then export."""

from dataclasses import replace
from functools import partial
from math import inf, isfinite

import keras
import pandas as pd
import tensorflow as tf

from landuse import features, model, tracking
from landuse.errors import LanduseError
from landuse.files import made
from landuse.params import ExtractParams, TrainParams
from landuse.paths import HISTORY, SPLITS
from landuse.train.calibrate import calibrate
from landuse.train.export import export
from landuse.train.learner import Learner, Outcome
from landuse.train.passes import Passes, passes
from landuse.train.watch import Watch


def train(params: TrainParams) -> None:
    """Write `artifacts/model/` (Keras, LiteRT, card), `artifacts/history.csv` and `artifacts/run.json`; one MLflow run.

    Raises LanduseError where training diverges or the exported formats disagree.
    """
    tf.config.experimental.enable_op_determinism()
    keras.utils.clear_session()  # layers are numbered per process, and their names stand in the files
    facts, splits = features.facts(), pd.read_csv(made(SPLITS))
    extracted = ExtractParams(**facts["params"])
    backbone = model.build_backbone(replace(extracted, weights=str(features.BACKBONE.resolve())))
    keras.utils.set_random_seed(params.seed)
    network = model.build_network(backbone, splits["label"].nunique(), params.dropout)
    tags = {"weights": extracted.weights, "weights.sha256": facts["weights_sha256"], "device": device()}
    with tracking.training_run(tags) as record:
        model.unfreeze(network, params.unfreeze_from, from_scratch=extracted.weights == "none")
        tail = model.tail(network, params.unfreeze_from)
        learned, validation = (passes(splits, subset, params, extracted) for subset in ("train", "validation"))
        with Watch(params.epochs, len(learned), len(validation)) as watch:
            fit(tail, params, learned, validation, watch).to_csv(HISTORY, index=False)
        logits = model.logits(tail, (chunk.inputs for chunk in validation))
        trust = calibrate(network, logits, validation.labels, params.sure_accuracy)
        tracking.finish_training(record, export(network, facts | trust, splits))


def device() -> str:
    """`GPU` where TensorFlow sees one, else `CPU`."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def fit(network: keras.Model, params: TrainParams, train: Passes, validation: Passes, watch: Watch) -> pd.DataFrame:
    """Train in place, the weights of the epoch with the least validation loss kept; returns one row per epoch.

    Raises LanduseError where the loss grows without bound.
    """
    learner, rows, best, least = Learner(network, params, train), [], 0, inf
    while len(rows) < params.epochs and len(rows) - best < params.patience:
        learned = learner.learn(train, partial(watch.moved, "train"))
        judged = learner.judge(validation, partial(watch.moved, "validation"))
        if not isfinite(learned.loss + judged.loss):
            raise LanduseError(f"train.learning_rate = {params.learning_rate}: the loss grew without bound; lower it")
        rows.append(history_row(len(rows) + 1, learned, judged, learner.rate))
        watch.ended(rows[-1], learned, judged)
        if judged.loss < least:
            least, best, weights = judged.loss, len(rows), network.get_weights()
    network.set_weights(weights)
    return pd.DataFrame(rows)


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
