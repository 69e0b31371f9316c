"""Export the trained network as Keras, LiteRT and int8 LiteRT files, with a model card."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import sha256_of
from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import (
    CARD_FILE,
    CHECKED_IMAGES,
    EMBEDDING,
    INT8_FILE,
    MODEL_FILE,
    PROBABILITIES,
    TOLERANCE,
    Classifier,
    LiteModel,
    unsure_key,
)
from landuse.ml.diagnostics import dead_kernels, depthwise_filters, multiply_adds
from landuse.ml.images import Pixels, evenly_spaced, parallel_map, read_image
from landuse.ml.litert import ConcreteFunction, to_int8, to_litert, trace
from landuse.ml.network import HEAD, KERAS_FILE, backbone_of
from landuse.train.calibration import confidence_threshold

CALIBRATION_IMAGES = 8
PREPROCESSING = (
    "RGB, upright by EXIF, resized to a square with Pillow's bilinear filter, uint8; scaled inside the model"
)


def export(network: keras.Model, facts: dict[str, Any], splits: pd.DataFrame, target_accuracy: float) -> str:
    """Write `artifacts/model/`; return the digest of the LiteRT file and card, which lists those of the other files.

    The same weights, data and split give the same bytes. Raises LanduseError if a probability of the LiteRT file
    differs by more than 0.001 from the network's.
    """
    MODEL.mkdir(parents=True, exist_ok=True)
    save_keras(network, MODEL / KERAS_FILE)
    card = model_card(network, facts, sorted(splits["label"].unique()))
    rows = {subset: splits[splits["subset"] == subset] for subset in ("train", "validation")}
    calibration_images, checked_images = (
        [read_image(DATA / path, card["image_size"]) for path in paths.iloc[evenly_spaced(len(paths), limit)]]
        for paths, limit in ((rows["train"]["path"], CALIBRATION_IMAGES), (rows["validation"]["path"], CHECKED_IMAGES))
    )
    served = keras.Model(network.input, {PROBABILITIES: network.output, EMBEDDING: network.get_layer(HEAD).input})
    graph = trace(served)
    flatbuffer = to_litert(served, graph)
    check_conversion(graph, flatbuffer, checked_images)
    (MODEL / MODEL_FILE).write_bytes(flatbuffer)
    (MODEL / INT8_FILE).write_bytes(to_int8(flatbuffer, calibration_images))
    confidence, correct = int8_predictions(rows["validation"], card)
    threshold = confidence_threshold(confidence, correct, target_accuracy)
    card[unsure_key(int8=True)] = threshold.confidence
    card["int8_sure_accuracy_at_least"] = threshold.accuracy_at_least
    card["validation"] = {
        "images": len(rows["validation"]),
        "accuracy": facts["accuracy"],
        "int8_accuracy": float(correct.mean()),
    }
    card["files"] = {name: sha256_of(MODEL / name) for name in (KERAS_FILE, INT8_FILE)}
    (MODEL / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return Classifier(MODEL).digest


def int8_predictions(images: pd.DataFrame, card: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the confidence of the int8 file for each row (path, label), and whether its prediction is correct."""
    lite = LiteModel((MODEL / INT8_FILE).read_bytes())
    outputs = parallel_map(lambda path: lite(read_image(DATA / path, card["image_size"])), images["path"])
    probabilities = np.stack(list(outputs))
    predicted = np.array(card["labels"])[probabilities.argmax(axis=1)]
    return probabilities.max(axis=1), predicted == images["label"].to_numpy()


def save_keras(network: keras.Model, path: Path) -> None:
    """Save as `.keras` without timestamps and memory addresses, so that retraining gives the same file."""
    network.save(path)
    with zipfile.ZipFile(path) as saved:
        members = {name: saved.read(name) for name in sorted(saved.namelist())}
    members["config.json"] = re.sub(rb', "shared_object_id": \d+', b"", members["config.json"])
    metadata = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps(metadata | {"date_saved": ""}).encode()
    with zipfile.ZipFile(path, "w") as plain:
        for name, content in members.items():
            plain.writestr(zipfile.ZipInfo(name), content)


def model_card(network: keras.Model, facts: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Build the model card: labels, input size, preprocessing, provenance, and diagnostics of the network."""
    backbone = backbone_of(network)
    return {
        "labels": labels,
        "image_size": facts["params"]["image_size"],
        "preprocessing": PREPROCESSING,
        unsure_key(int8=False): facts["unsure_below"],
        "sure_accuracy_at_least": facts["sure_accuracy_at_least"],
        "temperature": facts["temperature"],
        "backbone": facts["params"]["backbone"],
        "alpha": facts["params"]["alpha"],
        "weights": facts["params"]["weights"],
        "weights_sha256": facts["weights_sha256"],
        "unfrozen_from": facts["cut"],
        "data_md5": facts["data_md5"],
        "split_sha256": facts["split_sha256"],
        "averaged_views": facts["averaged_views"],
        "parameters": network.count_params(),
        "trained_parameters": sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
        "multiply_adds": multiply_adds(network, facts["averaged_views"]),
        "dead_kernels": dead_kernels(backbone),
        "depthwise_filters": depthwise_filters(backbone),
    }


def check_conversion(graph: ConcreteFunction, flatbuffer: bytes, images: list[Pixels]) -> None:
    """Raise LanduseError if the converted model and the trained network differ on some images."""
    lite = LiteModel(flatbuffer)
    expected = np.stack([graph(image[np.newaxis])[PROBABILITIES].numpy()[0] for image in images])
    difference = float(np.abs(expected - np.stack([lite(image) for image in images])).max())
    if not difference <= TOLERANCE:
        raise LanduseError(
            f"{MODEL / MODEL_FILE} and the trained network differ by {difference:.2g} in a probability ({TOLERANCE} at "
            "most): the conversion to LiteRT failed; check the weights and the versions of tensorflow and "
            "ai-edge-litert"
        )
