"""Depthwise channels of an exported model that carry nothing: silent ones are the same everywhere, on every image.

The weights of a channel do not tell. One whose inputs are zero, or that ReLU6 cuts off, is silent with any weights.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from landuse.core.streams import mute_native_stderr
from landuse.ml.classifier import DEAD
from landuse.ml.images import cores, parallel_map, read_image

DEPTHWISE, ACTIVATION = "DEPTHWISE_CONV_2D", "HARD_SWISH"
SILENT = 1e-5  # largest difference within the output of a silent channel, where ReLU6 leaves 0 to 6
SILENT_INT8 = 0  # the same in int8, in steps of the quantization


class Span(NamedTuple):
    """The smallest and the largest output of each channel [channels] of a layer."""

    low: NDArray[Any]
    high: NDArray[Any]


def silent_channels(model: Path, images: list[Path], image_size: int) -> list[NDArray[np.bool_]]:
    """Return which channels [channels] are silent on these images, for each depthwise layer in the network's order.

    BatchNorm and activation (ReLU, ReLU6, hard swish) belong to a layer. Raises LanduseError if an image cannot be
    read. The swish of EfficientNet is not watched, only what goes into it.
    """
    flatbuffer = model.read_bytes()
    parts = [images[start :: cores()] for start in range(min(cores(), len(images)))]
    interpreters = [start_watched(flatbuffer) for _ in parts]
    spans = parallel_map(lambda pair: watch(*pair, image_size), zip(interpreters, parts, strict=True))
    return [is_silent(merge(layer)) for layer in zip(*spans, strict=True)]


def dead_channels(model: Path) -> list[NDArray[np.bool_]]:
    """Return which depthwise filters [filters] have weights below 0.001 only, for each layer in the network's order.

    int8 weights count as what they stand for.
    """
    interpreter = start_watched(model.read_bytes())
    kernels = [op["inputs"][1] for op in interpreter._get_ops_details() if op["op_name"] == DEPTHWISE]
    return [largest_weights(interpreter, kernel) < DEAD for kernel in kernels]


def largest_weights(interpreter: Interpreter, kernel: int) -> NDArray[np.float64]:
    """Return the largest absolute weight of each filter [filters] of a kernel [1, height, width, filters]."""
    details = next(tensor for tensor in interpreter.get_tensor_details() if tensor["index"] == kernel)
    scales = details["quantization_parameters"]["scales"]
    largest: NDArray[np.float64] = np.abs(interpreter.get_tensor(kernel).astype(float)).max(axis=(0, 1, 2))
    return largest * scales if len(scales) else largest


def start_watched(flatbuffer: bytes) -> Interpreter:
    """Start a LiteRT interpreter that keeps the outputs of all layers."""
    with warnings.catch_warnings(), mute_native_stderr():
        warnings.filterwarnings("ignore", ".*preserve_all_tensors.*")  # it needs more memory
        interpreter = Interpreter(model_content=flatbuffer, num_threads=1, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    return interpreter


def watch(interpreter: Interpreter, images: list[Path], image_size: int) -> list[Span]:
    """Run images through a model; return the span of every depthwise layer over all of them."""
    outputs = depthwise_outputs(interpreter._get_ops_details())
    seen = map(partial(spans_of, interpreter, outputs), (read_image(image, image_size) for image in images))
    return [merge(layer) for layer in zip(*seen, strict=True)]


def depthwise_outputs(operations: list[dict[str, Any]]) -> list[int]:
    """Return the output tensor of every depthwise layer: that of its hard swish, as LiteRT fuses other activations."""
    activated = {op["inputs"][0]: op["outputs"][0] for op in operations if op["op_name"] == ACTIVATION}
    outputs = [op["outputs"][0] for op in operations if op["op_name"] == DEPTHWISE]
    return [activated.get(output, output) for output in outputs]


def spans_of(interpreter: Interpreter, outputs: list[int], pixels: NDArray[np.uint8]) -> list[Span]:
    """Run one image [size, size, 3] through a model; return the span of every depthwise layer."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[np.newaxis])
    interpreter.invoke()
    tensors = map(interpreter.get_tensor, outputs)
    return [Span(tensor.min(axis=(0, 1, 2)), tensor.max(axis=(0, 1, 2))) for tensor in tensors]


def merge(spans: tuple[Span, ...]) -> Span:
    """Return the span over several ones of one layer."""
    low, high = zip(*spans, strict=True)
    return Span(np.minimum.reduce(low), np.maximum.reduce(high))


def is_silent(span: Span) -> NDArray[np.bool_]:
    """Return which channels [channels] are the same everywhere."""
    limit = SILENT_INT8 if span.low.dtype.kind == "i" else SILENT
    silent: NDArray[np.bool_] = span.high.astype(float) - span.low.astype(float) <= limit
    return silent
