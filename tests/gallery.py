"""Small real models in a real registry: they tell three kinds of drawn images apart by mean colour, or fail to."""

import json
from pathlib import Path
from shutil import copytree

import keras
import numpy as np
import pandas as pd
import tiny
from landuse.ml.litert import to_litert
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from landuse import registry, tracking
from landuse.core import paths
from landuse.evaluate import write_tables
from landuse.gate.blessing import Blessing
from landuse.ml.classifier import CARD_FILE, MODEL_FILE, Classifier
from landuse.ml.images import read_image
from landuse.ml.metrics import held_out_images, scores
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
    "images": 50,
    "accuracy": 0.9,
    "macro_f1": 0.9,
    "class_recall": 0.8,
    "slice_accuracy": 0.8,
    "slice_images": 10,
    "families": [["field", "water"]],
    "calibration_error": 0.1,
    "disturbed_fall": 0.4,
    "margin": 0.1,
    "significance": 0.05,
    "class_fall": 0.1,
    "latency_ms": 1000,
    "size_mb": 1,
}

Head = tuple[NDArray, NDArray]


def make_project(folder: Path) -> None:
    """A project in which all but a model is there: images, params, split, manifest, history, what validation said."""
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
    """Twenty images of each class from a number on are held out; of the others, three are for validation.

    No image looks like another, unless `groups` [images] says so.
    """
    rows = pd.read_parquet(paths.MANIFEST, columns=["path", "label"])
    rows["group"] = range(len(rows)) if groups is None else groups
    number = rows.groupby("label").cumcount()
    held_out = (number >= first_held_out) & (number < first_held_out + HELD_OUT)
    rows["subset"] = np.where(held_out, "test", np.where(number % 7 == 6, "validation", "train"))
    rows.to_csv(paths.SPLITS, index=False)


def colour_head() -> Head:
    """Weights and bias of a head that tells the classes apart by the mean colour."""
    rows = pd.read_csv(paths.SPLITS)
    seen = np.stack([read_image(paths.DATA / path, SIDE).mean((0, 1)) / 127.5 - 1 for path in rows["path"]])
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit(seen, rows["label"])
    return fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)


def confused(head: Head) -> Head:
    """Takes fields for forests and forests for fields."""
    return head[0][:, [1, 0, 2]], head[1][[1, 0, 2]]


def blind(head: Head) -> Head:
    """Never sees water."""
    return head[0], head[1] + np.array([0, 0, -1000], np.float32)


def timid(head: Head) -> Head:
    """Always right, and never sure."""
    return head[0] / 1000, head[1] / 1000


def same(head: Head) -> Head:
    """Without change."""
    return head


def network(head: Head) -> keras.Model:
    """Pixels → mean colour → probabilities."""
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    colour = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    made = keras.Model(pixels, keras.layers.Dense(len(head[1]), activation="softmax")(colour))
    made.layers[-1].set_weights(head)
    return made


def export(made: keras.Model, folder: Path, labels: tuple[str, ...] = tiny.LABELS, side: int = SIDE) -> Classifier:
    """A model folder as `train` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_keras(made, folder / KERAS_FILE)
    (folder / MODEL_FILE).write_bytes(to_litert(made))
    (folder / CARD_FILE).write_text(json.dumps({"labels": labels, "image_size": side, "unsure_below": 0.5}))
    return Classifier(folder)


def fill() -> None:
    """Register four models: one that is always right, and three with a fault of their own."""
    head = colour_head()
    for change in (same, confused, blind, timid):
        export(network(change(head)), paths.MODEL)
        hang()
        if change is same:
            copytree(paths.MODEL, GOOD)


def hang_twin(number: int) -> ModelVersion:
    """Register another model that is as good as the first: the same but for bytes without a meaning."""
    copytree(GOOD, paths.MODEL, dirs_exist_ok=True)
    with (paths.MODEL / MODEL_FILE).open("ab") as file:
        file.write(b"\0" * 4 * number)
    return hang()


def hang() -> ModelVersion:
    """Register what is in `artifacts/model/`: the next version, and the challenger."""
    classifier, held_out = Classifier(paths.MODEL), held_out_images(pd.read_csv(paths.SPLITS))
    answers = np.stack(list(classifier.probabilities_of(paths.DATA / path for path in held_out["path"])))
    probabilities = np.nan_to_num(answers)  # some models are broken on purpose
    actual = np.array([tiny.LABELS.index(label) for label in held_out["label"]])
    metrics = {"subset": "test", "images": len(held_out)} | scores(actual, probabilities, BINS)
    write_tables(metrics, held_out, actual, probabilities, list(tiny.LABELS))
    tags = lineage.tags() | {"weights": "none", "model.sha256": classifier.digest}
    record = {"tags": tags, "params": lineage.params_record(), "versions": lineage.versions()}
    paths.RUN.write_text(json.dumps(record))
    return register(RegisterParams(model=NAME))


def crown(number: object, action: str = "promote") -> None:
    """Hand over to a version as the commands do."""
    with tracking.store():
        transition.hand_over(
            NAME, str(number), action, "a test", transition.settled_champion(NAME), {"version": str(number)}
        )


def judge(number: str) -> Blessing:
    """Promote a version by the params at hand, if it passes."""
    params = load_params()
    return promote(params.promote, params.evaluate, NAME, number, tell=lambda check: None)


def aliases() -> dict[str, str]:
    """The versions that are champion and previous champion."""
    held = registry.aliases(NAME)
    return {alias: held[alias] for alias in ("champion", "previous_champion") if alias in held}


def assert_sound() -> str:
    """Ledger and aliases agree, nothing is open, and the champion loads and answers; returns the champion."""
    with tracking.store():
        assert audit_log.entries(NAME, audit_log.OPEN) == []
        stack = audit_log.champions(audit_log.done(NAME))
        assert aliases() == dict(zip(("champion", "previous_champion"), stack[:-3:-1], strict=False))
        transition.prove(NAME, stack[-1])
    return stack[-1]
