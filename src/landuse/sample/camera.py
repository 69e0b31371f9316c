"""From the painted scene to the image: direction, height, light and the sensor's noise."""

import numpy as np
from PIL import Image

from landuse.sample.primitives import SIDE, Rng, between, chance

SIZE = 128
FINER = 3


def photograph(scene: Image.Image, rng: Rng) -> Image.Image:
    """A part of the scene as a SIZE × SIZE image: turned, mirrored and scaled at random, then exposed."""
    feet = between(rng, 200, 280) if chance(rng, 0.88) else between(rng, 150, 180)
    fine = (SIZE * FINER, SIZE * FINER)
    turned = scene.transform(fine, Image.Transform.AFFINE, aim(feet, rng), Image.Resampling.NEAREST)
    return expose(turned.reduce(FINER), rng)


def aim(feet: int, rng: Rng) -> tuple[float, ...]:
    """The affine transform from the finer image to a window so many feet wide, which lies inside the scene."""
    # A rational point of the unit circle instead of a sine, and later the nearest pixel of a finer grid instead of
    # interpolation: both are the same wherever they run.
    t, step = 2 * rng.random() - 1, feet / (SIZE * FINER)
    cosine, sine = step * (1 - t * t) / (1 + t * t), step * 2 * t / (1 + t * t)
    mirror = 1 if chance(rng, 0.5) else -1
    a, b, d, e = mirror * cosine, -sine, mirror * sine, cosine
    slack = (SIDE // 2 - feet * 5 // 7) * 2 // 3
    x, y = (SIDE // 2 + between(rng, -slack, slack) for _ in range(2))
    half = SIZE * FINER / 2
    return a, b, x - (a + b) * half, d, e, y - (d + e) * half


def expose(image: Image.Image, rng: Rng) -> Image.Image:
    """The image under this day's light, contrast, haze and colour cast, with the sensor's noise."""
    pixels = np.asarray(image).astype(np.int32)
    contrast = between(rng, 80, 118)
    cast = rng.integers(-5, 6, 3)
    light = between(rng, -16, 18)
    pixels = (pixels - 110) * contrast // 100 + 110 + light + cast
    strength = between(rng, 2, 8)
    pixels += rng.integers(-strength, strength + 1, (SIZE, SIZE, 1)) + rng.integers(-3, 4, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
