"""The exported model at work: the one place that turns images into probabilities. Needs no TensorFlow."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import local
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from landuse.dataset import map_ahead, read_image
from landuse.files import made, read_record
from landuse.quiet import native_stderr_muted

MODEL_FILE = "model.tflite"
CARD_FILE = "model.json"


class LiteModel:
    """A LiteRT model of one input and one output. Each thread that calls it gets an interpreter of its own."""

    def __init__(self, flatbuffer: bytes) -> None:
        self.flatbuffer = flatbuffer
        self.thread = local()

    def __call__(self, item: NDArray) -> NDArray:
        """The output for one item, both without the batch dimension."""
        if not hasattr(self.thread, "interpreter"):
            self.thread.interpreter = start_interpreter(self.flatbuffer)
        interpreter = self.thread.interpreter
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], item[np.newaxis])
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


def start_interpreter(flatbuffer: bytes) -> Interpreter:
    """A LiteRT interpreter with one thread: throughput comes from several interpreters side by side."""
    with native_stderr_muted():
        interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


class Classifier:
    """An exported model folder: `model.tflite` and `model.json` with its labels and input size.

    `size` is that of the model file in bytes, `digest` its sha256.
    """

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = read_record(folder / CARD_FILE)
        self.labels: list[str] = self.card["labels"]
        self.image_size: int = self.card["image_size"]
        flatbuffer = made(folder / MODEL_FILE).read_bytes()
        self.size, self.digest = len(flatbuffer), hashlib.sha256(flatbuffer).hexdigest()
        self.model = LiteModel(flatbuffer)

    def probabilities(self, image: Path | BinaryIO) -> NDArray[np.float32]:
        """Probabilities [classes] of one image, in the order of `labels`. Raises LanduseError if unreadable."""
        return self.model(read_image(image, self.image_size))

    def probabilities_of(self, images: Iterable[Path | BinaryIO]) -> Iterator[NDArray[np.float32]]:
        """The same for many images, in order, on all cores, in flat memory."""
        return map_ahead(self.probabilities, images)


def latencies(classifier: Classifier, images: list[Path], runs: int) -> NDArray[np.float64]:
    """Milliseconds from an image file to its probabilities, one image at a time on one core."""
    classifier.probabilities(images[0])
    times = []
    for index in range(runs):
        start = perf_counter()
        classifier.probabilities(images[index % len(images)])
        times.append((perf_counter() - start) * 1000)
    return np.array(times)
