"""A removal: which images of data/ a list names, by path or by content."""

import re
from pathlib import Path
from unicodedata import normalize

from landuse.core.errors import LanduseError, Refused, printable
from landuse.core.files import sha256_of
from landuse.core.paths import DATA
from landuse.ml.images import parallel_map
from landuse.project.dvc_cache import Listing

MAX_NAMED = 3  # images
SHA256 = re.compile(r"([0-9a-fA-F]{64})(?: [ *].*)?")  # alone, or in a line of sha256sum


def read_entries(file: Path) -> dict[int, str]:
    """Return the entries of a list by the number of their line, without blank lines and comments.

    Raises LanduseError if there is no such file, it is no text, or it names nothing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise LanduseError(f"{file}: there is no such file; list one <class>/<image> or sha256 a line") from None
    except UnicodeDecodeError:
        raise LanduseError(f"{file} is no text in UTF-8: list one <class>/<image> or sha256 a line") from None
    lines = {number: normalize("NFC", line.strip()) for number, line in enumerate(text.split("\n"), start=1)}
    entries = {number: line for number, line in lines.items() if line and not line.startswith("#")}
    if not entries:
        raise LanduseError(f"{file} names no image: list one <class>/<image> or sha256 a line")
    return entries


def find_images(file: Path, listing: Listing) -> frozenset[str]:
    """Return the paths in data/, whose files are listed, that a list names.

    A sha256 names every image with that content. Raises Refused at the first entry that names none.
    """
    entries = read_entries(file)
    digests = {number: match[1].lower() for number, entry in entries.items() if (match := SHA256.fullmatch(entry))}
    by_digest = paths_by_digest(listing) if digests else {}
    found: set[str] = set()
    for number, entry in entries.items():
        path = entry.removeprefix("./").removeprefix(f"{DATA}/")
        paths = by_digest.get(digests.get(number, ""), [path] if path in listing else [])
        if not paths:
            raise Refused(f"{printable(file)} is refused: line {number}, {entry}, names no image in {DATA}/")
        found.update(paths)
    return frozenset(found)


def describe_twins(unwanted: frozenset[str], listing: Listing) -> tuple[str, ...]:
    """Tell which images stay although one with the same content is taken out; empty if there are none."""
    contents = {listing[path] for path in unwanted}
    twins = [path for path in sorted(listing.keys() - unwanted) if listing[path] in contents]
    more = f" and {len(twins) - MAX_NAMED:,} more" if len(twins) > MAX_NAMED else ""
    return (f"the same content stays under another name: {', '.join(twins[:MAX_NAMED])}{more}",) if twins else ()


def paths_by_digest(listing: Listing) -> dict[str, list[str]]:
    """Return the paths in data/ by the sha256 of their content."""
    paths = sorted(listing)
    found: dict[str, list[str]] = {}
    for path, digest in zip(paths, parallel_map(sha256_of, (DATA / path for path in paths)), strict=True):
        found.setdefault(digest, []).append(path)
    return found
