"""An addition: which images of a batch are new beside those in data/, and under which names they are taken in."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath

from landuse.core.errors import DISK_FULL, Refused
from landuse.core.paths import DATA, INCOMING
from landuse.ingest.sources import Source
from landuse.ingest.unpack import one_line_errors
from landuse.ml.images import image_paths
from landuse.project.dvc_cache import Listing
from landuse.project.listings import class_of

BATCH = INCOMING / "batch"
MAX_NAMED = 3  # images


@dataclass(frozen=True)
class Addition:
    """The new images of a batch.

    names: the path of each new image in data/, by that in the batch
    known: number of images left out because their content is there already
    ignored: number of files left out because they are not images
    """

    source: Source
    names: dict[str, str]
    known: int
    ignored: int

    def notes(self) -> tuple[str, ...]:
        """Tell what is left out, and what is taken in under another name."""
        known = f"{self.known:,} of its images {'was' if self.known == 1 else 'were'} there already"
        renamed = [f"{path} as {name}" for path, name in self.names.items() if path != name]
        more = f" and {len(renamed) - MAX_NAMED:,} more" if len(renamed) > MAX_NAMED else ""
        taken_in = f"taken in under a free name: {', '.join(renamed[:MAX_NAMED])}{more}"
        return (*([known] if self.known else []), *([taken_in] if renamed else []))


def unpack_addition(source: Source, listing: Listing) -> Addition:
    """Unpack a batch beside data/, whose files are listed, and find out what is new in it.

    Raises Refused if an image has the content of one of another class.
    """
    ignored = source.fill(BATCH)
    paths = [path.as_posix() for path in image_paths(BATCH)]
    new = list(new_images(paths, listing, source.name))
    return Addition(source, free_names(new, paths, listing), len(paths) - len(new), ignored)


def new_images(paths: list[str], listing: Listing, name: str) -> Iterator[str]:
    """Yield the images of the batch whose content is neither in data/ nor came before it in the batch.

    Raises Refused at one whose content has another class there.
    """
    known = {md5: path for path, md5 in listing.items()}
    for path in paths:
        md5 = md5_of(BATCH / path)
        same = known.setdefault(md5, path)
        if class_of(same) != class_of(path):
            place = f"{DATA}/{same}" if listing.get(same) == md5 else f"its {same}"
            raise Refused(f"{name} is refused: its {path} is the same image as {place}: an image has one class only")
        if same == path and listing.get(path) != md5:
            yield path


def md5_of(path: Path) -> str:
    """Return the md5 of a file, by which DVC knows it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def free_names(new: list[str], paths: list[str], listing: Listing) -> dict[str, str]:
    """Return the path in data/ of each new image: its own unless that is taken, else one with a number.

    Names that differ in capital letters only are the same on some disks.
    """
    taken, names = {path.casefold() for path in listing}, {}
    reserved = taken | {path.casefold() for path in paths}
    for path in new:
        names[path] = next(free for free in numbered(path, reserved)) if path.casefold() in taken else path
        taken.add(names[path].casefold())
        reserved.add(names[path].casefold())
    return names


def numbered(path: str, reserved: set[str]) -> Iterator[str]:
    """Yield `<name>-2`, `<name>-3` and so on, without those that are reserved."""
    pure = PurePosixPath(path)
    candidates = (str(pure.with_stem(f"{pure.stem}-{number}")) for number in count(2))
    return (candidate for candidate in candidates if candidate.casefold() not in reserved)


def place_images(addition: Addition, folder: Path) -> None:
    """Move the new images from the batch to their names in a folder."""
    with one_line_errors(addition.source.name):
        for path, name in addition.names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(BATCH / path, folder / name)


def link_images(listing: Listing, folder: Path, without: frozenset[str] = frozenset()) -> None:
    """Fill a new folder with the files of data/, which need no room a second time; some may be left out.

    Neither the files nor what they may be linked to in DVC's cache are ever written to.
    """
    folder.mkdir(parents=True)
    for path in sorted(listing.keys() - without):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(DATA / path, folder / path)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, the same symbolic link, or where the disk has no links, a copy."""
    try:
        if source.is_symlink():
            os.symlink(source.resolve(), target)
        else:
            os.link(source, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        shutil.copyfile(source, target)
