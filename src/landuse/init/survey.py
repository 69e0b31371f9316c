"""Survey: look at the headers of all images of a folder or archive once, without decoding them."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unicodedata import normalize

from PIL import Image

from landuse.core.errors import Refused, one_line
from landuse.core.progress import track
from landuse.ingest.tar import Member
from landuse.ingest.unpack import MAX_CLASSES, folder_members, image_path, one_line_errors, unpack_archive
from landuse.init.resolution import read_resolution, world_file
from landuse.ml.image_formats import FORMATS
from landuse.ml.images import parallel_map, refuse_unsafe_name

SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
MIN_IMAGES = 5  # of a class: fewer leave none for training, validation or test
NAMED = 5  # classes that an error lists


class Header(NamedTuple):
    """Facts that a file tells of an image: class, mode of Pillow, width and height, ground resolution in words."""

    label: str
    mode: str
    size: tuple[int, int]
    resolution: str | None


@dataclass
class Survey:
    """The images found, counted by class, mode, size and ground resolution, and the number of other files."""

    classes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    resolutions: Counter[str] = field(default_factory=Counter)
    others: int = 0

    @property
    def images(self) -> int:
        """Number of images."""
        return self.classes.total()

    def add(self, header: Header) -> None:
        """Count an image."""
        self.classes[header.label] += 1
        self.modes[header.mode] += 1
        self.sizes[header.size] += 1
        if header.resolution:
            self.resolutions[header.resolution] += 1


def survey(source: Path) -> Survey:
    """Survey a folder `<class>/<image>`, or a zip or tar archive of one.

    Raises LanduseError if it cannot be read, and Refused if it holds no classes of at least five images each.
    """
    name = str(source)
    with one_line_errors(name), as_folder(source) as folder:
        members = [member for member, _, _ in refuse_misleading(folder_members(folder, name), name)]
        images = [member for member in members if image_path(member, name)]
        found = Survey(others=len(members) - len(images))
        beside = frozenset(members)
        headers = parallel_map(partial(read_header, folder, beside, name), images)
        for header in track(headers, len(images), "look"):
            found.add(header)
    refuse_unfit(found, name)
    return found


@contextmanager
def as_folder(source: Path) -> Iterator[Path]:
    """Yield a folder, or the images of an archive unpacked into a temporary one. Raises Refused if it is neither."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise Refused(f"{source}: there is no such file or folder")
    with TemporaryDirectory(prefix="landuse-") as folder:
        unpack_archive(source, str(source), Path(folder), partial(refuse_misleading, name=str(source)))
        yield Path(folder)


def refuse_misleading(members: Iterator[Member], name: str) -> Iterator[Member]:
    """Yield the members. Raises Refused at an image whose folders would be taken for something they are not.

    These are the parts of a split above the folders of classes, and one class under two spellings. Names that
    `landuse validate` refuses are refused here already.
    """
    part, labels = "", dict[str, str]()
    for member in members:
        if path := image_path(member[0], name):
            refuse_unsafe_name(path.as_posix())
            *above, label, _ = PurePosixPath(member[0]).parts
            other = labels.setdefault(normalize_spelling(label), label)
            if other != label:
                raise Refused(describe_spellings(name, other, label))
            found = part_of_split(tuple(above))
            if found and part and found != part:
                raise Refused(
                    f"{name}: the class folders, such as {path.parent.name}, lie in {part} and in {found}, which look "
                    f"like parts of a split: name one of them, as in landuse init {name}/{part} (of an archive, unpack "
                    "it first), since landuse splits by itself"
                )
            part = part or found
        yield member


def part_of_split(folders: tuple[str, ...]) -> str:
    """Return the path of the first of the folders that is named like a part of a split; "" if there is none."""
    names = [index for index, folder in enumerate(folders, start=1) if folder.lower() in SPLIT_FOLDERS]
    return "/".join(folders[: names[0]]) if names else ""


def normalize_spelling(label: str) -> str:
    """Return a text that is the same for spellings of a name: letters, accents and blanks may be written in ways."""
    return re.sub(r"[\s_-]+", " ", normalize("NFKC", label).casefold()).strip()


def describe_spellings(name: str, first: str, second: str) -> str:
    """Say that two folders are the same class, in a way that shows the difference."""
    alike = normalize("NFKC", first) == normalize("NFKC", second)
    shown = f"{first!a} and {second!a}" if alike else f"{first} and {second}"
    return f"{name}: the classes {shown} are one name in two spellings: put their images into one folder, or rename one"


def read_header(folder: Path, beside: frozenset[str], name: str, member: str) -> Header:
    """Read the header of an image, and the world file beside it. Raises Refused if it is no image."""
    path, world = folder / member, world_file(member, beside)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                resolution = read_resolution(image, folder / world if world else None)
                return Header(Path(normalize("NFC", member)).parent.name, image.mode, image.size, resolution)
    except Exception as error:  # Pillow raises all kinds of errors for damaged files
        reason = getattr(error, "strerror", None) or one_line(error, 160).replace(f"{str(path)!r}", "it")
        raise Refused(f"{name}/{member} is no image that can be read: {reason}; remove or replace it") from None


def refuse_unfit(found: Survey, name: str) -> None:
    """Raise Refused if the classes cannot be learned, with what was found instead."""
    if not found.images:
        raise Refused(f"{name} holds no images in folders of classes: arrange them as <class>/<image>")
    if len(found.classes) < 2:
        raise Refused(f"{name} holds one class only, {next(iter(found.classes))}: a classifier needs two or more")
    if len(found.classes) > MAX_CLASSES:
        raise Refused(f"{name} holds more than {MAX_CLASSES:,} class folders: arrange the images as <class>/<image>")
    if splits := {label for label in found.classes if label.lower() in SPLIT_FOLDERS}:
        raise Refused(
            f"{name}: {', '.join(sorted(splits))} look like parts of a split rather than classes; name one folder of "
            "class folders, such as the training images, since landuse splits by itself"
        )
    few = [f"{label} ({count})" for label, count in sorted(found.classes.items()) if count < MIN_IMAGES]
    if few:
        shown = ", ".join(few[:NAMED]) + (f" and {len(few) - NAMED:,} more" if len(few) > NAMED else "")
        raise Refused(f"{name}: {shown}: a class needs {MIN_IMAGES} images or more; add some, or leave it out")
