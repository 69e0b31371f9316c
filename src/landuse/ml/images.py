"""Image loading: from a file to the pixels a network gets. The same for training, evaluation and serving."""

import os
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from landuse.core.errors import LanduseError, Refused, one_line
from landuse.ml.image_formats import (
    bit_depth,
    correct_colours,
    explain_undecodable,
    explain_unidentified,
    is_white_zero,
    open_image,
    refuse_many_scans,
    refuse_misread,
    refuse_missing_colours,
    tile_size,
)

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp"})
MAX_PIXELS = 50_000_000
READ_AHEAD = 64
TILE_PIXELS = 1_000_000
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: CPU microseconds, over all cores, per period
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")


def refuse_unsafe_name(path: str) -> None:
    """Raise Refused for the path of an image that is unsafe in a one-line message or in the HTML of the Data Docs."""
    if not path.isprintable() or set('<>"') & set(path):
        raise Refused(f"image {path!a} has <, >, a quote or an unprintable character: rename it")


def image_paths(folder: Path) -> list[Path]:
    """List the images `<class>/<image>` of a folder, relative to it and sorted."""
    return sorted(path.relative_to(folder) for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB with 8 bits per channel, rotated by its EXIF orientation, transparency on white."""
    transpose, bits, negative = EXIF_TRANSPOSES.get(exif_orientation(image)), bit_depth(image), is_white_zero(image)
    transparent = image.info.get("transparency")
    image = image if transpose is None else image.transpose(transpose)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        levels = (deep >> (bits - 8)).astype(np.uint8)
        levels = 255 - levels if negative else levels  # Pillow inverts 8-bit levels itself
        levels = levels if transparent is None else np.where(deep == transparent, np.uint8(255), levels)
        return Image.fromarray(levels).convert("RGB")
    if image.mode == "La":  # levels already multiplied by alpha, which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        return composite_on_white(image.convert("RGBA"))
    return image.convert("RGB")


def composite_on_white(image: Image.Image) -> Image.Image:
    """Composite an RGBA image on white, as RGB. Works by tiles, since Pillow holds the GIL while compositing."""
    opaque = Image.new("RGB", image.size)
    width = min(image.width, TILE_PIXELS)
    height = TILE_PIXELS // width
    for left, top in product(range(0, image.width, width), range(0, image.height, height)):
        tile = image.crop((left, top, min(left + width, image.width), min(top + height, image.height)))
        opaque.paste(Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile).convert("RGB"), (left, top))
    return opaque


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, if there is none or it cannot be read."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises all kinds of errors for a damaged EXIF block; the pixels are unaffected
        return 1
    return orientation


def decode(source: Path | BinaryIO) -> Image.Image:
    """Decode an image as it is stored; of several frames, the first.

    Raises LanduseError with the reason if it cannot be decoded, has more than 50 million pixels or 100 scans,
    or has levels without a defined black and white.
    """
    name = source if isinstance(source, Path) else "image"
    try:
        image = open_image(source)
    except UnidentifiedImageError:
        raise LanduseError(f"{name} cannot be decoded: {explain_unidentified(source)}") from None
    except Exception as error:  # Pillow raises all kinds of errors for a damaged file
        raise decode_error(name, error) from None
    try:
        refuse_unusable(image)
        refuse_many_scans(source, image)
        correct_colours(image)
        image.load()
        refuse_missing_colours(image)
    except Exception as error:
        image.close()
        raise decode_error(name, explain_undecodable(image, error)) from None
    return image


def pixel_count(source: Path | BinaryIO) -> int:
    """Return how many pixels are decoded at once, by the header: of the image or of one tile, if that is larger.

    A damaged header counts as the maximum.
    """
    try:
        with open_image(source) as image:
            return max(width * height for width, height in (image.size, tile_size(image)))
    except Exception:  # Pillow raises all kinds of errors for a damaged file; `decode` reports what is wrong
        return MAX_PIXELS


def refuse_unusable(image: Image.Image) -> None:
    """Raise ValueError for an image that must not be decoded: too large for memory, or of undefined colours."""
    for part, (width, height) in {"": image.size, " in a tile": tile_size(image)}.items():
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels{part}, more than {MAX_PIXELS:,}")
    refuse_misread(image)


def decode_error(name: Path | str, error: Exception) -> LanduseError:
    """Return a LanduseError with the reason on one line."""
    return LanduseError(f"{name} cannot be decoded: {one_line(getattr(error, 'strerror', None) or error)}")


def read_image(source: Path | BinaryIO, size: int) -> Pixels:
    """Read an image as [size, size, 3] RGB: stretched to a square, area-averaged if it shrinks.

    Raises LanduseError if it cannot be decoded.
    """
    with decode(source) as image:
        return np.asarray(to_upright_rgb(image).resize((size, size), Image.Resampling.BILINEAR))


def thumbnail(source: Path | BinaryIO, side: int) -> bytes:
    """Return a JPEG with `side` pixels on its longer side. Raises LanduseError if the image cannot be decoded."""
    buffer = BytesIO()
    with decode(source) as image:
        small = to_upright_rgb(image)
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """Encode a JPEG as a data URI, to embed it in a page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def cores() -> int:
    """Return how many cores this process may use, given its CPU affinity and the quota of its container."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    with suppress(OSError, ValueError):  # no Linux container, or `max`
        quota, period = map(int, CPU_QUOTA.read_text().split())
        return min(affinity, ceil(quota / period))
    return affinity


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Map in order with one thread per core and a bounded read-ahead, so that memory stays flat.

    After an error, pending calls are cancelled.
    """
    pool = ThreadPoolExecutor(cores())
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > READ_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def evenly_spaced(count: int, most: int) -> slice:
    """Select at most `most` evenly spaced rows out of `count`; rows sorted by class thus cover all classes."""
    return slice(None, None, -(-count // most))


def view(image: NDArray[Any], number: int) -> NDArray[Any]:
    """Return one of the eight dihedral views of [height, width, channels].

    View 0 is the image itself, view 1 its mirror image; each following pair is rotated a further quarter turn.
    """
    mirrored, turns = number % 2, number // 2
    return np.rot90(image[:, ::-1] if mirrored else image, turns)
