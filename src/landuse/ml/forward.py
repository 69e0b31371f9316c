"""The forward pass through the frozen part of the network: the features of an image, for every view of it."""

import hashlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import MANIFEST
from landuse.ml.classifier import LiteModel
from landuse.ml.images import Pixels, parallel_map, read_image, view
from landuse.ml.litert import to_litert
from landuse.ml.network import HEAD, Network, device, frozen_prefix, pooled_suffix
from landuse.project.lineage import origin

ImageFeatures = tuple[NDArray[np.float32], NDArray[Any]]  # of an image: embedding [channels], activations [views, …]
Contents = list[tuple[str, Path]]  # sha256 and path of images
ForwardPass = Callable[[Contents], Iterator[ImageFeatures]]  # raises LanduseError as `read_content` does

GPU_BATCH = 32
CODE = ("forward", "network", "weights", "litert", "classifier", "images", "image_formats")  # modules of this package
PACKAGES = frozenset({"tensorflow-cpu", "tensorflow", "keras", "ai-edge-litert", "numpy", "pillow"})


def forward_origin() -> dict[str, str]:
    """Return what features depend on besides images and network: device, code of the forward pass, and packages."""
    folder = Path(__file__).parent
    files = [*(folder / f"{name}.py" for name in CODE), folder.parent / "params" / "backbones.py"]
    return {"device": device(), **origin(files, PACKAGES)}


def storage_dtype(dimensions: int) -> np.dtype[np.float32] | np.dtype[np.float16]:
    """Return float32 for pooled activations, float16 for feature maps, which are at least 49 times larger."""
    return np.dtype(np.float32) if dimensions == 1 else np.dtype(np.float16)


def make_forward_pass(backbone: Network, cut: str, views: int) -> ForwardPass:
    """Build the function that computes the features of images, on all cores with LiteRT or on a GPU with TensorFlow."""
    prefix = frozen_prefix(backbone, cut)
    suffix = None if cut == HEAD else pooled_suffix(backbone, cut)
    return (batched_pass if device() == "GPU" else litert_pass)(prefix, suffix, views)


def read_content(digest: str, path: Path, size: int) -> Pixels:
    """Read an image as `read_image` does, whose features are to be known by the sha256 of its file.

    Raises LanduseError if it cannot be decoded, and Unavailable if the file has another content.
    """
    try:
        content = path.read_bytes()
        pixels = read_image(BytesIO(content), size)
    except (LanduseError, OSError):
        return read_image(path, size)  # which names it in the error
    if hashlib.sha256(content).hexdigest() != digest:
        raise Unavailable(f"{path} was changed since {MANIFEST} was made: dvc repro makes both anew")
    return pixels


def litert_pass(prefix: Network, suffix: Network | None, views: int) -> ForwardPass:
    """Compute the features of each image with LiteRT, on all cores."""
    size = prefix.input_shape[1]
    run_prefix = LiteModel(to_litert(prefix))
    run_suffix = None if suffix is None else LiteModel(to_litert(suffix))

    def compute(content: tuple[str, Path]) -> ImageFeatures:
        pixels = read_content(*content, size)
        activations = np.stack([run_prefix(np.ascontiguousarray(view(pixels, number))) for number in range(views)])
        embedding = activations[0] if run_suffix is None else run_suffix(activations[0])
        return embedding, activations.astype(storage_dtype(activations.ndim - 1))

    return lambda contents: parallel_map(compute, contents)


def batched_pass(prefix: Network, suffix: Network | None, views: int) -> ForwardPass:
    """Compute the features of images with TensorFlow in batches, for a GPU."""

    def compute(contents: Contents) -> Iterator[ImageFeatures]:
        images = parallel_map(lambda content: read_content(*content, prefix.input_shape[1]), contents)
        while batch := list(islice(images, GPU_BATCH)):
            turned = ([view(pixels, number) for pixels in batch] for number in range(views))
            activations = np.stack([prefix.predict_on_batch(np.stack(pixels)) for pixels in turned], axis=1)
            embeddings = activations[:, 0] if suffix is None else suffix.predict_on_batch(activations[:, 0])
            yield from zip(embeddings, activations.astype(storage_dtype(activations.ndim - 2)), strict=True)

    return compute
