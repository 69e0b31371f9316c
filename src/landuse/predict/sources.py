"""Which images are meant: files, folders and patterns become one stream, so that a million take no memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from landuse.core.errors import LanduseError
from landuse.ml.images import IMAGE_SUFFIXES

OUTSIDE = "it is a link that leads out of the folder: name the file itself"
MAGIC = frozenset("*?[")


class Found(NamedTuple):
    """A file that is meant, and why it is not looked at, if so."""

    path: Path
    trouble: str | None = None


def refuse_missing(paths: Iterable[str]) -> None:
    """Raise LanduseError for the first path that is no file, no folder and no pattern, or cannot be looked at."""
    for path in map(Path, paths):
        try:
            found = path.is_file() or path.is_dir() or is_pattern(path)
        except OSError as error:
            raise LanduseError(f"{str(path)[:80]}: {error.strerror}") from None
        if not found:
            raise LanduseError(f"{path}: there is no such image, folder or pattern")


def is_pattern(path: Path) -> bool:
    """Whether it stands for others: it is not there itself, and has a *, ? or [."""
    return not path.exists() and not MAGIC.isdisjoint(str(path))


def find_images(paths: Iterable[str]) -> Iterator[Found]:
    """Every file named, and every image below the folders and patterns named, in the order of the file system."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from walk(path)
        elif is_pattern(path):
            yield from expand(path)
        else:
            yield Found(path)


def expand(pattern: Path) -> Iterator[Found]:
    """The images that match a pattern, and those below folders that match."""
    fixed = next(index for index, part in enumerate(pattern.parts) if not MAGIC.isdisjoint(part))
    folder = Path(*pattern.parts[:fixed])
    if folder.is_dir():
        for found in walk(folder):
            if matches(found.path.relative_to(folder).parts, pattern.parts[fixed:]):
                yield found


def matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path or a folder above it matches a pattern; `**` stands for any number of folders."""
    if not parts:
        return True
    if parts[0] == "**":
        return matches(names, parts[1:]) or bool(names) and matches(names[1:], parts)
    return bool(names) and fnmatchcase(names[0], parts[0]) and matches(names[1:], parts[1:])


def walk(folder: Path) -> Iterator[Found]:
    """The images below a folder, but for hidden ones; and as trouble what cannot be read or leads out of the folder."""
    home, waiting = Path(os.path.realpath(folder)), [folder]
    while waiting:
        inner = waiting.pop()
        try:
            entries = os.scandir(inner)
        except OSError as error:
            yield Found(inner, error.strerror)
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(inner / entry.name)
                elif entry.is_symlink() or entry.is_file():
                    yield from look(inner / entry.name, home, entry.is_symlink())


def look(path: Path, home: Path, is_link: bool) -> Iterator[Found]:
    """The file, if it is an image of this folder. A link to another folder inside is passed over: it is met there."""
    target = Path(os.path.realpath(path)) if is_link else path
    is_image, is_folder = path.suffix.lower() in IMAGE_SUFFIXES, os.path.isdir(target)
    if is_link and not target.is_relative_to(home):
        if is_image or is_folder:
            yield Found(path, OUTSIDE)
    elif is_image and not is_folder:
        yield Found(path)
