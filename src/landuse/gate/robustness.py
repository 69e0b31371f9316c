"""Robustness: accuracy on slightly degraded images, as from another camera, another day or another program."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from landuse.gate.blessing import Check
from landuse.gate.scoring import ScoredImages
from landuse.ml.classifier import Classifier
from landuse.ml.images import decode, parallel_map, to_upright_rgb
from landuse.params import PromoteParams

QUALITY, BLUR, LIGHT = 50, 1 / 256, 0.7


class Disturbance(NamedTuple):
    """A way to degrade an image: a function to an encoded file, and its description for the sentence of a check."""

    apply: Callable[[Image.Image], BytesIO]
    description: str


def recompress(image: Image.Image) -> BytesIO:
    """Compress the image as JPEG of quality 50."""
    return encode(image, "JPEG", quality=QUALITY)


def blur(image: Image.Image) -> BytesIO:
    """Blur the image by one pixel in 256."""
    return encode(image.filter(ImageFilter.GaussianBlur(BLUR * image.width)), "TIFF")


def darken(image: Image.Image) -> BytesIO:
    """Reduce the brightness to 70 %."""
    return encode(ImageEnhance.Brightness(image).enhance(LIGHT), "TIFF")


def rotate(image: Image.Image) -> BytesIO:
    """Rotate the image by 90 degrees."""
    return encode(image.transpose(Image.Transpose.ROTATE_90), "TIFF")


DISTURBANCES = {
    "jpeg": Disturbance(recompress, "as JPEG of quality 50"),
    "blur": Disturbance(blur, "blurred by one pixel in 256"),
    "darkness": Disturbance(darken, "with 70 % of the light"),
    "rotation": Disturbance(rotate, "turned by a quarter"),
}


def encode(image: Image.Image, kind: str, **options: int) -> BytesIO:
    """Encode an image as the bytes of a file; uncompressed TIFF is lossless and fast."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def predict_disturbed(classifier: Classifier, path: Path) -> list[int]:
    """Predict the class index of one image after each disturbance."""
    with decode(path) as stored:
        image = to_upright_rgb(stored)
    return [int(classifier.probabilities(disturbance.apply(image)).argmax()) for disturbance in DISTURBANCES.values()]


def check_robustness(classifier: Classifier, scored: ScoredImages, params: PromoteParams) -> list[Check]:
    """Check for each disturbance how far accuracy drops."""
    predict = partial(predict_disturbed, classifier)
    predicted: NDArray[np.intp] = np.array(list(parallel_map(predict, scored.images)))
    before, after = float(scored.correct.mean()), (predicted == scored.actual[:, None]).mean(axis=0)
    return [
        check_accuracy_drop(f"robust_{name}", description, before, float(accuracy), params.max_disturbed_fall)
        for (name, (_, description)), accuracy in zip(DISTURBANCES.items(), after, strict=True)
    ]


def check_accuracy_drop(name: str, description: str, before: float, after: float, limit: float) -> Check:
    """Check that accuracy on images, disturbed as described, drops by no more than the limit."""
    sentence = f"images {description}: accuracy goes from {before:.1%} to {after:.1%}, it may fall by {limit:.1%}"
    return Check.at_most(name, before - after, limit, sentence)
