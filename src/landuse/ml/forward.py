"""The forward pass through the frozen part of the network: the features of an image, for every view of it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from landuse.ml.image_features import FeatureTask, ImageFeatures, read_pixels, storage_dtype
from landuse.ml.image_file import ImageFile
from landuse.ml.images import parallel_map, view
from landuse.ml.litert import to_litert
from landuse.ml.network import HEAD, Network, device, frozen_prefix, pooled_suffix
from landuse.ml.pool import Pool
from landuse.project.lineage import origin

ForwardPass = Callable[[list[ImageFile]], Iterator[ImageFeatures]]  # raises LanduseError as `read_pixels` does

GPU_BATCH = 32
CODE = (
    *("forward", "network", "weights", "litert", "image_features", "image_file", "classifier", "images"),
    "image_formats",
)  # modules of this package
PACKAGES = frozenset({"tensorflow-cpu", "tensorflow", "keras", "ai-edge-litert", "numpy", "pillow"})


def forward_origin() -> dict[str, str]:
    """Return what features depend on besides images and network: device, code of the forward pass, and packages."""
    folder = Path(__file__).parent
    files = [*(folder / f"{name}.py" for name in CODE), folder.parent / "params" / "backbones.py"]
    return {"device": device(), **origin(files, PACKAGES)}


def make_forward_pass(backbone: Network, cut: str, views: int, pool: Pool) -> ForwardPass:
    """Build the function that computes the features of images: with LiteRT in a pool, or on a GPU with TensorFlow."""
    prefix = frozen_prefix(backbone, cut)
    suffix = None if cut == HEAD else pooled_suffix(backbone, cut)
    if device() == "GPU":
        return batched_pass(prefix, suffix, views)
    flatbuffers = to_litert(prefix), None if suffix is None else to_litert(suffix)
    return partial(pool.map, FeatureTask(*flatbuffers, prefix.input_shape[1], views))


def batched_pass(prefix: Network, suffix: Network | None, views: int) -> ForwardPass:
    """Compute the features of images with TensorFlow in batches, for a GPU."""

    def compute(images: list[ImageFile]) -> Iterator[ImageFeatures]:
        pixels = parallel_map(lambda image: read_pixels(image, prefix.input_shape[1]), images)
        while batch := list(islice(pixels, GPU_BATCH)):
            turned = ([view(image, number) for image in batch] for number in range(views))
            activations = np.stack([prefix.predict_on_batch(np.stack(views)) for views in turned], axis=1)
            embeddings = activations[:, 0] if suffix is None else suffix.predict_on_batch(activations[:, 0])
            yield from zip(embeddings, activations.astype(storage_dtype(activations.ndim - 2)), strict=True)

    return compute
