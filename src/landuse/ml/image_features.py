"""The features of an image by LiteRT: what the frozen part of the network makes of every view of it."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.ml.classifier import LiteModel
from landuse.ml.image_file import ImageFile
from landuse.ml.images import Pixels, read_image, view

ImageFeatures = tuple[NDArray[np.float32], NDArray[Any]]  # of an image: embedding [channels], activations [views, …]


def storage_dtype(dimensions: int) -> np.dtype[np.float32] | np.dtype[np.float16]:
    """Return float32 for pooled activations, float16 for feature maps, which are at least 49 times larger."""
    return np.dtype(np.float32) if dimensions == 1 else np.dtype(np.float16)


def read_pixels(image: ImageFile, size: int) -> Pixels:
    """Read an image as `read_image` does. Raises LanduseError, which names it, if that cannot be done."""
    try:
        return read_image(BytesIO(image.read()), size)
    except OSError as error:
        raise LanduseError(f"{image.path} cannot be read: {error.strerror}; dvc checkout data restores it") from None
    except LanduseError as error:
        raise type(error)(str(error).replace("image cannot", f"{image.path} cannot", 1)) from None


@dataclass(frozen=True)
class FeatureTask:
    """Compute the features of images.

    prefix: LiteRT flatbuffer of the frozen part of the network
    suffix: that of the rest up to the embedding; None if the prefix outputs it
    size: of the image in pixels
    """

    prefix: bytes
    suffix: bytes | None
    size: int
    views: int

    def prepare(self) -> Callable[[ImageFile], ImageFeatures]:
        """Start the models and return the function that computes the features of one image."""
        run_prefix = LiteModel(self.prefix)
        run_suffix = None if self.suffix is None else LiteModel(self.suffix)

        def compute(image: ImageFile) -> ImageFeatures:
            pixels = read_pixels(image, self.size)
            views = (np.ascontiguousarray(view(pixels, number)) for number in range(self.views))
            activations = np.stack([run_prefix(pixels) for pixels in views])
            embedding = activations[0] if run_suffix is None else run_suffix(activations[0])
            return embedding, activations.astype(storage_dtype(activations.ndim - 1))

        return compute
