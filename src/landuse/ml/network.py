"""The network: a MobileNet backbone and a softmax head, and where it may be cut."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from landuse.core.errors import LanduseError, one_line
from landuse.core.files import made
from landuse.core.paths import WEIGHTS
from landuse.params import ExtractParams

Network = keras.Model

INITIAL_SEED = 1
MOMENTUM = 0.9  # of BatchNorm's statistics: they follow within the few steps that a small data set gives
HEAD, ALL = "head", "all"
INPUT = "pixels"
TURNED = {1: 1, 2: (1, 2), 3: 2}  # after swapping rows and columns where the turn is odd: which axes to flip
KERAS_FILE = "model.keras"


def device() -> str:
    """`GPU` where TensorFlow sees one, else `CPU`: the one rule for what is done otherwise on a GPU."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


@contextmanager
def training_precision() -> Iterator[None]:
    """What is built within calculates in float16 and keeps float32 weights on a GPU; on a CPU all is float32."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if device() == "GPU" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def weights_file(name: str) -> Path:
    """The file behind `extract.weights`: `none`, `imagenet` or one of your own in `weights/`, or an absolute path."""
    return WEIGHTS / name


def build_backbone(params: ExtractParams) -> keras.Model:
    """A MobileNet without its head: [n, size, size, 3] pixels scaled to -1..1 → [n, size/32, size/32, channels].

    Raises LanduseError where the weights are missing, cannot be downloaded, or belong to another network.
    """
    constructor = {"mobilenet_v2": keras.applications.MobileNetV2, "mobilenet": keras.applications.MobileNet}
    shape = (params.image_size, params.image_size, 3)
    keras.utils.set_random_seed(INITIAL_SEED)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*freshly-initialized.*")
            return constructor[params.backbone](
                input_shape=shape,
                alpha=params.alpha,
                include_top=False,
                weights=keras_weights(params.weights),
                name=params.backbone,
            )
    except Exception as error:  # Keras raises bare Exception where a download fails
        reason = one_line(error).partition(" This usually means")[0][:160]  # Keras guesses on, at length
        raise LanduseError(f"extract.weights = {params.weights}: {weights_remedy(params)} ({reason})") from None


def keras_weights(name: str) -> str | None:
    """`extract.weights` as Keras takes it."""
    return {"none": None, "imagenet": "imagenet"}.get(name, str(weights_file(name).absolute()))


def weights_remedy(params: ExtractParams) -> str:
    """What to do about weights that could not be loaded."""
    if params.weights == "imagenet":
        return "cannot be had; go online once, take a width and size that Keras publishes, or name a weights file"
    if weights_file(params.weights).is_dir():
        return f"{weights_file(params.weights)} is a folder; name a file in it"
    if not weights_file(params.weights).is_file():
        return f"{weights_file(params.weights)} is not there; name a file in weights/, an absolute path, or none"
    return f"does not fit {params.backbone} with extract.alpha = {params.alpha}; change the one or the other"


def block_input(backbone: keras.Model, block: str) -> keras.KerasTensor:
    """What flows into a block, such as `block_14`: the one place between blocks where no shortcut crosses."""
    number = int(block.removeprefix("block_"))
    names = {layer.name for layer in backbone.layers}
    first = (f"{block}_expand", f"conv_pad_{number}", f"conv_dw_{number}")
    return next(backbone.get_layer(name).input for name in first if name in names)


def prefix(backbone: keras.Model, cut: str) -> keras.Model:
    """What runs before the cut: uint8 RGB [n, size, size, 3] → activations, pooled to [n, channels] for the head."""
    pixels, scaled = scaled_input(backbone)
    if cut == HEAD:
        return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(backbone(scaled)))
    return keras.Model(pixels, keras.Model(backbone.input, block_input(backbone, cut))(scaled))


def pooled_suffix(backbone: keras.Model, cut: str) -> keras.Model:
    """From the activations at a block to the pooled embedding [n, channels]."""
    return keras.Model(block_input(backbone, cut), keras.layers.GlobalAveragePooling2D()(backbone.output))


def scaled_input(backbone: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """An input of uint8 RGB pixels, and the same scaled to the -1..1 that MobileNets were trained on."""
    pixels = keras.Input(backbone.input_shape[1:], dtype="uint8", name=INPUT)
    return pixels, keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)


def build_network(backbone: keras.Model, classes: int, views: int = 1) -> keras.Model:
    """The whole classifier: uint8 RGB [n, size, size, 3] → probabilities [n, classes].

    With more views, it looks at so many flips and quarter turns of an image and averages what it sees.
    """
    pixels, scaled = scaled_input(backbone)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(backbone(all_views(scaled, views)))
    if views > 1:
        pooled = keras.ops.mean(keras.ops.reshape(pooled, (views, -1, pooled.shape[-1])), axis=0)
    head = keras.layers.Dense(classes, activation="softmax", dtype="float32", name=HEAD)
    return keras.Model(pixels, head(pooled), name="landuse")


def backbone_of(network: keras.Model) -> keras.Model:
    """The backbone within a network that `build_network` gave."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def all_views(images: keras.KerasTensor, views: int) -> keras.KerasTensor:
    """The first of the eight dihedral views of `dataset.view`, one batch after the other: [views × n, …]."""
    seen = []
    for number in range(views):
        mirrored = keras.ops.flip(images, axis=2) if number % 2 else images
        turns = number // 2
        turned = keras.ops.transpose(mirrored, (0, 2, 1, 3)) if turns % 2 else mirrored
        seen.append(keras.ops.flip(turned, axis=TURNED[turns]) if turns else turned)
    return keras.ops.concatenate(seen, axis=0) if views > 1 else images


def embedder(network: keras.Model, cut: str) -> keras.Model:
    """What runs between the cut and the head, on the same weights as the network: activations → [n, channels]."""
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
    """Mark what is trained: all that follows the cut, BatchNorm included.

    What runs before the cut stays as it was learned, in inference mode.
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


def saved_probabilities(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """What the Keras file of a model folder says of pixels [n, size, size, 3] uint8: probabilities [n, classes].

    No code that comes with the file is run. Raises LanduseError where it cannot be loaded.
    """
    path = made(folder / KERAS_FILE)
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged file leads to
        raise LanduseError(f"{path.name} cannot be loaded: {one_line(error, 160)}") from None
    return network.predict(pixels, verbose=0)
