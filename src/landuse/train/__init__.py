"""Train: the head, the last blocks on cached activations, or everything from the images; then export."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from landuse import features, model, tracking
from landuse.errors import LanduseError
from landuse.files import made
from landuse.params import ExtractParams, TrainParams
from landuse.paths import HISTORY, SPLITS
from landuse.train.batches import batches
from landuse.train.calibrate import calibrate
from landuse.train.export import export
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
        fit(tail, params, splits, extracted).to_csv(HISTORY, index=False)
        validation = batches(splits, "validation", params, extracted)
        trust = calibrate(network, model.logits(tail, validation), validation.labels, params.sure_accuracy)
        tracking.finish_training(record, export(network, facts | trust, splits))


def device() -> str:
    """`GPU` where TensorFlow sees one, else `CPU`."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def fit(network: keras.Model, params: TrainParams, splits: pd.DataFrame, extracted: ExtractParams) -> pd.DataFrame:
    """Train in place, the best epoch's weights kept; returns one row per epoch."""
    train, validation = (batches(splits, subset, params, extracted) for subset in ("train", "validation"))
    network.compile(
        optimizer=optimizer(params, len(train)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
        metrics=["accuracy"],
        jit_compile=False,
    )
    stop = keras.callbacks.EarlyStopping("val_loss", patience=params.patience, restore_best_weights=True)
    watch = Watch(params.epochs, train.images, validation.images, params.batch_size)
    callbacks = [keras.callbacks.TerminateOnNaN(), stop, watch]
    network.fit(
        train,
        validation_data=validation,
        epochs=params.epochs,
        callbacks=callbacks,
        class_weight=train.class_weight(),
        verbose=0,
    )
    history = pd.DataFrame(watch.rows)
    if history.empty or not np.isfinite(history["validation_loss"]).all():
        raise LanduseError(f"train.learning_rate = {params.learning_rate}: the loss grew without bound; lower it")
    return history


def optimizer(params: TrainParams, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """AdamW whose learning rate rises linearly to its peak, then falls to 0 along a cosine."""
    steps = params.epochs * steps_per_epoch
    rising = int(params.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if rising else params.learning_rate,
        decay_steps=max(steps - rising, 1),
        warmup_target=params.learning_rate if rising else None,
        warmup_steps=rising,
    )
    return keras.optimizers.AdamW(schedule, weight_decay=params.weight_decay)
