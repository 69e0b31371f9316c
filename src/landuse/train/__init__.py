"""Train the head, the last blocks on cached activations, or the whole network on images; then export the model."""

from time import perf_counter

import numpy as np

from landuse import tracking
from landuse.core.files import sha256_of
from landuse.core.paths import HISTORY, MODEL, SPLITS
from landuse.ml import features
from landuse.ml.examples import select_examples, write_examples
from landuse.ml.network import device
from landuse.params import TrainParams
from landuse.project import lineage
from landuse.train.calibration import calibrate
from landuse.train.callbacks import ProgressCallback
from landuse.train.export import export
from landuse.train.trainer import Trainer


def train(params: TrainParams) -> None:
    """Write `artifacts/model/` (Keras, LiteRT, card), `artifacts/history.csv` and `artifacts/run.json`; one MLflow run.

    Raises LanduseError if training diverges, or if the LiteRT file disagrees with the network.
    """
    trainer = Trainer(params)
    facts, weights = trainer.metadata, trainer.extracted.weights
    tags = {"weights": weights, "weights.sha256": facts["weights_sha256"]}
    tags |= {"device": device(), "processor": lineage.processor()}
    tags |= {"features.processors": "; ".join(features.processors()) or "unknown"}
    with tracking.training_run(tags, train=params, extract=trainer.extracted) as record:
        with ProgressCallback(params.epochs, **trainer.image_counts(params)) as callback:
            start = perf_counter()
            trainer.fit(params, callback).to_csv(HISTORY, index=False)
            seconds = perf_counter() - start
        network, validation = trainer.float32_network(params), trainer.loader("validation", params)
        examples = select_examples(trainer.splits)
        embeddings = trainer.embeddings(np.concatenate((validation.rows, examples)), params)
        validation_embeddings, example_embeddings = np.split(embeddings, [len(validation)])
        logits = trainer.logits(validation_embeddings)
        facts |= calibrate(network, logits, validation.labels, params.target_selective_accuracy)
        facts |= {"averaged_views": params.tta_views, "data_md5": record["tags"]["data.md5"]}
        facts |= {"split_sha256": sha256_of(SPLITS)}
        digest = export(network, facts, trainer.splits, params.target_selective_accuracy)
        write_examples(MODEL, trainer.splits.iloc[examples], example_embeddings)
        tracking.finish_training(record, digest, seconds)
