"""What went in and what came out, then and now: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from landuse.core.files import read_record, read_table
from landuse.core.paths import METRICS, PREDICTIONS, RUN, SPLITS

TOLERANCE = 1e-6
WIDTH = 18
DIGITS = 9  # so that 0.100002 and 0.100001 are 0.000001 apart, and no more
TAGS = {
    "commit": "git.commit",
    "data": "data.md5",
    "params": "params.sha256",
    "weights": "weights.sha256",
    "device": "device",
    "processor": "processor",
}


@dataclass(frozen=True)
class Row:
    """One thing, as it was and as it is."""

    what: str
    then: str
    now: str
    same: bool

    def __str__(self) -> str:
        return line(self.what, self.then, self.now, "yes" if self.same else "NO")


def line(what: str, then: str, now: str, same: str) -> str:
    """A line of the table."""
    return f"{what:<20} {then:<20} {now:<20} {same}"


@dataclass(frozen=True)
class Then:
    """What is recorded of a version: its tags, the metrics of its run, and the folder with the files of the run."""

    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    folder: Path


def ingredients(then: Then, project: Path) -> list[Row]:
    """Commit, data, params, weights, device and packages: what a result is made of, as far as it was recorded."""
    now = read_record(project / RUN)["tags"]
    rows = [(what, then.tags[tag], now.get(tag, "-")) for what, tag in TAGS.items() if tag in then.tags]
    return [Row(what, was[:WIDTH], found[:WIDTH], was == found) for what, was, found in rows] + packages(then)


def packages(then: Then) -> list[Row]:
    """Those of another version than then, or one row that says that there are none.

    landuse itself is left out: its code is that of the commit, whatever is installed.
    """
    recorded = {name: was for name, was in read_record(then.folder / "versions.json").items() if name != "landuse"}
    found = {name: installed(name) for name in recorded}
    changed = [Row(name, was, found[name], False) for name, was in recorded.items() if found[name] != was]
    return changed or [Row("packages", f"{len(recorded)} recorded", "the same", True)]


def installed(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def results(then: Then, project: Path) -> list[Row]:
    """Split, metrics and predictions: what comes out."""
    splits, predictions = (
        [read_table(file) for file in (then.folder / path.name, project / path)] for path in (SPLITS, PREDICTIONS)
    )
    return [compare_splits(*splits), *compare_metrics(then, project), *compare_predictions(*predictions)]


def compare_splits(then: pd.DataFrame, now: pd.DataFrame) -> Row:
    """The same images in the same groups and subsets, in the same order."""
    was, found = (set(table.itertuples(index=False, name=None)) for table in (then, now))
    moved = len({path for path, *_ in was ^ found})
    return Row("split", f"{len(then)} images", f"{moved} otherwise", then.equals(now))


def compare_metrics(then: Then, project: Path) -> list[Row]:
    """Every number, as the run and its file state it, within 0.000001; and as the tags of the version do, rounded."""
    stated, now = read_record(then.folder / METRICS.name), read_record(project / METRICS)
    numbers = {name: value for name, value in now.items() if isinstance(value, int | float)}
    rows = [compare_number(name, [stated.get(name), then.metrics.get(name)], numbers[name]) for name in numbers]
    tagged = {f"{now['subset']}.{name}": value for name, value in numbers.items()}
    return rows + [compare_tag(tag, then.tags[tag], value) for tag, value in tagged.items() if tag in then.tags]


def compare_tag(tag: str, stated: str, now: float) -> Row:
    """A number beside the tag of a version that states it with four digits."""
    rounded = [f"{now + shift:.4f}" for shift in (0, TOLERANCE, -TOLERANCE)]
    return Row(f"tag {tag}", stated, rounded[0], stated in rounded)


def compare_number(name: str, stated: list[float | None], now: float) -> Row:
    """A number beside what is stated of it in several places: the first place where it is another counts."""
    far = [value for value in stated if value is None or not round(abs(value - now), DIGITS) <= TOLERANCE]
    was = (far or stated)[0]
    return Row(name, "-" if was is None else f"{was:.9g}", f"{now:.9g}", not far)


def compare_predictions(then: pd.DataFrame, now: pd.DataFrame) -> list[Row]:
    """The same images with the same labels, and the probabilities of them within 0.000001."""
    if then.shape != now.shape or list(then) != list(now):
        return [Row("predictions", f"{len(then)} images", f"{len(now)} images", False)]
    (words, figures), (words_now, figures_now) = (
        (table.select_dtypes(exclude="number"), table.select_dtypes("number")) for table in (then, now)
    )
    others = int((words != words_now).any(axis=1).sum())
    apart = round(float((figures - figures_now).abs().max(axis=None)), DIGITS)
    return [
        Row("labels", f"{len(then)} images", f"{others} otherwise", not others),
        Row("probabilities", f"{len(then)} images", f"{apart:.1g} apart at most", apart <= TOLERANCE),
    ]
