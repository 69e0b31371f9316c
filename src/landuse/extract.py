"""Extract: what the frozen part of the network sees in every image and view, computed once, blind to labels."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from math import prod
from pathlib import Path
from shutil import disk_usage

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import DATA, FEATURES, MANIFEST
from landuse.core.progress import track
from landuse.ml.classifier import LiteModel
from landuse.ml.diagnostics import weights_digest
from landuse.ml.features import ACTIVATIONS, BACKBONE, EMBEDDINGS, FACTS, RowFile, manifest_digest
from landuse.ml.images import map_ahead, read_image, view
from landuse.ml.litert import to_litert
from landuse.ml.network import ALL, HEAD, Network, build_backbone, device, pooled_suffix, prefix
from landuse.params import ExtractParams

Look = tuple[NDArray, NDArray]

GIGABYTE = 1e9
COPIES = 2  # beside the folder itself, DVC keeps its content
GPU_BATCH = 32


def extract(params: ExtractParams, unfreeze_from: str) -> None:
    """Write `artifacts/features/`: embeddings, activations and the backbone they come from; at last the facts.

    Raises LanduseError where the weights cannot be had, the disk is too small, or an image cannot be decoded.
    """
    images, paths = manifest_digest(), [DATA / path for path in read_table(MANIFEST, ["path"])["path"]]
    backbone = build_backbone(params)
    FEATURES.mkdir(parents=True, exist_ok=True)
    FACTS.unlink(missing_ok=True)  # what is half written has no facts, and is not used
    cut, views = (HEAD, 1) if unfreeze_from == ALL else (unfreeze_from, params.views)
    before = prefix(backbone, cut)
    refuse_small_disk(len(paths), views, before.output_shape[1:], disk_usage(FEATURES).free)
    backbone.save_weights(BACKBONE)
    after = None if cut == HEAD else pooled_suffix(backbone, cut)
    looks = (batched_looks if device() == "GPU" else litert_looks)(paths, before, after, views)
    write_looks(track(looks, len(paths), "extract"), len(paths))
    facts = {"params": asdict(params), "cut": unfreeze_from, "weights_sha256": weights_digest(backbone)}
    facts["manifest_sha256"] = images
    FACTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def refuse_small_disk(images: int, views: int, shape: tuple[int, ...], free: int) -> None:
    """Raise LanduseError where activations [images, views, *shape] would need more than the free bytes."""
    one = prod(shape) * kept_type(len(shape)).itemsize
    needed = COPIES * images * views * one
    if needed > free:
        raise LanduseError(
            f"{needed / GIGABYTE:.1f} GB are needed in {FEATURES} and the DVC cache for {images:,} images × {views} "
            f"views × {one:,} bytes, {free / GIGABYTE:.1f} GB are free: lower extract.views or extract.image_size, "
            "or set train.unfreeze_from to a later block or head"
        )


def kept_type(dimensions: int) -> np.dtype:
    """Pooled activations are kept as float32; maps, which are 49 times larger and more, as float16."""
    return np.dtype(np.float32 if dimensions == 1 else np.float16)


def litert_looks(paths: list[Path], before: Network, after: Network | None, views: int) -> Iterator[Look]:
    """The embedding [channels] and the activations [views, …] of each image, by LiteRT on all cores."""
    size = before.input_shape[1]
    prefix = LiteModel(to_litert(before))
    suffix = None if after is None else LiteModel(to_litert(after))

    def look(path: Path) -> Look:
        pixels = read_image(path, size)
        seen = np.stack([prefix(np.ascontiguousarray(view(pixels, number))) for number in range(views)])
        return (seen[0] if suffix is None else suffix(seen[0])), seen.astype(kept_type(seen.ndim - 1))

    return map_ahead(look, paths)


def batched_looks(paths: list[Path], before: Network, after: Network | None, views: int) -> Iterator[Look]:
    """The same by TensorFlow, many images at once, for a GPU."""
    images = map_ahead(lambda path: read_image(path, before.input_shape[1]), paths)
    while batch := list(islice(images, GPU_BATCH)):
        seen = np.stack(
            [before.predict_on_batch(np.stack([view(pixels, number) for pixels in batch])) for number in range(views)],
            axis=1,
        )
        embeddings = seen[:, 0] if after is None else after.predict_on_batch(seen[:, 0])
        yield from zip(embeddings, seen.astype(kept_type(seen.ndim - 2)), strict=True)


def write_looks(looks: Iterable[Look], rows: int) -> None:
    """Stream the rows of both arrays to disk."""
    with RowFile(EMBEDDINGS, rows) as embeddings, RowFile(ACTIVATIONS, rows) as activations:
        for embedding, activation in looks:
            embeddings.append(embedding)
            activations.append(activation)
