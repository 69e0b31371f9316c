"""The probabilities of an image file by an exported model."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from landuse.core.errors import LanduseError
from landuse.ml.classifier import LiteModel
from landuse.ml.image_file import ImageFile
from landuse.ml.images import read_image

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class ClassificationTask:
    """Compute the probabilities [classes] of images, or say in a text why an image cannot be read."""

    flatbuffer: bytes
    size: int

    def prepare(self) -> Callable[[ImageFile], Probabilities | str]:
        """Start the model and return the function that does it for one image."""
        model = LiteModel(self.flatbuffer)

        def classify(image: ImageFile) -> Probabilities | str:
            try:
                return model(read_image(BytesIO(image.read()), self.size))
            except OSError as error:
                return f"cannot be read: {error.strerror}"
            except LanduseError as error:
                return str(error).removeprefix("image ")

        return classify
