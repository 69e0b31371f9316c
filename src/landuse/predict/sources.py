"""Find the images that files, folders and patterns name, as a stream, so that a million take no memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from landuse.core.errors import LanduseError
from landuse.ml.images import IMAGE_SUFFIXES

OUTSIDE = "it is a link that leads out of the folder: name the file itself"
MAGIC = frozenset("*?[")


class FoundImage(NamedTuple):
    """A file to predict, or the problem for which it is skipped."""

    path: Path
    problem: str | None = None


def require_existing(paths: Iterable[str]) -> None:
    """Raise LanduseError for the first path that is no file, folder or pattern, or cannot be accessed."""
    for path in map(Path, paths):
        try:
            exists = path.is_file() or path.is_dir() or is_pattern(path)
        except OSError as error:
            raise LanduseError(f"{str(path)[:80]}: {error.strerror}") from None
        if not exists:
            raise LanduseError(f"{path}: there is no such image, folder or pattern")


def is_pattern(path: Path) -> bool:
    """Return whether a path is a glob pattern: it does not exist itself and contains *, ? or [."""
    return not path.exists() and not MAGIC.isdisjoint(str(path))


def find_images(paths: Iterable[str]) -> Iterator[FoundImage]:
    """Yield every named file, and every image below the named folders and patterns, in file system order."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from walk(path)
        elif is_pattern(path):
            yield from expand_pattern(path)
        else:
            yield FoundImage(path)


def expand_pattern(pattern: Path) -> Iterator[FoundImage]:
    """Yield the images that match a pattern, and those below matching folders."""
    fixed = next(index for index, part in enumerate(pattern.parts) if not MAGIC.isdisjoint(part))
    folder = Path(*pattern.parts[:fixed])
    if folder.is_dir():
        for image in walk(folder):
            if matches(image.path.relative_to(folder).parts, pattern.parts[fixed:]):
                yield image


def matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether a path or one of its parent folders matches a pattern; `**` matches any number of folders."""
    if not parts:
        return True
    if parts[0] == "**":
        return matches(names, parts[1:]) or bool(names) and matches(names[1:], parts)
    return bool(names) and fnmatchcase(names[0], parts[0]) and matches(names[1:], parts[1:])


def walk(folder: Path) -> Iterator[FoundImage]:
    """Yield the images below a folder, without hidden ones. Unreadable folders and links leading out are problems."""
    root, waiting = Path(os.path.realpath(folder)), [folder]
    while waiting:
        inner = waiting.pop()
        try:
            entries = os.scandir(inner)
        except OSError as error:
            yield FoundImage(inner, error.strerror)
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(inner / entry.name)
                elif entry.is_symlink() or entry.is_file():
                    yield from check_entry(inner / entry.name, root, entry.is_symlink())


def check_entry(path: Path, root: Path, is_link: bool) -> Iterator[FoundImage]:
    """Yield the file if it is an image. A link to a folder inside is skipped, since the walk visits that folder."""
    target = Path(os.path.realpath(path)) if is_link else path
    is_image, is_folder = path.suffix.lower() in IMAGE_SUFFIXES, os.path.isdir(target)
    if is_link and not target.is_relative_to(root):
        if is_image or is_folder:
            yield FoundImage(path, OUTSIDE)
    elif is_image and not is_folder:
        yield FoundImage(path)
