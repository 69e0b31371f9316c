"""Extract: compute the frozen part of the network once, for every image and view, without labels."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from math import prod
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import DATA, FEATURES, MANIFEST
from landuse.core.progress import track
from landuse.ml.classifier import LiteModel
from landuse.ml.diagnostics import weights_digest
from landuse.ml.features import ACTIVATIONS, BACKBONE, EMBEDDINGS, METADATA, RowFile, manifest_digest
from landuse.ml.images import parallel_map, read_image, view
from landuse.ml.litert import to_litert
from landuse.ml.network import ALL, HEAD, Network, build_backbone, device, frozen_prefix, pooled_suffix
from landuse.params import ExtractParams

ImageFeatures = tuple[NDArray[np.float32], NDArray[Any]]  # of an image: embedding [channels], activations [views, …]

GIGABYTE = 1e9
COPIES = 2  # the folder itself and the DVC cache
GPU_BATCH = 32


def extract(params: ExtractParams, unfreeze_from: str) -> None:
    """Write `artifacts/features/`: embeddings, activations, their backbone and, last, the metadata.

    Raises LanduseError if the weights cannot be loaded, the disk is too small, or an image cannot be decoded.
    """
    manifest_sha256, paths = manifest_digest(), [DATA / path for path in read_table(MANIFEST, ["path"])["path"]]
    backbone = build_backbone(params)
    FEATURES.mkdir(parents=True, exist_ok=True)
    METADATA.unlink(missing_ok=True)  # without metadata, an unfinished extraction is never used
    cut, views = (HEAD, 1) if unfreeze_from == ALL else (unfreeze_from, params.views)
    prefix = frozen_prefix(backbone, cut)
    refuse_small_disk(len(paths), views, prefix.output_shape[1:], disk_usage(FEATURES).free)
    backbone.save_weights(BACKBONE)
    suffix = None if cut == HEAD else pooled_suffix(backbone, cut)
    features = (batched_features if device() == "GPU" else litert_features)(paths, prefix, suffix, views)
    write_features(track(features, len(paths), "extract"), len(paths))
    metadata = {"params": asdict(params), "cut": unfreeze_from, "weights_sha256": weights_digest(backbone)}
    metadata["manifest_sha256"] = manifest_sha256
    METADATA.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def refuse_small_disk(images: int, views: int, shape: tuple[int, ...], free: int) -> None:
    """Raise LanduseError if activations [images, views, *shape] would need more than the free bytes."""
    view_bytes = prod(shape) * storage_dtype(len(shape)).itemsize
    needed = COPIES * images * views * view_bytes
    if needed > free:
        raise LanduseError(
            f"{needed / GIGABYTE:.1f} GB are needed in {FEATURES} and the DVC cache for {images:,} images × {views} "
            f"views × {view_bytes:,} bytes, {free / GIGABYTE:.1f} GB are free: lower extract.views or "
            "extract.image_size, or set train.unfreeze_from to a later block or head"
        )


def storage_dtype(dimensions: int) -> np.dtype[np.float32] | np.dtype[np.float16]:
    """Return float32 for pooled activations, float16 for feature maps, which are at least 49 times larger."""
    return np.dtype(np.float32) if dimensions == 1 else np.dtype(np.float16)


def litert_features(paths: list[Path], prefix: Network, suffix: Network | None, views: int) -> Iterator[ImageFeatures]:
    """Compute the features of each image with LiteRT, on all cores."""
    size = prefix.input_shape[1]
    run_prefix = LiteModel(to_litert(prefix))
    run_suffix = None if suffix is None else LiteModel(to_litert(suffix))

    def compute(path: Path) -> ImageFeatures:
        pixels = read_image(path, size)
        activations = np.stack([run_prefix(np.ascontiguousarray(view(pixels, number))) for number in range(views)])
        embedding = activations[0] if run_suffix is None else run_suffix(activations[0])
        return embedding, activations.astype(storage_dtype(activations.ndim - 1))

    return parallel_map(compute, paths)


def batched_features(paths: list[Path], prefix: Network, suffix: Network | None, views: int) -> Iterator[ImageFeatures]:
    """Compute the features of each image with TensorFlow in batches, for a GPU."""
    images = parallel_map(lambda path: read_image(path, prefix.input_shape[1]), paths)
    while batch := list(islice(images, GPU_BATCH)):
        activations = np.stack(
            [prefix.predict_on_batch(np.stack([view(pixels, number) for pixels in batch])) for number in range(views)],
            axis=1,
        )
        embeddings = activations[:, 0] if suffix is None else suffix.predict_on_batch(activations[:, 0])
        yield from zip(embeddings, activations.astype(storage_dtype(activations.ndim - 2)), strict=True)


def write_features(features: Iterable[ImageFeatures], rows: int) -> None:
    """Stream the rows of both arrays to disk."""
    with RowFile(EMBEDDINGS, rows) as embeddings, RowFile(ACTIVATIONS, rows) as activations:
        for embedding, image_activations in features:
            embeddings.append(embedding)
            activations.append(image_activations)
