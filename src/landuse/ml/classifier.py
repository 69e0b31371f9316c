"""Inference with the exported model: the one place that turns images into predictions. Needs no TensorFlow."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import LifoQueue
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from pydantic import BaseModel

from landuse.core.errors import LanduseError
from landuse.core.files import read_record, reading
from landuse.core.streams import mute_native_stderr
from landuse.ml.images import cores, parallel_map, read_image

MODEL_FILE, INT8_FILE = "model.tflite", "model.int8.tflite"
CARD_FILE = "model.json"
PROBABILITIES, EMBEDDING = "probabilities", "embedding"
TOP = 5
TOLERANCE = 1e-3  # largest difference in a probability between file formats and copies of one model
DEAD = 1e-3  # largest absolute weight below which a depthwise filter counts as dead
CHECKED_IMAGES = 32  # number of images for such a comparison


class Candidate(BaseModel):
    """A class with its probability."""

    label: str
    probability: float


class Prediction(BaseModel):
    """The prediction for one image: the same record in files, over HTTP and from the registered model.

    `unsure` is set if the confidence is below the model's threshold; `top` holds the up to five most likely classes.
    """

    label: str
    confidence: float
    unsure: bool
    top: list[Candidate]
    probabilities: dict[str, float]


class LiteModel:
    """A thread-safe LiteRT model with one input, backed by a pool of one interpreter per core.

    Interpreters start on demand; when all are busy, callers wait. Raises ValueError for an invalid flatbuffer.
    """

    def __init__(self, flatbuffer: bytes) -> None:
        self.flatbuffer = flatbuffer
        self.idle: LifoQueue[Interpreter | None] = LifoQueue()
        for _ in range(cores() - 1):
            self.idle.put(None)
        self.idle.put(start_interpreter(flatbuffer))

    def __call__(self, item: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probabilities, or else the only output, for one item; both without batch dimension."""
        return main_output(self.outputs(item))

    def outputs(self, item: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Return all outputs by name, for one item."""
        interpreter = self.idle.get()
        try:
            interpreter = interpreter or start_interpreter(self.flatbuffer)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], item[np.newaxis])
            interpreter.invoke()
            outputs = interpreter.get_signature_runner().get_output_details()
            return {name: interpreter.get_tensor(details["index"])[0] for name, details in outputs.items()}
        finally:
            self.idle.put(interpreter)


def main_output(outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the probabilities among the outputs, or else the only output."""
    return outputs[PROBABILITIES] if PROBABILITIES in outputs else next(iter(outputs.values()))


def start_interpreter(flatbuffer: bytes) -> Interpreter:
    """Start a single-threaded LiteRT interpreter: several of them side by side give the throughput."""
    with mute_native_stderr():
        interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


def unsure_key(int8: bool) -> str:
    """Return the key in `model.json` of the confidence threshold of the float32 or int8 file."""
    return "int8_unsure_below" if int8 else "unsure_below"


def model_digest(folder: Path, file: str = MODEL_FILE) -> str:
    """Return the sha256 of a model file in a folder together with its card."""
    return hashlib.sha256((folder / file).read_bytes() + (folder / CARD_FILE).read_bytes()).hexdigest()


def read_labels(card: dict[str, Any], path: Path) -> list[str]:
    """Return the labels of a card. Raises LanduseError if one is not printable text: terminals obey some characters."""
    labels = card["labels"] if isinstance(card["labels"], list) else [card["labels"]]
    for label in labels:
        if not isinstance(label, str) or not label.isprintable():
            raise LanduseError(f"{path} is damaged, its label {label!r} is not printable: dvc repro makes it again")
    return labels


class Classifier:
    """An exported model folder: `model.tflite`, and `model.json` with labels, input size and confidence threshold.

    With `int8`, it runs `model.int8.tflite` instead. Models from before the threshold existed have None as
    `unsure_below` and give probabilities only.

    `megabytes` is the size of the model file, `digest` the sha256 of that file and the card.
    """

    def __init__(self, folder: Path, int8: bool = False) -> None:
        self.card: dict[str, Any] = read_record(folder / CARD_FILE)
        self.labels = read_labels(self.card, folder / CARD_FILE)
        self.image_size: int = self.card["image_size"]
        self.unsure_below: float | None = self.card.get(unsure_key(int8))
        with reading(folder / (INT8_FILE if int8 else MODEL_FILE)) as path:
            self.model = LiteModel(path.read_bytes())
        self.megabytes = len(self.model.flatbuffer) / 1e6
        self.digest = model_digest(folder, path.name)

    def probabilities(self, image: Path | BinaryIO) -> NDArray[np.float32]:
        """Return probabilities [classes] of one image, in the order of `labels`. Raises LanduseError if unreadable."""
        return self.model(read_image(image, self.image_size))

    def probabilities_of(self, images: Iterable[Path | BinaryIO]) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities of many images in order, computed on all cores with flat memory."""
        return parallel_map(self.probabilities, images)

    def predict(self, image: Path | BinaryIO) -> Prediction:
        """Predict one image, given as path or file. Raises LanduseError if unreadable."""
        return self.to_prediction(self.probabilities(image))

    def predict_with_embedding(self, image: Path | BinaryIO) -> tuple[Prediction, NDArray[np.float32] | None]:
        """Return the prediction and the embedding [channels], which is None if the model does not output it."""
        outputs = self.model.outputs(read_image(image, self.image_size))
        return self.to_prediction(main_output(outputs)), outputs.get(EMBEDDING)

    def to_prediction(self, values: NDArray[np.float32]) -> Prediction:
        """Convert probabilities [classes] to a prediction. Needs a model with a confidence threshold."""
        probabilities = dict(zip(self.labels, values.tolist(), strict=True))
        ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
        confidence = probabilities[ranked[0]]
        return Prediction(
            label=ranked[0],
            confidence=confidence,
            unsure=confidence < self.unsure_below,
            top=[Candidate(label=label, probability=probabilities[label]) for label in ranked[:TOP]],
            probabilities=probabilities,
        )


def measure_latencies(classifier: Classifier, images: list[Path], runs: int) -> NDArray[np.float64]:
    """Measure the milliseconds from image file to probabilities, for single images on one core, after a warm-up."""
    classifier.probabilities(images[0])
    times = []
    for index in range(runs):
        start = perf_counter()
        classifier.probabilities(images[index % len(images)])
        times.append((perf_counter() - start) * 1000)
    return np.array(times)
