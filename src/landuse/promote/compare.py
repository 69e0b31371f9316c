"""Compare: two versions on the same images, as the gate would see them, without a verdict."""

from pathlib import Path
from tempfile import TemporaryDirectory

from landuse import registry
from landuse.gate.comparison import p_value, weigh
from landuse.gate.scoring import Evidence, facing, own_evidence, undisturbed
from landuse.ml.metrics import scores
from landuse.params import EvaluateParams


def compare(name: str, first: str, second: str, evaluation: EvaluateParams) -> str:
    """Scores of both versions on the held-out images of the second that the first was not trained on, as a table.

    Raises LanduseError where a version is not there or damaged, or data/ is not the data set of the second.
    """
    with registry.at_hand(), TemporaryDirectory() as folder:
        one, other = (registry.get_version(name, number) for number in (first, second))
        with undisturbed():
            _, evidence = own_evidence(other, Path(folder, "second"))
            faced = facing(one, evidence, Path(folder, "first"))
    before, after = faced.opponent, faced.challenger
    rows = [("", f"version {one.version}", f"version {other.version}"), *table(before, after, evaluation)]
    lines = [f"{what:<24} {left:>12} {right:>12}" for what, left, right in rows]
    count = f"on {len(after.table)} of the {len(evidence.table)} held-out images of version {other.version}"
    return "\n".join([*lines, count, *odds(before, after)])


def table(before: Evidence, after: Evidence, evaluation: EvaluateParams) -> list[tuple[str, str, str]]:
    """What, and how much of it in both: the scores, then the recall of every class where they differ."""
    found = [scores(model.actual, model.probabilities, evaluation.calibration_bins) for model in (before, after)]
    rows = [(name.replace("_", " "), *(f"{values[name]:.4f}" for values in found)) for name in found[0]]
    differ = after.recall.notna() & (before.recall != after.recall)
    changed = [label for label in after.labels if differ[label]]
    return rows + [
        (f"recall {label}", f"{before.recall[label]:.4f}", f"{after.recall[label]:.4f}") for label in changed
    ]


def odds(before: Evidence, after: Evidence) -> tuple[str, str]:
    """On how many images they differ, look-alikes counted as one, and by how much accuracy really may."""
    found = weigh(after, before)
    only_second = f"only by the second: {found.better} ({p_value(found.chance)})"
    return (
        f"images, look-alikes as one, right only by the first: {found.worse}, {only_second}",
        f"accuracy changes by {found.low:+.1%} to {found.high:+.1%} (95 % interval)",
    )
