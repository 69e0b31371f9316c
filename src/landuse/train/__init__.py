"""Train: the head, the last blocks on cached activations, or everything from the images; then export."""

import numpy as np

from landuse import tracking
from landuse.core.files import sha256_of
from landuse.core.paths import HISTORY, MODEL, SPLITS
from landuse.ml.examples import choose, write_examples
from landuse.ml.network import device
from landuse.params import TrainParams
from landuse.project import lineage
from landuse.train.calibration import calibrate
from landuse.train.callbacks import Watch
from landuse.train.export import export
from landuse.train.trainer import Bench


def train(params: TrainParams) -> None:
    """Write `artifacts/model/` (Keras, LiteRT, card), `artifacts/history.csv` and `artifacts/run.json`; one MLflow run.

    Raises LanduseError where training diverges or the LiteRT file does not say what the network says.
    """
    bench = Bench(params)
    facts, weights = bench.facts, bench.extracted.weights
    tags = {"weights": weights, "weights.sha256": facts["weights_sha256"]}
    tags |= {"device": device(), "processor": lineage.processor()}
    with tracking.training_run(tags, train=params, extract=bench.extracted) as record:
        with Watch(params.epochs, **bench.images(params)) as watch:
            bench.fit(params, watch).to_csv(HISTORY, index=False)
        network, validation, examples = bench.trained(params), bench.passes("validation", params), choose(bench.splits)
        seen = bench.embeddings(np.concatenate((validation.rows, examples)), params)
        judged, shown = np.split(seen, [len(validation)])
        facts |= calibrate(network, bench.logits(judged), validation.labels, params.sure_accuracy)
        facts |= {"averaged_views": params.averaged_views, "data_md5": record["tags"]["data.md5"]}
        facts |= {"split_sha256": sha256_of(SPLITS)}
        digest = export(network, facts, bench.splits, params.sure_accuracy)
        write_examples(MODEL, bench.splits.iloc[examples], shown)
        tracking.finish_training(record, digest)
