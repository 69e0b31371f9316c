"""Split into train, validation and test, stratified by class, with near-duplicates in the same subset."""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.core.files import read_table
from landuse.core.paths import MANIFEST, SPLITS
from landuse.ml import features
from landuse.ml.near_duplicates import Embeddings, Groups, link_by_embedding, link_by_hash
from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED, view_hashes
from landuse.params import SplitParams


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


def group_near_duplicates(manifest: pd.DataFrame, embeddings: Embeddings, params: SplitParams) -> NDArray[np.intp]:
    """Return a group number per image, shared by copies and near-duplicates by hash or embedding, and chains of them.

    Hashes are compared in all flips and quarter turns, because the network is trained on such views.
    """
    groups = Groups(len(manifest))
    groups.link_equal(manifest["sha256"])
    link_by_hash(groups, view_hashes(manifest), params.hash_distance)
    if params.cosine < 1:
        link_by_embedding(groups, embeddings, params.cosine)
    return groups.numbers()


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
