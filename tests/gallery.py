"""Small real models in a real registry that classify drawn images by mean colour, correctly or with a known fault."""

import json
from pathlib import Path
from shutil import copytree

import keras
import numpy as np
import pandas as pd
import tiny
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from landuse import registry, tracking
from landuse.core import paths
from landuse.evaluate import write_tables
from landuse.gate.blessing import Blessing
from landuse.ml.classifier import CARD_FILE, MODEL_FILE, Classifier
from landuse.ml.images import read_image
from landuse.ml.litert import to_litert
from landuse.ml.metrics import classification_metrics, held_out_images
from landuse.ml.network import KERAS_FILE
from landuse.params import RegisterParams, load_params
from landuse.project import lineage
from landuse.promote import promote
from landuse.register import register
from landuse.registry import audit_log, transition
from landuse.train.export import save_keras
from landuse.validate.manifest import build_manifest, write_manifest

NAME = "gallery"
GOOD = Path("good")
SIDE = 32
IMAGES, HELD_OUT = 40, 20
BINS = tiny.CHANGES["evaluate"]["calibration_bins"]
PROMOTE = {
    "min_images": 50,
    "min_accuracy": 0.9,
    "min_macro_f1": 0.9,
    "min_class_recall": 0.8,
    "min_slice_accuracy": 0.8,
    "min_slice_images": 10,
    "families": [["field", "water"]],
    "max_calibration_error": 0.1,
    "max_disturbed_fall": 0.4,
    "margin": 0.1,
    "significance": 0.05,
    "max_class_fall": 0.1,
    "max_coverage_fall": 0.1,
    "max_shrinkage": 0.1,
    "max_latency_ms": 1000,
    "max_size_mb": 1,
}

Head = tuple[NDArray, NDArray]


def make_project(folder: Path) -> None:
    """Make a project with everything but a model: images, params, splits, manifest, history and validation results."""
    tiny.make_project(folder, IMAGES)
    tiny.write_params(folder, tiny.CHANGES | {"promote": PROMOTE, "register": {"model": NAME}})
    paths.PICTURES.mkdir(parents=True)
    write_manifest(build_manifest(paths.DATA), paths.MANIFEST)
    write_splits(first_held_out=0)
    row = {f"{subset}_{figure}": 0.5 for subset in ("train", "validation") for figure in ("loss", "accuracy")}
    pd.DataFrame([{"epoch": 1} | row]).to_csv(paths.HISTORY, index=False)
    for path in (paths.VALIDATION, paths.VALIDATION_PAGE, paths.PICTURES / "curves.png"):
        path.write_text("{}")


def write_splits(first_held_out: int, groups: NDArray | None = None) -> None:
    """Hold out twenty images of each class, starting at `first_held_out`; three of the others are for validation.

    Every image is its own group of near-duplicates unless `groups` [images] is given.
    """
    rows = pd.read_parquet(paths.MANIFEST, columns=["path", "label"])
    rows["group"] = range(len(rows)) if groups is None else groups
    number = rows.groupby("label").cumcount()
    held_out = (number >= first_held_out) & (number < first_held_out + HELD_OUT)
    rows["subset"] = np.where(held_out, "test", np.where(number % 7 == 6, "validation", "train"))
    rows.to_csv(paths.SPLITS, index=False)


def colour_head() -> Head:
    """Fit weights and bias of a head that classifies by the mean colour."""
    rows = pd.read_csv(paths.SPLITS)
    colours = np.stack([read_image(paths.DATA / path, SIDE).mean((0, 1)) / 127.5 - 1 for path in rows["path"]])
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit(colours, rows["label"])
    return fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)


def confused(head: Head) -> Head:
    """Swap fields and forests."""
    return head[0][:, [1, 0, 2]], head[1][[1, 0, 2]]


def blind(head: Head) -> Head:
    """Never predict water."""
    return head[0], head[1] + np.array([0, 0, -1000], np.float32)


def underconfident(head: Head) -> Head:
    """Keep the predictions correct, but lower the confidence."""
    return head[0] / 1000, head[1] / 1000


def unchanged(head: Head) -> Head:
    """Return the head as it is."""
    return head


def network(head: Head) -> keras.Model:
    """Build a network: pixels → mean colour → probabilities."""
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    colour = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(len(head[1]), activation="softmax")(colour))
    model.layers[-1].set_weights(head)
    return model


def export(model: keras.Model, folder: Path, labels: tuple[str, ...] = tiny.LABELS, side: int = SIDE) -> Classifier:
    """Write a model folder as `train` does."""
    folder.mkdir(parents=True, exist_ok=True)
    save_keras(model, folder / KERAS_FILE)
    (folder / MODEL_FILE).write_bytes(to_litert(model))
    (folder / CARD_FILE).write_text(json.dumps({"labels": labels, "image_size": side, "unsure_below": 0.5}))
    return Classifier(folder)


def register_all() -> None:
    """Register four models: one that is always right, and three with different faults."""
    head = colour_head()
    for change in (unchanged, confused, blind, underconfident):
        export(network(change(head)), paths.MODEL)
        register_model()
        if change is unchanged:
            copytree(paths.MODEL, GOOD)


def register_twin(number: int) -> ModelVersion:
    """Register a copy of the first model that differs only in meaningless bytes at the end."""
    make_twin(number)
    return register(RegisterParams(model=NAME))


def make_twin(number: int) -> None:
    """Put such a copy into `artifacts/model/`, evaluated."""
    copytree(GOOD, paths.MODEL, dirs_exist_ok=True)
    with (paths.MODEL / MODEL_FILE).open("ab") as file:
        file.write(b"\0" * 4 * number)
    evaluate_model()


def register_model() -> ModelVersion:
    """Register the model in `artifacts/model/` as the next version and the challenger."""
    evaluate_model()
    return register(RegisterParams(model=NAME))


def evaluate_model() -> None:
    """Evaluate the model in `artifacts/model/`, and leave its record, as `train` and `evaluate` do."""
    classifier, held_out = Classifier(paths.MODEL), held_out_images(pd.read_csv(paths.SPLITS))
    predicted = np.stack(list(classifier.probabilities_of(paths.DATA / path for path in held_out["path"])))
    probabilities = np.nan_to_num(predicted)  # some models are broken on purpose
    actual = np.array([tiny.LABELS.index(label) for label in held_out["label"]])
    metrics = {"subset": "test", "images": len(held_out)} | classification_metrics(actual, probabilities, BINS)
    write_tables(metrics, held_out, actual, probabilities, list(tiny.LABELS))
    tags = lineage.tags() | {"weights": "none", "model.sha256": classifier.digest}
    record = {"tags": tags, "params": lineage.params_record(), "versions": lineage.versions()}
    paths.RUN.write_text(json.dumps(record))


def make_champion(number: object, action: str = "promote") -> None:
    """Make a version champion as the commands do."""
    with tracking.store():
        transition.change_champion(
            NAME, str(number), action, "a test", transition.current_champion(NAME), {"version": str(number)}
        )


def promote_version(number: str) -> Blessing:
    """Promote a version by the current params, if it passes the gate."""
    params = load_params()
    return promote(params.promote, params.evaluate, NAME, number, notify=lambda check: None)


def aliases() -> dict[str, str]:
    """Return the versions that are champion and previous champion, by alias."""
    current = registry.aliases(NAME)
    return {alias: current[alias] for alias in ("champion", "previous_champion") if alias in current}


def assert_consistent() -> str:
    """Assert that ledger and aliases agree, no entry is open and the champion loads; returns the champion."""
    with tracking.store():
        assert audit_log.entries(NAME, audit_log.OPEN) == []
        stack = audit_log.champions(audit_log.finished_entries(NAME))
        assert aliases() == dict(zip(("champion", "previous_champion"), stack[:-3:-1], strict=False))
        transition.check_loads(NAME, stack[-1])
    return stack[-1]
