"""Diff: which images differ between the data set at a git revision and another one, or that of now."""

from landuse.core.paths import ARTIFACTS, DIFF_PAGE
from landuse.diff.page import render
from landuse.project.dvc_cache import Listing
from landuse.project.lineage import data_version_at, read_data_dvc
from landuse.project.listings import compare_listings, count_classes, read_listing

NOW = "now"


def diff(revision: str, other: str | None = None) -> str:
    """Tell what changed in data.dvc since a revision, or between two, and show the images in `artifacts/diff.html`.

    Raises LanduseError if a revision has no data set, or DVC's cache does not have its list of files.
    """
    versions = data_version_at(revision), data_version_at(other) if other else read_data_dvc()["outs"][0]["md5"]
    before, after = map(read_listing, versions)
    change = compare_listings(before, after)
    names = revision, other or NOW
    rows = class_rows(before, after)
    ARTIFACTS.mkdir(exist_ok=True)
    DIFF_PAGE.write_text(render(change, before, after, names, versions, rows), encoding="utf-8")
    table = [f"{label:<24} {first:>10,} {second:>10,}" for label, first, second in rows]
    head = [f"{'':<24} {names[0]:>10.10} {names[1]:>10.10}"] if rows else []
    return "\n".join([str(change), *head, *table, f"{DIFF_PAGE} shows the images"])


def class_rows(before: Listing, after: Listing) -> list[tuple[str, int, int]]:
    """Return one row per class that has more or fewer images: class, images before, images after."""
    first, second = count_classes(before), count_classes(after)
    return [
        (label, first[label], second[label]) for label in sorted({*first, *second}) if first[label] != second[label]
    ]
