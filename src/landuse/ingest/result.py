"""The result of an ingest, described in one line."""

from dataclasses import dataclass, field
from typing import Any

from landuse.core.errors import LanduseError
from landuse.project.listings import compare_versions


@dataclass(frozen=True)
class IngestResult:
    """The contents of data/ after an ingest.

    version: the md5 in data.dvc
    ignored: number of files left out because they are not images
    changed: the version differs from the one before
    restored: the version is the same, but data/ was missing
    notes: what else there is to tell, such as what differs from the version before
    """

    version: str
    source: str
    digest: str
    images: int
    classes: int
    ignored: int
    changed: bool
    restored: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        state = "is new" if self.changed else "is restored" if self.restored else "is unchanged"
        left_out = f", {self.ignored:,} other files left out" if self.ignored else ""
        contents = f"{self.images:,} images in {self.classes} classes from {self.source}{left_out}"
        return "; ".join([f"data/ {state}: {contents}", *self.notes, f"version {self.version}"])


def to_result(
    metadata: dict[str, Any], changed: bool, restored: bool = False, notes: tuple[str, ...] = ()
) -> IngestResult:
    """Convert the metadata in data.dvc to a result."""
    fields = ("version", "source", "digest", "images", "classes", "ignored")
    return IngestResult(**{key: metadata[key] for key in fields}, changed=changed, restored=restored, notes=notes)


def describe_change(before: str | None, after: str) -> tuple[str, ...]:
    """Tell how a version of the data differs from the one before; nothing if there was none, or it is not known."""
    if before in (None, after):
        return ()
    try:
        return (str(compare_versions(before, after)),)
    except LanduseError:
        return ()
