"""The network: a backbone with a softmax head, and the cut between its frozen and trainable parts."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from landuse.core.errors import LanduseError, one_line
from landuse.core.files import require
from landuse.ml.weights import describe_misfit, weights_file
from landuse.params import ExtractParams
from landuse.params.backbones import BACKBONES

Network = keras.Model

INITIAL_SEED = 1
MOMENTUM = 0.9  # of BatchNorm's moving statistics: they adapt within the few steps of a small data set
HEAD, ALL = "head", "all"
INPUT = "pixels"
FLIP_AXES = {1: 1, 2: (1, 2), 3: 2}  # by quarter turns: the axes to flip, for odd turns after a transpose
KERAS_FILE = "model.keras"


def device() -> str:
    """Return `GPU` if TensorFlow sees one, else `CPU`. All code that depends on the device asks here."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


@contextmanager
def training_precision() -> Iterator[None]:
    """Build layers in mixed precision, float16 with float32 weights, on a GPU, and in float32 on a CPU."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if device() == "GPU" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def build_backbone(params: ExtractParams) -> keras.Model:
    """Build a headless network: scaled pixels [n, size, size, 3] → [n, size/32, size/32, channels].

    Raises LanduseError if the weights are missing, cannot be downloaded, or belong to another network.
    """
    spec = BACKBONES[params.backbone]
    options = {"alpha": params.alpha} if spec.widths else {}
    options |= {"include_preprocessing": False} if spec.has_preprocessing else {}
    keras.utils.set_random_seed(INITIAL_SEED)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*freshly-initialized.*")
            return getattr(keras.applications, spec.constructor)(
                input_shape=(params.image_size, params.image_size, 3),
                include_top=False,
                weights=keras_weights(params.weights),
                name=params.backbone,
                **options,
            )
    except Exception as error:  # Keras raises bare Exception if a download fails
        reason = one_line(error).partition(" This usually means")[0][:160]  # drops Keras' lengthy guess at a cause
        raise LanduseError(f"extract.weights = {params.weights}: {weights_remedy(params)} ({reason})") from None


def keras_weights(name: str) -> str | None:
    """Convert `extract.weights` to the `weights` argument of Keras applications."""
    return {"none": None, "imagenet": "imagenet"}.get(name, str(weights_file(name).absolute()))


def weights_remedy(params: ExtractParams) -> str:
    """Suggest a remedy for weights that could not be loaded."""
    if params.weights == "imagenet":
        return "cannot be downloaded; go online once, use a width and size Keras publishes, or name a weights file"
    misfit = describe_misfit(params.weights, params.backbone)
    return misfit or f"does not fit {params.backbone} with extract.alpha = {params.alpha}; change one of the two"


def block_input(backbone: keras.Model, block: str) -> keras.KerasTensor:
    """Return the input of a block, such as `block_14`: the point between blocks that no shortcut crosses."""
    number = int(block.removeprefix("block_"))
    return backbone.get_layer(BACKBONES[backbone.name].first_layers[number - 1]).input


def frozen_prefix(backbone: keras.Model, cut: str) -> keras.Model:
    """Build the part before the cut: uint8 RGB [n, size, size, 3] → activations, pooled [n, channels] at the head."""
    pixels, scaled = scaled_input(backbone)
    if cut == HEAD:
        return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(backbone(scaled)))
    return keras.Model(pixels, keras.Model(backbone.input, block_input(backbone, cut))(scaled))


def pooled_suffix(backbone: keras.Model, cut: str) -> keras.Model:
    """Build the part from the activations at a block to the pooled embedding [n, channels]."""
    return keras.Model(block_input(backbone, cut), keras.layers.GlobalAveragePooling2D()(backbone.output))


def scaled_input(backbone: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return an input of uint8 RGB pixels, and its scaling to the range on which the backbone was trained."""
    pixels, spec = keras.Input(backbone.input_shape[1:], dtype="uint8", name=INPUT), BACKBONES[backbone.name]
    return pixels, keras.layers.Rescaling(spec.scale, offset=spec.offset)(pixels)


def build_network(backbone: keras.Model, classes: int, views: int = 1) -> keras.Model:
    """Build the whole classifier: uint8 RGB [n, size, size, 3] → probabilities [n, classes].

    With `views` > 1, it averages the pooled features over that many flips and quarter turns of the image.
    """
    pixels, scaled = scaled_input(backbone)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(backbone(stack_views(scaled, views)))
    if views > 1:
        pooled = keras.ops.mean(keras.ops.reshape(pooled, (views, -1, pooled.shape[-1])), axis=0)
    head = keras.layers.Dense(classes, activation="softmax", dtype="float32", name=HEAD)
    return keras.Model(pixels, head(pooled), name="landuse")


def backbone_of(network: keras.Model) -> keras.Model:
    """Return the backbone of a network made by `build_network`."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def stack_views(images: keras.KerasTensor, views: int) -> keras.KerasTensor:
    """Stack the first `views` dihedral views, as in `images.view`, one batch after the other: [views × n, …]."""
    batches = []
    for number in range(views):
        mirrored = keras.ops.flip(images, axis=2) if number % 2 else images
        turns = number // 2
        turned = keras.ops.transpose(mirrored, (0, 2, 1, 3)) if turns % 2 else mirrored
        batches.append(keras.ops.flip(turned, axis=FLIP_AXES[turns]) if turns else turned)
    return keras.ops.concatenate(batches, axis=0) if views > 1 else images


def embedder(network: keras.Model, cut: str) -> keras.Model:
    """Build the part between cut and head, sharing the network's weights: activations → [n, channels]."""
    if cut == ALL:
        return keras.Model(network.input, network.get_layer(HEAD).input)
    if cut == HEAD:
        pooled = keras.Input(network.get_layer("pool").output.shape[1:])
        return keras.Model(pooled, pooled)
    backbone = backbone_of(network)
    inner = keras.Model(block_input(backbone, cut), backbone.output)
    start = keras.Input(inner.input_shape[1:])
    return keras.Model(start, network.get_layer("pool")(inner(start)))


def unfreeze(network: keras.Model, cut: str) -> None:
    """Make all layers after the cut trainable, BatchNorm included.

    Layers before the cut keep their weights and run in inference mode.
    """
    backbone = backbone_of(network)
    first = 0 if cut == ALL else len(backbone.layers)
    if cut.startswith("block_"):
        start = block_input(backbone, cut)
        first = 1 + next(i for i, layer in enumerate(backbone.layers) if layer.output is start)
    for index, layer in enumerate(backbone.layers):
        layer.trainable = index >= first
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM


def keras_probabilities(folder: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict pixels [n, size, size, 3] with the Keras file of a model folder: probabilities [n, classes].

    Code embedded in the file is not run. Raises LanduseError if it cannot be loaded.
    """
    path = require(folder / KERAS_FILE)
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises all kinds of errors for a damaged file
        raise LanduseError(f"{path.name} cannot be loaded: {one_line(error, 160)}") from None
    probabilities: NDArray[np.float32] = network.predict(pixels, verbose=0)
    return probabilities
