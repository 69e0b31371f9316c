"""Split: train, validation and test, stratified by class, with everything that looks alike in one subset."""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import MANIFEST, SPLITS
from landuse.ml import features
from landuse.ml.perceptual_hash import PLAIN, TURNED, near, views
from landuse.params import SplitParams

ROWS_AT_ONCE = 1024
PAIRS_AT_ONCE = 8192
TABLE = 2**20  # pairs that are compared at a time, in the processor's cache
SAMPLED, DIRECTIONS = 256, 128
ROUNDING = 1e-4


def split(params: SplitParams) -> pd.Series:
    """Write `artifacts/splits.csv`: one row per image, in the manifest's order: path, label, group, subset.

    Returns the number of images per subset.

    Raises LanduseError where a class has too few images that differ to stand in every subset, and where the embeddings
    are of other images.
    """
    features.facts()
    manifest = read_table(MANIFEST, ["path", "label", PLAIN, TURNED, "sha256"])
    groups = group_lookalikes(manifest, features.embeddings(), params)
    rows = manifest[["path", "label"]].assign(group=groups)
    rows["subset"] = assign_subsets(rows.assign(sha256=manifest["sha256"]), params)
    rows.to_csv(SPLITS, index=False)
    return rows["subset"].value_counts()


def group_lookalikes(manifest: pd.DataFrame, embeddings: NDArray, params: SplitParams) -> NDArray[np.intp]:
    """A group number per image: the same for images that are copies, or near-duplicates by hash or embedding.

    By hash also what was turned or mirrored: a network is taught by such views of an image.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [same_file(manifest["sha256"]), near_hash(manifest, params.hash_distance)]
    if params.cosine < 1:
        pairs.append(near_embedding(embeddings, params.cosine))
    first, second = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(manifest),) * 2)
    return connected_components(links, directed=False)[1]


def same_file(digests: pd.Series) -> NDArray[np.intp]:
    """Pairs [2, n] of each image and the first one with the same content."""
    codes, _ = pd.factorize(digests)
    first = pd.Series(range(len(codes))).groupby(codes).first().to_numpy()
    return np.stack([np.arange(len(codes)), first[codes]])


def near_hash(manifest: pd.DataFrame, distance: int) -> NDArray[np.intp]:
    """Pairs [2, n] of images whose hashes differ in at most `distance` of 64 bits, in one of eight views."""
    every = views(manifest)
    return pairs_by_rows(len(every), lambda rows, others: near(every[rows, 0], every[others], distance))


def near_embedding(embeddings: NDArray, cosine: float) -> NDArray[np.intp]:
    """Pairs [2, n] of images whose embeddings have at least this cosine similarity.

    Unit vectors that are near stay near when projected, so that only those are compared whose projections are.
    """
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(embeddings), ROWS_AT_ONCE)]
    lengths = np.concatenate([np.linalg.norm(embeddings[rows], axis=1) for rows in blocks]).clip(min=1e-12)
    some = slice(None, None, -(-len(embeddings) // SAMPLED))
    along = directions(embeddings[some] / lengths[some, None])
    few = np.concatenate([embeddings[rows] @ along for rows in blocks]) / lengths[:, None]
    halves = (few**2).sum(axis=1, keepdims=True) / 2
    one, other = np.hstack((few, -halves, np.ones_like(halves))), np.hstack((few, np.ones_like(halves), -halves))
    limit = cosine - 1 - ROUNDING  # the product is half of the squared distance of two projections, below zero
    near = pairs_by_rows(len(few), lambda rows, others: one[rows] @ other[others].T >= limit)
    parts = np.array_split(near, -(-near.shape[1] // PAIRS_AT_ONCE), axis=1)
    products = [np.einsum("ij,ij->i", embeddings[first], embeddings[second]) for first, second in parts]
    return near[:, np.concatenate(products) >= cosine * lengths[near].prod(axis=0)]


def directions(some: NDArray) -> NDArray:
    """Orthogonal directions [channels, up to 128], along which some vectors differ most: so they tell most of all."""
    return np.linalg.svd(some - some.mean(axis=0), full_matrices=False)[2][:DIRECTIONS].T


def pairs_by_rows(count: int, alike) -> NDArray[np.intp]:
    """Pairs [2, n], the first not after the second, from a function of two slices → alike [rows, others].

    No square table is ever held.
    """
    found, rows = [np.empty((2, 0), np.intp)], max(1, TABLE // count)
    for start in range(0, count, rows):
        first, second = np.nonzero(alike(slice(start, start + rows), slice(start, None)))
        found.append(start + np.stack((first, second))[:, first <= second])
    return np.concatenate(found, axis=1)


def assign_subsets(rows: pd.DataFrame, params: SplitParams) -> NDArray[np.str_]:
    """The subset of each row (columns label, group, sha256).

    Each group has a place in its class, drawn by the content of one of its images, whatever the group's size, and the
    first ones are held out, as many as the shares say: so an image stays where it is when others come and go, but for a
    few at the border. A group is held out where at least half of it is still lacking. Raises LanduseError where a class
    is then missing from a subset, or a subset is far from its share.
    """
    shares = {"train": 1 - params.validation - params.test, "validation": params.validation, "test": params.test}
    images, sizes = rows["label"].value_counts(), rows["group"].value_counts()
    lacking = {name: (share * images).to_dict() for name, share in shares.items()}
    placed = rows.assign(**dict(zip(("place", "side"), draw(rows["sha256"], params.seed), strict=True)))
    chosen = {}
    representatives = placed.sort_values("sha256").drop_duplicates("group")
    for group in representatives.sort_values("place").itertuples():
        size, test_first = sizes[group.group], group.side * (params.test + params.validation) < params.test
        held_out = ("test", "validation") if test_first else ("validation", "test")
        fitting = [name for name in held_out if lacking[name][group.label] >= size / 2]
        chosen[group.group] = subset = (*fitting, "train")[0]
        lacking[subset][group.label] -= size
    subsets = rows["group"].map(chosen)
    names = [name for name, share in shares.items() if share > 0]
    refuse_missing_classes(pd.crosstab(rows["label"], subsets).reindex(columns=names, fill_value=0))
    wanted = pd.Series(shares)[names] * len(rows)
    refuse_wrong_shares(1 - subsets.value_counts().reindex(names, fill_value=0) / wanted, sizes.max())
    return subsets.to_numpy(str)


def draw(digests: pd.Series, seed: int) -> NDArray[np.float64]:
    """Two numbers from 0 to 1 for each content [2, images], always the same for the same content and seed."""
    drawn = [blake2b(f"{seed} {digest}".encode(), digest_size=16).digest() for digest in digests]
    return np.frombuffer(b"".join(drawn), "<u8").reshape(-1, 2).T / 2.0**64


def refuse_missing_classes(images: pd.DataFrame) -> None:
    """Raise LanduseError for the first class that has no image in some subset."""
    for label, row in images.iterrows():
        if (row == 0).any():
            raise LanduseError(
                f"class {label}: its {row.sum()} images leave none for {row.idxmin()}; add images of it that differ, "
                "or change split.validation, split.test, split.cosine or split.hash_distance in params.yaml"
            )


def refuse_wrong_shares(lacking: pd.Series, largest: int) -> None:
    """Raise LanduseError where a subset lacks, or has too many by, half of what it should have."""
    worst = lacking.abs().idxmax()
    if abs(lacking[worst]) > 0.5:
        alike = f"too many look alike (up to {largest} in one group); raise split.cosine or lower split.hash_distance"
        small = "the classes are too small for such shares; add images, or change split.validation or split.test"
        raise LanduseError(
            f"{worst} would hold {1 - lacking[worst]:.0%} of the images it should: {alike if largest > 1 else small}"
        )
