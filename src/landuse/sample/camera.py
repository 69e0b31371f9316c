"""Photograph a painted scene: choose direction, height and light, and add sensor noise."""

import numpy as np
from PIL import Image

from landuse.sample.primitives import SIDE, Rng, between, chance

SIZE = 128
SUPERSAMPLING = 3


def photograph(scene: Image.Image, rng: Rng) -> Image.Image:
    """Return a randomly rotated, mirrored and scaled part of the scene as a SIZE × SIZE image, then expose it."""
    feet = between(rng, 200, 280) if chance(rng, 0.88) else between(rng, 150, 180)
    size = (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING)
    rotated = scene.transform(size, Image.Transform.AFFINE, view_transform(feet, rng), Image.Resampling.NEAREST)
    return expose(rotated.reduce(SUPERSAMPLING), rng)


def view_transform(feet: int, rng: Rng) -> tuple[float, ...]:
    """Return the affine transform from the supersampled image to a window `feet` wide inside the scene."""
    # A rational point on the unit circle instead of a sine, and later nearest-neighbour sampling of a finer grid
    # instead of interpolation: both give the same result on every machine.
    t, step = 2 * rng.random() - 1, feet / (SIZE * SUPERSAMPLING)
    cosine, sine = step * (1 - t * t) / (1 + t * t), step * 2 * t / (1 + t * t)
    mirror = 1 if chance(rng, 0.5) else -1
    a, b, d, e = mirror * cosine, -sine, mirror * sine, cosine
    slack = (SIDE // 2 - feet * 5 // 7) * 2 // 3
    x, y = (SIDE // 2 + between(rng, -slack, slack) for _ in range(2))
    half = SIZE * SUPERSAMPLING / 2
    return a, b, x - (a + b) * half, d, e, y - (d + e) * half


def expose(image: Image.Image, rng: Rng) -> Image.Image:
    """Apply random light, contrast and colour cast to the image, and add sensor noise."""
    pixels = np.asarray(image).astype(np.int32)
    contrast = between(rng, 80, 118)
    cast = rng.integers(-5, 6, 3)
    light = between(rng, -16, 18)
    pixels = (pixels - 110) * contrast // 100 + 110 + light + cast
    strength = between(rng, 2, 8)
    pixels += rng.integers(-strength, strength + 1, (SIZE, SIZE, 1)) + rng.integers(-3, 4, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
