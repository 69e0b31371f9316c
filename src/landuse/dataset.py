"""Images in: from a file to the pixels that a network sees. The same for training, evaluation and serving."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from landuse.errors import LanduseError

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp"})
READ_AHEAD = 64

Pixels = NDArray[np.uint8]


def image_paths(folder: Path) -> list[Path]:
    """The images `<class>/<image>` of a folder, relative to it, sorted."""
    return sorted(
        path.relative_to(folder) for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES
    )


def upright(image: Image.Image) -> Image.Image:
    """RGB with 8 bits per channel, turned as its EXIF orientation says, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode(source: Path | BinaryIO) -> Image.Image:
    """The image as it is stored, all of it decoded.

    Raises LanduseError with Pillow's reason where it cannot be decoded, or would grow beyond Pillow's safe size.
    """
    try:
        image = Image.open(source)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = source if isinstance(source, Path) else "image"
        raise LanduseError(f"{name} cannot be decoded: {' '.join(str(error).split())}") from None
    return image


def read_image(source: Path | BinaryIO, size: int) -> Pixels:
    """One image as [size, size, 3] RGB, squeezed to a square where it is none, area-averaged where it shrinks.

    Raises LanduseError where it cannot be decoded.
    """
    with decode(source) as image:
        return np.asarray(upright(image).resize((size, size), Image.Resampling.BILINEAR))


def read_images(paths: Iterable[Path], size: int) -> Iterator[Pixels]:
    """The images in order, decoded by as many threads as there are cores, a bounded number ahead."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        ahead: deque = deque()
        for path in paths:
            ahead.append(pool.submit(read_image, path, size))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def view(image: NDArray, number: int) -> NDArray:
    """One of the eight dihedral views of [height, width, channels]: 0 the image itself, 1 its mirror image.

    Each following pair is turned a quarter further.
    """
    mirrored, turns = number % 2, number // 2
    return np.rot90(image[:, ::-1] if mirrored else image, turns)
