"""The files of two versions of the data set, as DVC lists them, and what differs between them by content."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA_DVC
from landuse.project.dvc_cache import Listing, cached_file, list_cached

MAX_NAMED = 5  # classes

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DataChange:
    """The difference between two versions, as sorted paths; false if there is none for people.

    moved: path before and after, of images that have another class now
    edited: paths whose content is another now; the old one is gone
    renamed: path before and after within a class, which is no change for people
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: Pairs
    edited: tuple[str, ...]
    renamed: Pairs

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.moved, self.edited))

    def __str__(self) -> str:
        parts = [
            (len(self.added), "+{}", name_classes(self.added, "+")),
            (len(self.removed), "−{}", name_classes(self.removed, "−")),
            (len(self.moved), "{}", " relabelled"),
            (len(self.edited), "{}", " changed in content"),
        ]
        told = [(count, sign.format(f"{count:,}"), rest) for count, sign, rest in parts if count]
        if not told:
            return "no images changed"
        count, amount, rest = told[0]
        first = f"{amount} {'image' if count == 1 else 'images'}{rest}"
        return ", ".join([first, *(amount + rest for _, amount, rest in told[1:])])


def name_classes(paths: Iterable[str], sign: str) -> str:
    """Name the classes of images with their numbers, the largest first, as in ` (beach +60, river +5)`."""
    counts = count_classes(paths).most_common()
    if len(counts) > MAX_NAMED and len({count for _, count in counts}) == 1:
        return f" ({counts[0][1]:,} in each of {len(counts)} classes)"
    named = ", ".join(f"{label} {sign}{count:,}" for label, count in counts[:MAX_NAMED])
    others = len(counts) - MAX_NAMED
    return f" ({named}{f' and {others} other class' + 'es' * (others > 1) if others > 0 else ''})"


def count_classes(paths: Iterable[str]) -> Counter[str]:
    """Count the images of each class, in the order of the classes."""
    return Counter(sorted(map(class_of, paths)))


def class_of(path: str) -> str:
    """Return the class of an image: the folder it lies in."""
    return PurePosixPath(path).parent.name


def read_listing(version: str) -> Listing:
    """Return path and md5 of every file in a version of data/, which is its md5 in data.dvc.

    Raises LanduseError if DVC's cache does not have the list, or a damaged one.
    """
    listing = list_cached(version)
    if listing is None and (path := cached_file(version)).exists():
        raise LanduseError(f"{path} is damaged: remove it, then dvc fetch {DATA_DVC}")
    if listing is None:
        remedy = f"dvc fetch --all-commits {DATA_DVC} brings it from the DVC remote"
        raise LanduseError(f"version {version} of data/ is not in DVC's cache: {remedy}")
    return listing


def compare_versions(before: str, after: str) -> DataChange:
    """Compare two versions of data/ by the md5 in data.dvc. Raises LanduseError as `read_listing` does."""
    if before == after:
        return compare_listings({}, {})
    return compare_listings(read_listing(before), read_listing(after))


def compare_listings(before: Listing, after: Listing) -> DataChange:
    """Compare two versions by content.

    The same content under another path was renamed or, if that is of another class, moved. Of the rest, what has a path
    of before was edited.
    """
    gone = {path: md5 for path, md5 in before.items() if after.get(path) != md5}
    come = {path: md5 for path, md5 in after.items() if before.get(path) != md5}
    renamed = pair_up(gone, come, within_class=True)
    moved = pair_up(gone, come, within_class=False)
    edited = gone.keys() & come.keys()
    return DataChange(
        added=tuple(sorted(come.keys() - edited)),
        removed=tuple(sorted(gone.keys() - edited)),
        moved=moved,
        edited=tuple(sorted(edited)),
        renamed=renamed,
    )


def pair_up(gone: Listing, come: Listing, within_class: bool) -> Pairs:
    """Take the paths with the same content out of both, in pairs, of the same class only or of any."""

    def key(path: str, md5: str) -> tuple[str, str]:
        return md5, class_of(path) if within_class else ""

    waiting: dict[tuple[str, str], list[str]] = {}
    for path in sorted(gone, reverse=True):
        waiting.setdefault(key(path, gone[path]), []).append(path)
    pairs = []
    for path in sorted(come):
        if candidates := waiting.get(key(path, come[path])):
            pairs.append((candidates.pop(), path))
    for old, new in pairs:
        del gone[old], come[new]
    return tuple(sorted(pairs))
