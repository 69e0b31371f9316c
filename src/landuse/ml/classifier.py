"""The exported model at work: the one place that turns images into predictions. Needs no TensorFlow."""

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

from landuse.core.files import opened, read_record
from landuse.core.streams import native_stderr_muted
from landuse.ml.images import cores, map_ahead, read_image

MODEL_FILE, INT8_FILE = "model.tflite", "model.int8.tflite"
CARD_FILE = "model.json"
PROBABILITIES, EMBEDDING = "probabilities", "embedding"
TOP = 5
TOLERANCE = 1e-3  # in a probability, between files and copies of one model
CHECKED_IMAGES = 32  # on so many they are compared


class Candidate(BaseModel):
    """A class that an image may show."""

    label: str
    probability: float


class Prediction(BaseModel):
    """What the model says of one image: the same record in files, over HTTP and from the registered model.

    `unsure` where the confidence is below the one from which the model may be trusted; `top` holds up to five classes.
    """

    label: str
    confidence: float
    unsure: bool
    top: list[Candidate]
    probabilities: dict[str, float]


class LiteModel:
    """A LiteRT model of one input, for any number of threads: as many interpreters as there are cores.

    An interpreter is started when all others are at work; beyond that, callers wait for one. Raises ValueError where
    the flatbuffer is none.
    """

    def __init__(self, flatbuffer: bytes) -> None:
        self.flatbuffer = flatbuffer
        self.free: LifoQueue[Interpreter | None] = LifoQueue()
        for _ in range(cores() - 1):
            self.free.put(None)
        self.free.put(start_interpreter(flatbuffer))

    def __call__(self, item: NDArray) -> NDArray:
        """The probabilities, or whatever is the only output, for one item; both without the batch dimension."""
        return main_output(self.outputs(item))

    def outputs(self, item: NDArray) -> dict[str, NDArray]:
        """Every output by its name."""
        interpreter = self.free.get()
        try:
            interpreter = interpreter or start_interpreter(self.flatbuffer)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], item[np.newaxis])
            interpreter.invoke()
            found = interpreter.get_signature_runner().get_output_details()
            return {name: interpreter.get_tensor(details["index"])[0] for name, details in found.items()}
        finally:
            self.free.put(interpreter)


def main_output(outputs: dict[str, NDArray]) -> NDArray:
    """The probabilities among the outputs of a network, or its only output."""
    return outputs[PROBABILITIES] if PROBABILITIES in outputs else next(iter(outputs.values()))


def start_interpreter(flatbuffer: bytes) -> Interpreter:
    """A LiteRT interpreter with one thread: throughput comes from several interpreters side by side."""
    with native_stderr_muted():
        interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


def unsure_key(int8: bool) -> str:
    """Where `model.json` has the confidence below which the one or the other file is unsure."""
    return "int8_unsure_below" if int8 else "unsure_below"


def digest(folder: Path, file: str = MODEL_FILE) -> str:
    """The sha256 of a model file of a folder, and of the card."""
    return hashlib.sha256((folder / file).read_bytes() + (folder / CARD_FILE).read_bytes()).hexdigest()


class Classifier:
    """An exported model folder: `model.tflite` and `model.json` with labels, input size and trusted confidence.

    With `int8`, `model.int8.tflite` answers in its place. Models of before there was its trusted confidence have None
    as `unsure_below`, and give probabilities only.

    `megabytes` is the size of the model file, `digest` the sha256 of that file and the card.
    """

    def __init__(self, folder: Path, int8: bool = False) -> None:
        self.card: dict[str, Any] = read_record(folder / CARD_FILE)
        self.labels: list[str] = self.card["labels"]
        self.image_size: int = self.card["image_size"]
        self.unsure_below: float | None = self.card.get(unsure_key(int8))
        with opened(folder / (INT8_FILE if int8 else MODEL_FILE)) as path:
            flatbuffer = path.read_bytes()
            self.model = LiteModel(flatbuffer)
        self.megabytes = len(flatbuffer) / 1e6
        self.digest = digest(folder, path.name)

    def probabilities(self, image: Path | BinaryIO) -> NDArray[np.float32]:
        """Probabilities [classes] of one image, in the order of `labels`. Raises LanduseError if unreadable."""
        return self.model(read_image(image, self.image_size))

    def probabilities_of(self, images: Iterable[Path | BinaryIO]) -> Iterator[NDArray[np.float32]]:
        """The same for many images, in order, on all cores, in flat memory."""
        return map_ahead(self.probabilities, images)

    def predict(self, image: Path | BinaryIO) -> Prediction:
        """The prediction for one image file or its bytes. Raises LanduseError if unreadable."""
        return self.prediction(self.probabilities(image))

    def look(self, image: Path | BinaryIO) -> tuple[Prediction, NDArray[np.float32] | None]:
        """The prediction, and the embedding [channels] it was made from; None where the model does not tell that."""
        outputs = self.model.outputs(read_image(image, self.image_size))
        return self.prediction(main_output(outputs)), outputs.get(EMBEDDING)

    def prediction(self, numbers: NDArray[np.float32]) -> Prediction:
        """Probabilities [classes] in words."""
        probabilities = dict(zip(self.labels, numbers.tolist(), strict=True))
        ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
        confidence = probabilities[ranked[0]]
        return Prediction(
            label=ranked[0],
            confidence=confidence,
            unsure=confidence < self.unsure_below,
            top=[Candidate(label=label, probability=probabilities[label]) for label in ranked[:TOP]],
            probabilities=probabilities,
        )


def latencies(classifier: Classifier, images: list[Path], runs: int) -> NDArray[np.float64]:
    """Milliseconds from an image file to its probabilities, one image at a time on one core."""
    classifier.probabilities(images[0])
    times = []
    for index in range(runs):
        start = perf_counter()
        classifier.probabilities(images[index % len(images)])
        times.append((perf_counter() - start) * 1000)
    return np.array(times)
