"""The row of an image in the manifest: metadata, digests and statistics of its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any

from PIL import Image, ImageStat

from landuse.core.errors import LanduseError
from landuse.ml.image_file import ImageFile
from landuse.ml.images import decode, to_upright_rgb
from landuse.ml.perceptual_hash import difference_hashes

ManifestRow = dict[str, Any]


@dataclass(frozen=True)
class DigestTask:
    """Compute the sha256 of image files; an empty text for one that cannot be read."""

    def prepare(self) -> Callable[[ImageFile], str]:
        """Return the function that does it."""
        return digest_of


@dataclass(frozen=True)
class RowTask:
    """Make the manifest rows of images."""

    def prepare(self) -> Callable[[ImageFile], ManifestRow]:
        """Return the function that does it."""
        return describe_image


def digest_of(image: ImageFile) -> str:
    """Return the sha256 of an image file, or an empty text if it cannot be read."""
    try:
        return sha256(image.read()).hexdigest()
    except OSError:
        return ""


def describe_image(image: ImageFile) -> ManifestRow:
    """Return the manifest row of an image; of one that does not decode, only `reason` and what needs no pixels."""
    row: ManifestRow = {"path": image.path.as_posix(), "label": image.path.parent.name, "decodes": False, "reason": ""}
    try:
        content = image.read()
    except OSError as error:
        return row | {"reason": f"the file cannot be read: {error.strerror}"}
    row |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    try:
        with decode(BytesIO(content)) as decoded:
            statistics = image_statistics(to_upright_rgb(decoded))
            return row | {"mode": decoded.mode, "format": decoded.format} | statistics | {"decodes": True}
    except LanduseError as error:
        reason = str(error).partition("cannot be decoded: ")[2] if content else "the file is empty"
        return row | {"reason": reason}


def image_statistics(image: Image.Image) -> dict[str, Any]:
    """Compute size, difference hashes, channel means, brightness and contrast (0-255) of an RGB image."""
    grey = image.convert("L")
    red, green, blue = ImageStat.Stat(image).mean
    levels = ImageStat.Stat(grey)
    means = {"red": red, "green": green, "blue": blue, "brightness": levels.mean[0], "contrast": levels.stddev[0]}
    size = {"width": image.width, "height": image.height}
    return size | difference_hashes(grey) | {name: round(value, 3) for name, value in means.items()}
