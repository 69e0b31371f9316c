"""Shrinkage: whether a version was trained on less data than the champion."""

import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from landuse.gate.blessing import Check
from landuse.params import PromoteParams
from landuse.registry.version_record import read_splits


def check_shrinkage(version: ModelVersion, champion: ModelVersion, params: PromoteParams) -> Check:
    """Check which share of its images the data set has lost since the champion's; a lost class counts as all.

    Raises LanduseError if the run of one of the two no longer has its split.
    """
    now, before = (read_splits(each)["label"].value_counts() for each in (version, champion))
    lost_classes = sorted({*before.index} - {*now.index})
    share = 1.0 if lost_classes else max(0.0, 1 - float(now.sum()) / float(before.sum()))
    change = describe_change(now, before)
    sentence = f"{change}; images may be fewer by {params.max_shrinkage:.1%}"
    counts = {"this": int(now.sum()), "champion": int(before.sum()), "lost_classes": lost_classes, "change": change}
    return Check.at_most("shrinkage", share, params.max_shrinkage, sentence, counts)


def describe_change(now: "pd.Series[int]", before: "pd.Series[int]") -> str:
    """Tell how many images and which classes a data set has more or less, from its images by class."""
    change, total = int(now.sum()) - int(before.sum()), f"the {int(before.sum()):,} images of the champion's data"
    amount = f"{abs(change):,} {'more' if change > 0 else 'fewer'} than" if change else "as many images as"
    return ", ".join([f"{amount} {total}", *describe_classes(now, before)])


def describe_classes(now: "pd.Series[int]", before: "pd.Series[int]") -> list[str]:
    """Tell which classes are gone and which are new, from images by class; empty if they are the same."""
    changes = (("gone", {*before.index} - {*now.index}), ("new", {*now.index} - {*before.index}))
    return [
        f"{'class' if len(classes) == 1 else 'classes'} {', '.join(sorted(classes))} {word}"
        for word, classes in changes
        if classes
    ]
