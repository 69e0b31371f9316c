"""Compare: score two versions on the same images as the gate does, but without a verdict."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from landuse import registry
from landuse.gate.comparison import format_p_value, paired_difference
from landuse.gate.scoring import ScoredImages, compare_on_unseen, data_unchanged, score_version
from landuse.ml.metrics import classification_metrics
from landuse.params import EvaluateParams


def compare(name: str, first: str, second: str, evaluation: EvaluateParams) -> str:
    """Return a table of both versions' scores on the second's held-out images that the first was not trained on.

    Raises LanduseError if a version is missing or damaged, or data/ is not the data set of the second.
    """
    with registry.existing_store(), TemporaryDirectory() as folder:
        one, other = (registry.get_version(name, number) for number in (first, second))
        with data_unchanged():
            _, scored = score_version(other, Path(folder, "second"))
            pair = compare_on_unseen(one, scored, Path(folder, "first"))
    before, after = pair.opponent, pair.challenger
    rows = [("", f"version {one.version}", f"version {other.version}"), *score_rows(before, after, evaluation)]
    lines = [f"{name:<24} {left:>12} {right:>12}" for name, left, right in rows]
    count = f"on {len(after.table)} of the {len(scored.table)} held-out images of version {other.version}"
    return "\n".join([*lines, count, *describe_difference(before, after)])


def score_rows(before: ScoredImages, after: ScoredImages, evaluation: EvaluateParams) -> list[tuple[str, str, str]]:
    """Return name and both values of every metric, and of the recall of every class that has images."""
    bins = evaluation.calibration_bins
    first, second = (classification_metrics(model.actual, model.probabilities, bins) for model in (before, after))
    metrics = [(name.replace("_", " "), f"{first[name]:.4f}", f"{second[name]:.4f}") for name in first]
    recalls = pd.DataFrame({"before": before.recall, "after": after.recall}).dropna()
    return metrics + [(f"recall {row.Index}", f"{row.before:.4f}", f"{row.after:.4f}") for row in recalls.itertuples()]


def describe_difference(before: ScoredImages, after: ScoredImages) -> tuple[str, str]:
    """Describe on how many scenes the versions differ, and the interval of the accuracy difference."""
    difference = paired_difference(after, before)
    only_second = f"only by the second: {difference.wins} ({format_p_value(difference.p_value)})"
    return (
        f"images, near-duplicates counted once, right only by the first: {difference.losses}, {only_second}",
        f"accuracy changes by {difference.low:+.1%} to {difference.high:+.1%} (95 % interval)",
    )
