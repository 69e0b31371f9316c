"""Conversion of the network to LiteRT flatbuffers in float32 and int8."""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize.calibrator import Calibrator, add_intermediate_tensors
from tensorflow.lite.tools import flatbuffer_utils

from landuse.core.streams import mute_native_stderr
from landuse.ml.network import INPUT

ConcreteFunction: TypeAlias = tf.types.experimental.ConcreteFunction

ONLY_OUTPUT = "output_0"


def trace(network: keras.Model) -> ConcreteFunction:
    """Trace the network in inference mode as a TensorFlow graph with batch size 1: a function of [1, …]."""
    shape = (1, *network.input_shape[1:])
    function = tf.function(partial(network, training=False), autograph=False)
    return function.get_concrete_function(tf.TensorSpec(shape, network.inputs[0].dtype, INPUT))


def to_litert(network: keras.Model, graph: ConcreteFunction | None = None) -> bytes:
    """Convert the network to a float32 LiteRT flatbuffer with batch size 1.

    It is converted as a frozen graph, which takes half the time of a SavedModel but loses the output names.
    `graph` is the result of `trace`, to avoid tracing again.
    """
    graph = graph or trace(network)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], network)
    converter.experimental_lower_to_saved_model = False
    with mute_native_stderr():
        flatbuffer = converter.convert()
    return add_signature(flatbuffer, sorted(network.output) if isinstance(network.output, dict) else [ONLY_OUTPUT])


def add_signature(flatbuffer: bytes, outputs: list[str]) -> bytes:
    """Add a serving signature to a LiteRT flatbuffer that names its outputs, given in their order."""
    model = schema.ModelT.InitFromPackedBuf(flatbuffer)
    graph, signature = model.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.inputs, signature.outputs = tensor_maps([INPUT], graph.inputs), tensor_maps(outputs, graph.outputs)
    model.signatureDefs = [signature]
    converted: bytes = flatbuffer_utils.convert_object_to_bytearray(model)
    return converted


def tensor_maps(names: list[str], tensors: NDArray[np.int32]) -> list[schema.TensorMapT]:
    """Map names to tensors of a flatbuffer, as a signature lists them."""
    entries = [schema.TensorMapT() for _ in names]
    for entry, name, tensor in zip(entries, names, tensors, strict=True):
        entry.name, entry.tensorIndex = name, tensor
    return entries


def to_int8(flatbuffer: bytes, examples: Sequence[NDArray[np.uint8]]) -> bytes:
    """Quantize a LiteRT flatbuffer to int8, keeping the types of its input and output.

    The range of every activation is calibrated on the examples [size, size, 3]. `tf.lite.TFLiteConverter` would
    convert the network again before it does the same; quantizing the flatbuffer is faster.
    """
    calibrator = Calibrator(add_intermediate_tensors(flatbuffer))
    with mute_native_stderr():
        quantized: bytes = mlir_quantize(calibrator.calibrate(lambda: ([example[np.newaxis]] for example in examples)))
    return quantized
