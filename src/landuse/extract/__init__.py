"""Extract: compute the frozen part of the network once, for every image content and view, without labels."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import DATA, FEATURES, MANIFEST
from landuse.core.progress import track
from landuse.extract.candidates import UNFINISHED
from landuse.extract.reuse import Reuse, find_reusable
from landuse.ml.diagnostics import weights_digest
from landuse.ml.features import BACKBONE, METADATA, manifest_digest
from landuse.ml.forward import forward_origin, make_forward_pass
from landuse.ml.image_features import ImageFeatures, storage_dtype
from landuse.ml.image_file import ImageFile
from landuse.ml.network import ALL, HEAD, Network, build_backbone, device, frozen_prefix
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.ml.shards import ACTIVATIONS, EMBEDDINGS, ROWS, Row, copy_shard, move_shard, write_shard
from landuse.params import ExtractParams

GIGABYTE = 1e9
COPIES = 2  # the folder itself and the DVC cache


@dataclass(frozen=True)
class Extraction:
    """The different images that have features now, those for which they were computed, and shards that were damaged."""

    images: int
    computed: int
    damaged: int

    def __str__(self) -> str:
        reused = self.images - self.computed
        mended = f"; damaged shards made again: {self.damaged:,}" if self.damaged else ""
        return f"features of {self.images:,} different images: {self.computed:,} computed, {reused:,} reused{mended}"


def extract(params: ExtractParams, unfreeze_from: str, pool: Pool = THIS_PROCESS) -> Extraction:
    """Write `artifacts/features/`: shards of embeddings and activations, their backbone and, last, the metadata.

    Rows that were computed before with the same weights, cut, image size, views and code are reused. An extraction that
    was interrupted goes on after its last complete shard.
    Raises LanduseError if the weights cannot be loaded, the disk is too small, or an image cannot be decoded.
    """
    manifest_sha256, paths = manifest_digest(), content_paths()
    pool = THIS_PROCESS if device() == "GPU" else pool
    backbone = build_backbone(params)
    if FEATURES.exists():
        rmtree(FEATURES)
    FEATURES.mkdir(parents=True)  # without metadata, an unfinished extraction is never used
    cut, views = (HEAD, 1) if unfreeze_from == ALL else (unfreeze_from, params.views)
    metadata = {"params": asdict(params), "cut": unfreeze_from, "weights_sha256": weights_digest(backbone)}
    metadata |= {"origin": forward_origin(), "manifest_sha256": manifest_sha256}
    key = features_key(params, cut, views, metadata)
    reuse = find_reusable(key, paths)
    kept = {content for shard in reuse.kept for content in shard.contents}
    new = [content for content in paths if content not in kept]
    refuse_small_disk(len(new), views, frozen_prefix(backbone, cut).output_shape[1:], disk_usage(FEATURES).free)
    missing = find_files({content: paths[content] for content in new if content not in reuse.copied}, pool)
    write_shards(key, new, reuse, compute(missing, backbone, cut, views, pool), pool)
    backbone.save_weights(BACKBONE)
    METADATA.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    rmtree(UNFINISHED, ignore_errors=True)
    return Extraction(len(paths), len(missing), reuse.damaged)


def content_paths() -> dict[str, Path]:
    """Return the path of the first image with each content, by sha256, in the order of the manifest.

    Raises LanduseError if the manifest has an image that could not be read.
    """
    images = read_table(MANIFEST, ["path", "sha256"]).drop_duplicates("sha256")
    for path in images["path"][images["sha256"].isna()]:
        raise LanduseError(f"{DATA / path} could not be read: repair or remove it, then landuse validate")
    return {content: DATA / path for content, path in zip(images["sha256"], images["path"], strict=True)}


def features_key(params: ExtractParams, cut: str, views: int, metadata: dict[str, Any]) -> str:
    """Return a digest of all that features depend on besides the images: only rows made under the same one are reused.

    The name of the weights is left out: their content counts.
    """
    used = asdict(params) | {"weights": metadata["weights_sha256"], "views": views, "cut": cut}
    return hashlib.sha256(json.dumps(used | metadata["origin"], sort_keys=True).encode()).hexdigest()


def refuse_small_disk(images: int, views: int, shape: tuple[int, ...], free: int) -> None:
    """Raise LanduseError if activations [images, views, *shape] would need more than the free bytes."""
    view_bytes = prod(shape) * storage_dtype(len(shape)).itemsize
    needed = COPIES * images * views * view_bytes
    if needed > free:
        raise LanduseError(
            f"{needed / GIGABYTE:.1f} GB are needed in {FEATURES} and the DVC cache for {images:,} new images × "
            f"{views} views × {view_bytes:,} bytes, {free / GIGABYTE:.1f} GB are free: lower extract.views or "
            "extract.image_size, or set train.unfreeze_from to a later block or head"
        )


def find_files(paths: dict[str, Path], pool: Pool) -> list[ImageFile]:
    """Return the files of images, given their paths by sha256, where the pool finds them."""
    locations = pool.locate(paths.values())
    return [
        ImageFile(path, location, content) for (content, path), location in zip(paths.items(), locations, strict=True)
    ]


def compute(images: list[ImageFile], backbone: Network, cut: str, views: int, pool: Pool) -> Iterator[ImageFeatures]:
    """Compute the features of images, with a progress bar. The network is converted only if there are any."""
    if images:
        yield from track(make_forward_pass(backbone, cut, views, pool)(images), len(images), "extract")


def write_shards(key: str, new: list[str], reuse: Reuse, computed: Iterator[ImageFeatures], pool: Pool) -> None:
    """Fill `artifacts/features/`: take over shards, and write new ones of rows that are copied or computed."""
    rows = (copied_row(reuse.copied[content]) if content in reuse.copied else next(computed) for content in new)
    contents = [tuple(new[start : start + ROWS]) for start in range(0, len(new), ROWS)]
    earlier = frozenset(kind for row in reuse.copied.values() for kind in row.shard.processors)
    computes = any(content not in reuse.copied for content in new)

    def processors() -> frozenset[str]:
        return earlier | pool.processors if computes else earlier

    written = [write_shard(UNFINISHED, key, part, rows, processors) for part in contents]
    next(computed, None)  # so that its progress bar ends
    for shard in reuse.kept:
        (move_shard if UNFINISHED in shard.files[EMBEDDINGS].parents else copy_shard)(shard, FEATURES)
    for shard in written:
        move_shard(shard, FEATURES)


def copied_row(row: Row) -> ImageFeatures:
    """Return the features in a row of a shard."""
    return row.shard.array(EMBEDDINGS)[row.number], row.shard.array(ACTIVATIONS)[row.number]
