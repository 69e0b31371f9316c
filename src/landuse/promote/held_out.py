"""How many images that were held out for the champion are in another subset now, and why."""

from typing import Any

import pandas as pd

from landuse.core.errors import LanduseError
from landuse.registry.version_record import VersionRecord, read_splits

TRAIN = "train"
OTHER_PARAMS, RELABELLED = "split.* in params.yaml changed", "they were relabelled"
LOOKALIKES, SIZES = "images that look like them came or left", "their classes grew or shrank"


def compare_held_out(champion: VersionRecord, record: VersionRecord) -> str | None:
    """Describe what became of the champion's held-out images; None if a split or its contents are not on record."""
    try:
        before, after = read_splits(champion.version), read_splits(record.version)
    except LanduseError:
        return None
    if before["sha256"].isna().any() or after["sha256"].isna().any():
        return None
    return describe_moves(before, after, split_params(champion) == split_params(record))


def split_params(record: VersionRecord) -> dict[str, str]:
    """Return the params of the split that a version was trained with."""
    return {name: value for name, value in record.run.data.params.items() if name.startswith("split.")}


def describe_moves(before: pd.DataFrame, after: pd.DataFrame, same_params: bool) -> str:
    """Tell how many images held out before have another subset after, by reason.

    Images are known by content. Both tables have one row per image: label, group, subset, sha256.
    """
    held_out = with_lookalikes(before)[before["subset"] != TRAIN]
    pairs = held_out.merge(with_lookalikes(after), on="sha256", suffixes=("_before", "")).drop_duplicates("sha256")
    moved = pairs[pairs["subset"] != pairs["subset_before"]]
    if moved.empty:
        return f"none of the {len(pairs):,} that are still here changed its subset"
    why = moved.apply(reason, axis=1) if same_params else pd.Series(OTHER_PARAMS, moved.index)
    trained = int((moved["subset"] == TRAIN).sum())
    reasons = ", ".join(f"{count:,} since {words}" for words, count in why.value_counts().items())
    amount = f"{len(moved):,} of the {len(pairs):,} that are still here changed their subset"
    return f"{amount}: {reasons}; {trained:,} of them are trained on now"


def with_lookalikes(splits: pd.DataFrame) -> pd.DataFrame:
    """Add the contents of each image's group."""
    groups = splits.groupby("group")["sha256"].agg(frozenset)
    return splits.assign(lookalikes=splits["group"].map(groups))


def reason(image: "pd.Series[Any]") -> str:
    """Say why an image has another subset, given its row before and after."""
    if image["label"] != image["label_before"]:
        return RELABELLED
    return SIZES if image["lookalikes"] == image["lookalikes_before"] else LOOKALIKES
