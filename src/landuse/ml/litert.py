"""The network as LiteRT flatbuffers, in float32 and in int8."""

from collections.abc import Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize.calibrator import Calibrator, add_intermediate_tensors
from tensorflow.lite.tools import flatbuffer_utils

from landuse.core.streams import native_stderr_muted
from landuse.ml.network import INPUT

Traced = tf.types.experimental.ConcreteFunction

ONLY_OUTPUT = "output_0"


def traced(network: keras.Model) -> Traced:
    """The network in inference mode as a TensorFlow graph for one image at a time: a function of [1, …]."""
    shape = (1, *network.input_shape[1:])
    function = tf.function(partial(network, training=False), autograph=False)
    return function.get_concrete_function(tf.TensorSpec(shape, network.inputs[0].dtype, INPUT))


def to_litert(network: keras.Model, graph: Traced | None = None) -> bytes:
    """The network as a LiteRT flatbuffer for one image at a time: float32 throughout.

    It is converted as a frozen graph, which takes half the time of a SavedModel and loses the names of the outputs.
    `graph` is the network as `traced` gives it, where that is at hand.
    """
    graph = graph or traced(network)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], network)
    converter.experimental_lower_to_saved_model = False
    with native_stderr_muted():
        flatbuffer = converter.convert()
    return with_names(flatbuffer, sorted(network.output) if isinstance(network.output, dict) else [ONLY_OUTPUT])


def with_names(flatbuffer: bytes, outputs: list[str]) -> bytes:
    """A LiteRT flatbuffer whose outputs, in the order they stand in, can be asked for by these names."""
    found = schema.ModelT.InitFromPackedBuf(flatbuffer)
    graph, signature = found.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.inputs, signature.outputs = named([INPUT], graph.inputs), named(outputs, graph.outputs)
    found.signatureDefs = [signature]
    return flatbuffer_utils.convert_object_to_bytearray(found)


def named(names: list[str], tensors: NDArray[np.int32]) -> list[schema.TensorMapT]:
    """Tensors of a flatbuffer with the names they can be asked for by."""
    found = [schema.TensorMapT() for _ in names]
    for entry, name, tensor in zip(found, names, tensors, strict=True):
        entry.name, entry.tensorIndex = name, tensor
    return found


def to_int8(flatbuffer: bytes, examples: Sequence[np.ndarray]) -> bytes:
    """A LiteRT flatbuffer that calculates in int8 between the same input and output.

    The range of every activation is that on the examples [size, size, 3]. What `tf.lite.TFLiteConverter` does to a
    network that it has converted is done here to the flatbuffer itself: to convert the network again takes longer.
    """
    calibrator = Calibrator(add_intermediate_tensors(flatbuffer))
    with native_stderr_muted():
        return mlir_quantize(calibrator.calibrate(lambda: ([example[np.newaxis]] for example in examples)))
