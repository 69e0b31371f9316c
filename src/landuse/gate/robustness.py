"""Robustness: the same images a little worse, as they come from another camera, another day or another program."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from landuse.gate.blessing import Check
from landuse.gate.scoring import Evidence
from landuse.ml.classifier import Classifier
from landuse.ml.images import decode, map_ahead, upright
from landuse.params import PromoteParams

QUALITY, BLUR, LIGHT = 50, 1 / 256, 0.7


def recompress(image: Image.Image) -> BytesIO:
    """As JPEG of quality 50."""
    return saved(image, "JPEG", quality=QUALITY)


def blur(image: Image.Image) -> BytesIO:
    """Blurred by one pixel in 256."""
    return saved(image.filter(ImageFilter.GaussianBlur(BLUR * image.width)), "TIFF")


def darken(image: Image.Image) -> BytesIO:
    """With 70 % of the light."""
    return saved(ImageEnhance.Brightness(image).enhance(LIGHT), "TIFF")


def turn(image: Image.Image) -> BytesIO:
    """Turned by a quarter."""
    return saved(image.transpose(Image.Transpose.ROTATE_90), "TIFF")


DISTURBANCES: dict[str, Callable[[Image.Image], BytesIO]] = {
    "jpeg": recompress,
    "blur": blur,
    "darkness": darken,
    "rotation": turn,
}


def saved(image: Image.Image, kind: str, **options: int) -> BytesIO:
    """An image as the bytes of a file; an uncompressed TIFF loses nothing and takes no time."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def predicted_disturbed(classifier: Classifier, path: Path) -> list[int]:
    """The class that one image is taken for after each disturbance."""
    with decode(path) as stored:
        image = upright(stored)
    return [int(classifier.probabilities(disturb(image)).argmax()) for disturb in DISTURBANCES.values()]


def check_robustness(classifier: Classifier, evidence: Evidence, params: PromoteParams) -> list[Check]:
    """One check per disturbance: how far does accuracy fall."""
    look = partial(predicted_disturbed, classifier)
    predicted: NDArray[np.intp] = np.array(list(map_ahead(look, evidence.images)))
    before, after = float(evidence.correct.mean()), (predicted == evidence.actual[:, None]).mean(axis=0)
    return [
        check_fall(f"robust_{name}", disturb, before, float(left), params.disturbed_fall)
        for (name, disturb), left in zip(DISTURBANCES.items(), after, strict=True)
    ]


def check_fall(name: str, disturb: Callable, before: float, after: float, limit: float) -> Check:
    """How far accuracy falls; the docstring of the disturbance says in words what was done to the images."""
    what = disturb.__doc__.rstrip(".").lower().replace("jpeg", "JPEG")
    sentence = f"images {what}: accuracy goes from {before:.1%} to {after:.1%}, it may fall by {limit:.1%}"
    return Check.at_most(name, before - after, limit, sentence)
