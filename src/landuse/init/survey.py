"""Survey: look at the headers of all images of a folder or archive once, without decoding them."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from PIL import Image

from landuse.core.errors import Refused, one_line
from landuse.core.progress import track
from landuse.ingest.unpack import folder_members, image_path, one_line_errors, unpack_archive

SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
MIN_IMAGES = 5  # of a class: fewer leave none for training, validation or test


@dataclass
class Survey:
    """The images found, counted by class, by mode of Pillow, and by width and height, and the number of other files."""

    classes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    others: int = 0

    @property
    def images(self) -> int:
        """Number of images."""
        return self.classes.total()


def survey(source: Path) -> Survey:
    """Survey a folder `<class>/<image>`, or a zip or tar archive of one.

    Raises LanduseError if it cannot be read, and Refused if it holds no classes of at least five images each.
    """
    name = str(source)
    with as_folder(source) as folder, one_line_errors(name):
        found, members = Survey(), list(folder_members(folder, name))
        for member, _, open_member in track(members, len(members), "look"):
            path = image_path(member, name)
            if path is None:
                found.others += 1
                continue
            with open_member() as stream:
                mode, size = read_header(stream, f"{name}/{member}")
            found.classes[path.parent.name] += 1
            found.modes[mode] += 1
            found.sizes[size] += 1
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
        unpack_archive(source, str(source), Path(folder))
        yield Path(folder)


def read_header(stream: IO[bytes], name: str) -> tuple[str, tuple[int, int]]:
    """Return mode and size of an image. Raises Refused if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream) as image:
                return image.mode, image.size
    except Exception as error:  # Pillow raises all kinds of errors for damaged files
        raise Refused(f"{name} is no image that can be read: {one_line(error, 160)}; remove or replace it") from None


def refuse_unfit(found: Survey, name: str) -> None:
    """Raise Refused if the classes cannot be learned, with what was found instead."""
    if not found.images:
        raise Refused(f"{name} holds no images in folders of classes: arrange them as <class>/<image>")
    if len(found.classes) < 2:
        raise Refused(f"{name} holds one class only, {next(iter(found.classes))}: a classifier needs two or more")
    if splits := {label for label in found.classes if label.lower() in SPLIT_FOLDERS}:
        raise Refused(
            f"{name}: {', '.join(sorted(splits))} look like parts of a split rather than classes; name one folder of "
            "class folders, such as the training images, since landuse splits by itself"
        )
    folded: dict[str, str] = {}
    for label in sorted(found.classes):
        if (other := folded.setdefault(label.casefold(), label)) != label:
            raise Refused(f"{name}: the classes {other} and {label} differ in capital letters only: rename one")
    few = [f"{label} ({count})" for label, count in sorted(found.classes.items()) if count < MIN_IMAGES]
    if few:
        raise Refused(f"{name}: {', '.join(few)}: a class needs {MIN_IMAGES} images or more; add some, or leave it out")
