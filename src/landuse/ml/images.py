"""Images in: from a file to the pixels that a network sees. The same for training, evaluation and serving."""

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
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from landuse.core.errors import LanduseError, one_line
from landuse.ml.image_formats import (
    bits_of,
    is_negative,
    mend,
    opened,
    refuse_lost_colours,
    refuse_misread,
    tile_size,
    why_undecodable,
    why_unidentified,
)

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp"})
MAX_PIXELS = 50_000_000
READ_AHEAD = 64
TILE_PIXELS = 1_000_000
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: microseconds of work, of all cores, in a period
TURNS = {
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


def image_paths(folder: Path) -> list[Path]:
    """The images `<class>/<image>` of a folder, relative to it, sorted."""
    return sorted(path.relative_to(folder) for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)


def upright(image: Image.Image) -> Image.Image:
    """RGB with 8 bits per channel, turned as its EXIF orientation says, transparency on white."""
    turn, bits, negative = TURNS.get(orientation(image)), bits_of(image), is_negative(image)
    clear = image.info.get("transparency")
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        levels = (deep >> (bits - 8)).astype(np.uint8)
        levels = 255 - levels if negative else levels  # of 8 bits Pillow knows itself
        return Image.fromarray(levels if clear is None else np.where(deep == clear, np.uint8(255), levels)).convert(
            "RGB"
        )
    if image.has_transparency_data:
        return on_white(image.convert("RGBA"))
    return image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB. By tiles, since Pillow stops all threads of Python while it composites one."""
    opaque = Image.new("RGB", image.size)
    width = min(image.width, TILE_PIXELS)
    height = TILE_PIXELS // width
    for left, top in product(range(0, image.width, width), range(0, image.height, height)):
        tile = image.crop((left, top, min(left + width, image.width), min(top + height, image.height)))
        opaque.paste(Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile).convert("RGB"), (left, top))
    return opaque


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none to be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises whatever a damaged EXIF block leads to; the pixels are none the worse
        return 1


def decode(source: Path | BinaryIO) -> Image.Image:
    """The image as it is stored, all of it decoded: the first frame where there are several.

    Raises LanduseError with the reason where it cannot be decoded, has more than 50 million pixels, or levels of which
    nobody knows what is black and what is white.
    """
    name = source if isinstance(source, Path) else "image"
    try:
        image = opened(source)
    except UnidentifiedImageError:
        raise LanduseError(f"{name} cannot be decoded: {why_unidentified(source)}") from None
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise unreadable(name, error) from None
    try:
        refuse_unusable(image)
        mend(image)
        image.load()
        refuse_lost_colours(image)
    except Exception as error:
        image.close()
        raise unreadable(name, why_undecodable(image, error)) from None
    return image


def pixel_count(source: Path | BinaryIO) -> int:
    """How many pixels of an image are decoded at once, by its header; the most there may be where that is damaged."""
    try:
        with opened(source) as image:
            return max(width * height for width, height in (image.size, tile_size(image)))
    except Exception:  # Pillow raises whatever a damaged file leads to; `decode` says what is wrong with it
        return MAX_PIXELS


def refuse_unusable(image: Image.Image) -> None:
    """Raise ValueError for what should not be decoded: a size that takes everybody's memory, no colours or scale."""
    for part, (width, height) in {"": image.size, " in a tile": tile_size(image)}.items():
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels{part}, more than {MAX_PIXELS:,}")
    refuse_misread(image)


def unreadable(name: Path | str, error: Exception) -> LanduseError:
    """The reason on one line."""
    return LanduseError(f"{name} cannot be decoded: {one_line(getattr(error, 'strerror', None) or error)}")


def read_image(source: Path | BinaryIO, size: int) -> Pixels:
    """One image as [size, size, 3] RGB, squeezed to a square where it is none, area-averaged where it shrinks.

    Raises LanduseError where it cannot be decoded.
    """
    with decode(source) as image:
        return np.asarray(upright(image).resize((size, size), Image.Resampling.BILINEAR))


def thumbnail(source: Path | BinaryIO, side: int) -> bytes:
    """A small JPEG, `side` pixels at its longer side. Raises LanduseError where the image cannot be decoded."""
    buffer = BytesIO()
    with decode(source) as image:
        small = upright(image)
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A picture inside a page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def cores() -> int:
    """How many cores this process may use: fewer than the machine's where it, or its container, was given some."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    with suppress(OSError, ValueError):  # no Linux container, or `max`
        allowed, period = map(int, QUOTA.read_text().split())
        return min(here, ceil(allowed / period))
    return here


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` by as many threads as there are cores: results in order, a bounded number ahead, so memory is flat.

    Where one fails, those that have not begun are not.
    """
    pool = ThreadPoolExecutor(cores())
    ahead: deque[Future[Result]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def spread(count: int, most: int) -> slice:
    """Up to so many of a number of rows, from all classes where they stand class by class."""
    return slice(None, None, -(-count // most))


def view(image: NDArray, number: int) -> NDArray:
    """One of the eight dihedral views of [height, width, channels]: 0 the image itself, 1 its mirror image.

    Each following pair is turned a quarter further.
    """
    mirrored, turns = number % 2, number // 2
    return np.rot90(image[:, ::-1] if mirrored else image, turns)
