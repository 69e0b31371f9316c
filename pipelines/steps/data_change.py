"""Description, in words and counts, of how the data of a retraining differs from that of the training before.

What changed is told by content where DVC's cache has both versions, else by the counts that the registry has.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse import registry
from landuse.core.errors import LanduseError, Unavailable
from landuse.gate.shrinkage import describe_classes
from landuse.project.listings import DataChange, compare_versions
from landuse.registry.version_record import read_splits
from landuse.tracking.names import facts_of

if TYPE_CHECKING:
    import pandas as pd

MAX_NAMED = 5  # classes


@dataclass(frozen=True)
class DataSet:
    """The data that a version was trained on: its MD5 in DVC, and the number of images by class."""

    md5: str
    counts: "pd.Series[int]"

    @property
    def size(self) -> str:
        """Number of images and classes, and how many images a class has."""
        fewest, most = int(self.counts.min()), int(self.counts.max())
        each = (
            f"{fewest}" if fewest == most else f"{fewest} ({self.counts.idxmin()}) to {most} ({self.counts.idxmax()})"
        )
        return (
            f"{number(int(self.counts.sum()), 'image')} in {number(len(self.counts), 'class', 'classes')}, {each} each"
        )


def read_data_set(model: str, version: str) -> DataSet:
    """Read what a version was trained on. Raises LanduseError if the registry or its run no longer knows."""
    found = registry.get_version(model, version)
    counts = read_splits(found)["label"].value_counts().sort_index()
    return DataSet(facts_of(found.tags).get("data.md5", "unknown"), counts)


def read_earlier(registration: dict[str, str]) -> DataSet | None:
    """Read what the version of an earlier registration was trained on; None if that is no longer known."""
    try:
        return read_data_set(registration["model"], registration["version"])
    except Unavailable:
        raise
    except LanduseError:
        return None


def compare_contents(now: DataSet, before: DataSet | None) -> DataChange | None:
    """Compare two data sets by content; None if DVC's cache does not have both, or one is not known."""
    try:
        return compare_versions(before.md5, now.md5) if before else None
    except LanduseError:
        return None


def describe_data_change(
    now: DataSet, before: DataSet | None, is_first: bool, contents: DataChange | None = None
) -> tuple[str, str]:
    """Tell in a few words how the data changed, and then in more, which may be empty.

    Args:
        now: what was trained on
        before: what the training before it was trained on; None if there was none, or it is not known any more
        is_first: whether there was none
        contents: what changed by content; None if that is not known
    """
    if before is None:
        return "the first data set" if is_first else "the data set before is not known any more", now.size
    if now.md5 == before.md5:
        return "no images changed", f"still {now.size}"
    if contents is not None:
        return ", ".join([str(contents), *describe_classes(now.counts, before.counts)]), ""
    if now.counts.equals(before.counts):
        return "other images, as many of every class as before", now.size
    change = int(now.counts.sum()) - int(before.counts.sum())
    amount = f"{number(abs(change), 'image')} {comparison(change)}" if change else "as many images as before"
    return ", ".join([amount, *describe_classes(now.counts, before.counts)]), describe_counts(now, before)


def describe_counts(now: DataSet, before: DataSet) -> str:
    """Tell how many images the classes that stayed have more or fewer, the largest change first; empty if none has."""
    change = now.counts.sub(before.counts).dropna().astype(int)
    kept, change = len(change), change[change != 0].sort_values(key=abs, ascending=False, kind="stable")
    if kept > 1 and len(change) == kept and change.nunique() == 1:
        return f"each of {kept} classes has {abs(change.iloc[0])} {comparison(change.iloc[0])}"
    named = [f"{label} {abs(value)} {comparison(value)}" for label, value in change.iloc[:MAX_NAMED].items()]
    others = len(change) - len(named)
    return ", ".join(named) + (f", and {number(others, 'other class', 'other classes')} changed" if others else "")


def comparison(change: int) -> str:
    """Return the word for a change."""
    return "more" if change > 0 else "fewer"


def number(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
