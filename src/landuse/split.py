"""Split into train, validation and test, stratified by class, with near-duplicates in the same subset."""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import MANIFEST, SPLITS
from landuse.ml import features
from landuse.ml.features import Rows
from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED, view_hashes, within_distance
from landuse.params import SplitParams

ROWS_AT_ONCE = 1024
PAIRS_AT_ONCE = 8192
BLOCK_PAIRS = 2**20  # pairs compared at a time, to stay in the processor's cache
SAMPLE_SIZE, DIRECTIONS = 256, 128
ROUNDING = 1e-4


def split(params: SplitParams) -> "pd.Series[int]":
    """Write `artifacts/splits.csv`: one row per image, in the manifest's order: path, label, group, subset.

    Returns the number of images per subset.

    Raises LanduseError if a class has too few distinct images for all subsets, or the cached embeddings are of other
    images.
    """
    features.metadata()
    manifest = read_table(MANIFEST, ["path", "label", PHASH, PHASH_TURNED, "sha256"])
    groups = group_near_duplicates(manifest, features.embeddings(), params)
    rows = manifest[["path", "label"]].assign(group=groups)
    rows["subset"] = assign_subsets(rows.assign(sha256=manifest["sha256"]), params)
    rows.to_csv(SPLITS, index=False)
    return rows["subset"].value_counts()


def group_near_duplicates(manifest: pd.DataFrame, embeddings: Rows, params: SplitParams) -> NDArray[np.int32]:
    """Return a group number per image, shared by copies and near-duplicates by hash or embedding, and chains of them.

    Hashes are compared in all flips and quarter turns, because the network is trained on such views.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [pairs_by_content(manifest["sha256"]), pairs_by_hash(manifest, params.hash_distance)]
    if params.cosine < 1:
        pairs.append(pairs_by_embedding(embeddings, params.cosine))
    first, second = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(manifest),) * 2)
    return connected_components(links, directed=False)[1]


def pairs_by_content(digests: "pd.Series[str]") -> NDArray[np.intp]:
    """Return pairs [2, n] of each image and the first one with the same content."""
    codes, _ = pd.factorize(digests)
    first = pd.Series(range(len(codes))).groupby(codes).first().to_numpy()
    return np.stack([np.arange(len(codes)), first[codes]])


def pairs_by_hash(manifest: pd.DataFrame, distance: int) -> NDArray[np.intp]:
    """Return pairs [2, n] of images whose hashes differ in at most `distance` of 64 bits, in one of eight views."""
    hashes = view_hashes(manifest)
    return matching_pairs(len(hashes), lambda rows, others: within_distance(hashes[rows, 0], hashes[others], distance))


def pairs_by_embedding(embeddings: Rows, cosine: float) -> NDArray[np.intp]:
    """Return pairs [2, n] of images whose embeddings have at least this cosine similarity.

    Unit vectors that are close stay close when projected, so only pairs with close projections are compared in full.
    """
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(embeddings), ROWS_AT_ONCE)]
    lengths = np.concatenate([np.linalg.norm(embeddings[rows], axis=1) for rows in blocks]).clip(min=1e-12)
    sample = slice(None, None, -(-len(embeddings) // SAMPLE_SIZE))
    axes = principal_directions(embeddings[sample] / lengths[sample, None])
    projected = np.concatenate([embeddings[rows] @ axes for rows in blocks]) / lengths[:, None]
    halves = (projected**2).sum(axis=1, keepdims=True) / 2
    ones = np.ones_like(halves)
    left, right = np.hstack((projected, -halves, ones)), np.hstack((projected, ones, -halves))
    limit = cosine - 1 - ROUNDING  # the product is minus half of the squared distance of two projections
    close = matching_pairs(len(projected), lambda rows, others: left[rows] @ right[others].T >= limit)
    parts = np.array_split(close, -(-close.shape[1] // PAIRS_AT_ONCE), axis=1)
    products = [np.einsum("ij,ij->i", embeddings[first], embeddings[second]) for first, second in parts]
    return close[:, np.concatenate(products) >= cosine * lengths[close].prod(axis=0)]


def principal_directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the orthogonal directions [channels, up to 128] of largest variance, which separate vectors best."""
    return np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:DIRECTIONS].T


def matching_pairs(count: int, matches: Callable[[slice, slice], NDArray[np.bool_]]) -> NDArray[np.intp]:
    """Return the pairs [2, n] that match, the first not after the second, compared in blocks of bounded memory.

    `matches` takes two slices of the `count` items and returns a table [rows, others].
    """
    pairs, rows = [np.empty((2, 0), np.intp)], max(1, BLOCK_PAIRS // count)
    for start in range(0, count, rows):
        first, second = np.nonzero(matches(slice(start, start + rows), slice(start, None)))
        pairs.append(start + np.stack((first, second))[:, first <= second])
    return np.concatenate(pairs, axis=1)


def assign_subsets(rows: pd.DataFrame, params: SplitParams) -> NDArray[np.str_]:
    """Assign a subset to each row (columns label, group, sha256).

    Each group has a position in its class, derived from the content of one of its images whatever the group's size, and
    the first ones are held out until the shares are met. So images keep their subset when others are added or removed,
    except for a few at the border. A group is held out if at least half of it is still missing from the subset. Raises
    LanduseError if a class is then missing from a subset, or a subset is far from its share.
    """
    shares = {"train": 1 - params.validation - params.test, "validation": params.validation, "test": params.test}
    images, sizes = rows["label"].value_counts(), rows["group"].value_counts().to_dict()
    missing = {name: (share * images).to_dict() for name, share in shares.items()}
    positions, sides = uniform_from_content(rows["sha256"], params.seed)
    placed = rows.assign(position=positions, side=sides)
    chosen = {}
    groups = placed.sort_values("sha256").drop_duplicates("group").sort_values("position")
    for group, label, side in zip(groups["group"], groups["label"], groups["side"], strict=True):
        test_first = side * (params.test + params.validation) < params.test
        held_out = ("test", "validation") if test_first else ("validation", "test")
        fitting = [name for name in held_out if missing[name][label] >= sizes[group] / 2]
        chosen[group] = subset = (*fitting, "train")[0]
        missing[subset][label] -= sizes[group]
    subsets = rows["group"].map(chosen)
    names = [name for name, share in shares.items() if share > 0]
    refuse_missing_classes(pd.crosstab(rows["label"], subsets).reindex(columns=names, fill_value=0))
    wanted = pd.Series(shares)[names] * len(rows)
    refuse_wrong_shares(1 - subsets.value_counts().reindex(names, fill_value=0) / wanted, max(sizes.values()))
    return subsets.to_numpy(str)


def uniform_from_content(digests: "pd.Series[str]", seed: int) -> NDArray[np.float64]:
    """Return two numbers from 0 to 1 for each digest [2, images], uniform and the same for every digest and seed."""
    hashed = [blake2b(f"{seed} {digest}".encode(), digest_size=16).digest() for digest in digests]
    return np.frombuffer(b"".join(hashed), "<u8").reshape(-1, 2).T / 2.0**64


def refuse_missing_classes(images: pd.DataFrame) -> None:
    """Raise LanduseError for the first class without images in some subset (a table of counts [classes, subsets])."""
    for label, row in images.iterrows():
        if (row == 0).any():
            raise LanduseError(
                f"class {label}: its {row.sum()} images leave none for {row.idxmin()}; add images of it that differ, "
                "or change split.validation, split.test, split.cosine or split.hash_distance in params.yaml"
            )


def refuse_wrong_shares(missing: "pd.Series[float]", largest: int) -> None:
    """Raise LanduseError if a subset has too few or too many images by more than half of its share."""
    worst = str(missing.abs().idxmax())
    if abs(missing[worst]) > 0.5:
        alike = f"too many look alike (up to {largest} in one group); raise split.cosine or lower split.hash_distance"
        small = "the classes are too small for such shares; add images, or change split.validation or split.test"
        raise LanduseError(
            f"{worst} would hold {1 - missing[worst]:.0%} of the images it should: {alike if largest > 1 else small}"
        )
