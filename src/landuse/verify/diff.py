"""Comparison of inputs and results of a version: recorded then, and rebuilt now; one row each."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from landuse.core.files import read_record, read_table
from landuse.core.paths import METRICS, PREDICTIONS, RUN, SPLITS
from landuse.registry.version_record import RunRecord

TOLERANCE = 1e-6
WIDTH = 18
DIGITS = 9  # rounded to these, 0.100002 and 0.100001 differ by exactly 0.000001
INPUT_TAGS = {
    "commit": "git.commit",
    "data": "data.md5",
    "params": "params.sha256",
    "weights": "weights.sha256",
    "device": "device",
    "processor": "processor",
    "features by": "features.processors",
}


@dataclass(frozen=True)
class Row:
    """One compared item: its recorded value, its current value, and whether they count as the same."""

    name: str
    then: str
    now: str
    same: bool

    def __str__(self) -> str:
        return table_line(self.name, self.then, self.now, "yes" if self.same else "NO")


def table_line(name: str, then: str, now: str, same: str) -> str:
    """Format a line of the table."""
    return f"{name:<20} {then:<20} {now:<20} {same}"


def compare_inputs(recorded: RunRecord, project: Path) -> list[Row]:
    """Compare commit, data, params, weights, device and packages, as far as they were recorded."""
    now = read_record(project / RUN)["tags"]
    rows = []
    for name, tag in INPUT_TAGS.items():
        if tag in recorded.tags:
            before, after = recorded.tags[tag], now.get(tag, "-")
            rows.append(Row(name, before[:WIDTH], after[:WIDTH], before == after))
    return rows + compare_packages(recorded)


def compare_packages(recorded: RunRecord) -> list[Row]:
    """Return a row per package whose version changed, or a single row if none did.

    landuse itself is left out: its code is that of the commit, whatever is installed.
    """
    before = {name: number for name, number in recorded.versions.items() if name != "landuse"}
    now = {name: installed_version(name) for name in before}
    changed = [Row(name, number, now[name], False) for name, number in before.items() if now[name] != number]
    return changed or [Row("packages", f"{len(before)} recorded", "the same", True)]


def installed_version(package: str) -> str:
    """Return the version of an installed package, or say that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def compare_results(recorded: RunRecord, project: Path) -> list[Row]:
    """Compare split, metrics and predictions."""
    splits = compare_splits(recorded.splits, read_table(project / SPLITS))
    predictions = compare_predictions(recorded.predictions, read_table(project / PREDICTIONS))
    return [splits, *compare_metrics(recorded, project), *predictions]


def compare_splits(then: pd.DataFrame, now: pd.DataFrame) -> Row:
    """Compare splits, which must have the same images in the same groups and subsets, in the same order."""
    rows_then, rows_now = (set(table.itertuples(index=False, name=None)) for table in (then, now))
    moved = len({path for path, *_ in rows_then ^ rows_now})
    return Row("split", f"{len(then)} images", f"{moved} otherwise", then.equals(now))


def compare_metrics(recorded: RunRecord, project: Path) -> list[Row]:
    """Compare every metric with the value in the logged file and in the run, then with the rounded tag of the version.

    File and run must agree within 0.000001.
    """
    logged, now = recorded.metrics, read_record(project / METRICS)
    values = {name: value for name, value in now.items() if isinstance(value, int | float)}
    rows = [
        compare_number(name, [logged.get(name), recorded.run_metric(name, now["subset"])], value)
        for name, value in values.items()
    ]
    tagged = {f"{now['subset']}.{name}": value for name, value in values.items()}
    return rows + [compare_tag(tag, recorded.tags[tag], value) for tag, value in tagged.items() if tag in recorded.tags]


def compare_tag(tag: str, recorded: str, now: float) -> Row:
    """Compare a number with a tag of the version, which has four decimals; rounding may tip over within tolerance."""
    rounded = [f"{now + shift:.4f}" for shift in (0, TOLERANCE, -TOLERANCE)]
    return Row(f"tag {tag}", recorded, rounded[0], recorded in rounded)


def compare_number(name: str, recorded: list[float | None], now: float) -> Row:
    """Compare a number with its recorded values; the first one that is missing or differs is shown."""
    different = [value for value in recorded if value is None or not round(abs(value - now), DIGITS) <= TOLERANCE]
    shown = (different or recorded)[0]
    return Row(name, "-" if shown is None else f"{shown:.9g}", f"{now:.9g}", not different)


def compare_predictions(then: pd.DataFrame, now: pd.DataFrame) -> list[Row]:
    """Compare predictions: the same images with the same labels, and probabilities within 0.000001."""
    if then.shape != now.shape or list(then) != list(now):
        return [Row("predictions", f"{len(then)} images", f"{len(now)} images", False)]
    (texts_then, numbers_then), (texts_now, numbers_now) = (
        (table.select_dtypes(exclude="number"), table.select_dtypes("number")) for table in (then, now)
    )
    relabelled = int((texts_then != texts_now).any(axis=1).sum())
    largest = round(float((numbers_then - numbers_now).abs().max().max()), DIGITS)
    return [
        Row("labels", f"{len(then)} images", f"{relabelled} otherwise", not relabelled),
        Row("probabilities", f"{len(then)} images", f"{largest:.1g} apart at most", largest <= TOLERANCE),
    ]
