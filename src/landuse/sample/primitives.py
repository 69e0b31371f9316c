"""Primitives shared by all scenes. One canvas pixel is about one foot.

Pixels depend only on integers, basic arithmetic and Pillow's fixed-point operations, so every machine paints the same.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 400

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
Rng = np.random.Generator
T = TypeVar("T")

GROUNDS: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "grass": (
        ((58, 78, 40), (106, 120, 66)),
        ((88, 92, 52), (140, 134, 84)),
        ((50, 80, 48), (90, 126, 72)),
    ),
    "earth": (((116, 98, 70), (170, 148, 108)), ((140, 122, 88), (184, 168, 128)), ((96, 76, 58), (140, 112, 84))),
    "asphalt": (((62, 64, 68), (92, 92, 94)), ((90, 90, 90), (122, 120, 116)), ((48, 50, 56), (74, 76, 80))),
    "concrete": (((136, 134, 128), (174, 170, 162)), ((158, 154, 144), (194, 190, 180))),
    "sand": (
        ((184, 160, 120), (224, 204, 164)),
        ((200, 184, 150), (234, 222, 194)),
        ((158, 138, 110), (196, 176, 142)),
    ),
    "water": (
        ((26, 58, 80), (54, 96, 112)),
        ((34, 70, 64), (66, 104, 88)),
        ((18, 40, 66), (38, 68, 98)),
        ((30, 84, 100), (66, 130, 136)),
    ),
    "silt": (((76, 84, 64), (108, 112, 86)), ((52, 68, 48), (86, 98, 68)), ((34, 62, 76), (60, 92, 98))),
    "undergrowth": (((30, 44, 26), (58, 70, 38)), ((44, 48, 30), (82, 78, 48)), ((22, 40, 34), (46, 66, 48))),
}
GREENS: tuple[Colour, ...] = ((62, 92, 44), (48, 78, 46), (84, 102, 52), (40, 70, 52), (98, 100, 56), (112, 92, 50))
PAINTS: tuple[Colour, ...] = (
    (232, 232, 230),
    (240, 240, 238),
    (176, 180, 184),
    (120, 124, 130),
    (40, 42, 46),
    (58, 62, 70),
    (150, 34, 30),
    (40, 66, 120),
    (170, 160, 132),
    (34, 74, 56),
)
ROOFS: tuple[Colour, ...] = (
    (150, 92, 68),
    (128, 112, 98),
    (108, 104, 104),
    (168, 140, 112),
    (92, 80, 72),
    (178, 174, 166),
)
WHITE: Colour = (236, 236, 228)


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Choose one of the options."""
    return options[int(rng.random() * len(options))]


def between(rng: Rng, low: int, high: int) -> int:
    """Sample an integer, both ends included."""
    return low + int(rng.random() * (high - low + 1))


def chance(rng: Rng, share: float) -> bool:
    """Return True with this probability."""
    return bool(rng.random() < share)


def shade(colour: Colour, percent: int) -> Colour:
    """Darken a colour (below 100 percent) or lighten it (above)."""
    red, green, blue = (min(255, channel * percent // 100) for channel in colour)
    return red, green, blue


def vary(rng: Rng, colour: Colour, spread: int = 12) -> Colour:
    """Sample a colour near this one."""
    light = between(rng, -spread, spread)
    red, green, blue = (
        min(255, max(0, channel + light + between(rng, -spread // 3, spread // 3))) for channel in colour
    )
    return red, green, blue


def clouds(rng: Rng, *cells: int) -> NDArray[np.int32]:
    """Layered value noise, [SIDE, SIDE] of 0..255: one layer per number of cells, each half as strong as the last."""
    total = rng.integers(0, 256, (cells[0], cells[0]), dtype=np.uint8)
    for layer, count in enumerate(cells[1:], start=2):
        seeds, parts = rng.integers(0, 256, (count, count), dtype=np.uint8), 2**layer - 1
        total = ((upscale(total, count) * (parts - 1) + seeds) // parts).astype(np.uint8)
    return upscale(total, SIDE)


def upscale(values: NDArray[np.uint8], side: int) -> NDArray[np.int32]:
    """Upscale a square of values smoothly to [side, side]."""
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int32)


def wave(rng: Rng, knots: int, low: int, high: int) -> NDArray[np.float64]:
    """Sample a smooth random line, [SIDE] of low..high: a uniform cubic B-spline."""
    heights = low + (high - low) * rng.random(knots + 4)
    along = np.arange(SIDE) * knots / SIDE
    first = along.astype(int)
    t = along - first
    weights = ((1 - t) * (1 - t) * (1 - t), (3 * t - 6) * t * t + 4, ((3 - 3 * t) * t + 3) * t + 1, t * t * t)
    total: NDArray[np.float64] = sum(weight * heights[first + step] for step, weight in enumerate(weights))
    return total / 6


def mask(where: NDArray[np.bool_] | NDArray[np.int16] | NDArray[np.int32]) -> Image.Image:
    """Convert booleans, or strengths clipped to 0..255, to a mask for pasting."""
    strengths = where * 255 if where.dtype == bool else np.clip(where, 0, 255)
    return Image.fromarray(strengths.astype(np.uint8))


def ground(rng: Rng, name: str, *cells: int) -> Image.Image:
    """Return a textured canvas of one of GROUNDS."""
    dark, light = pick(rng, GROUNDS[name])
    texture = clouds(rng, *(cells or (4, 16, 50, 200)))
    scene = Image.new("RGB", (SIDE, SIDE), vary(rng, dark))
    scene.paste(vary(rng, light), mask=mask(texture * 2 - 128))
    return scene


def lay(scene: Image.Image, texture: Image.Image, box: Box) -> None:
    """Cover a box of the scene with the texture."""
    scene.paste(texture.crop(box), box)


def ramp(feet: NDArray[np.int32], stops: list[tuple[int, Colour]]) -> Image.Image:
    """Map distances to colours: linear between stops, constant beyond the first and the last."""
    table = [
        np.array(first) + (np.array(last) - first) * np.arange(end - start)[:, None] // (end - start)
        for (start, first), (end, last) in pairwise(stops)
    ]
    colours = np.concatenate([*table, [stops[-1][1]]]).astype(np.uint8)
    return Image.fromarray(colours[np.clip(feet - stops[0][0], 0, len(colours) - 1)])


def brush(scene: Image.Image) -> ImageDraw.ImageDraw:
    """Return a drawing context for the scene; colours may have an alpha channel."""
    return ImageDraw.Draw(scene, "RGBA")


def disc(x: int, y: int, radius: int) -> Box:
    """Return the bounding box of a circle."""
    return x - radius, y - radius, x + radius, y + radius


def crowns(rng: Rng, smallest: int, largest: int, green: Colour | None = None) -> list[Image.Image]:
    """Sample ten trees seen from above, each with its shadow, for `plant`."""
    green = green or pick(rng, GREENS)
    return [crown(rng, between(rng, smallest, largest), vary(rng, green, 16)) for _ in range(10)]


def crown(rng: Rng, radius: int, green: Colour) -> Image.Image:
    """Return one tree: lobes of leaves lit from the upper left, with a shadow to the lower right."""
    sprite = Image.new("RGBA", (3 * radius + 2,) * 2, (0, 0, 0, 0))
    pen, centre = ImageDraw.Draw(sprite), radius + 1
    pen.ellipse(disc(centre + radius // 2, centre + radius // 2, radius), (10, 16, 20, 120))
    pen.ellipse(disc(centre, centre, radius - 1), shade(green, 66))
    for percent, reach in ((84, 3), (84, 3), (100, 4), (100, 4), (112, 5), (126, 6)):
        drift = -radius // 4 if percent > 90 else 0
        x, y = (centre + drift + between(rng, -radius // reach, radius // reach) for _ in range(2))
        pen.ellipse(disc(x, y, max(1, radius * 2 // reach)), shade(green, percent))
    return sprite


def plant(scene: Image.Image, rng: Rng, trees: list[Image.Image], x: int, y: int) -> None:
    """Paste one of the trees so that its trunk is at x, y."""
    tree = pick(rng, trees)
    scene.paste(tree, (x - tree.width // 3, y - tree.width // 3), tree)


def scatter(scene: Image.Image, rng: Rng, trees: list[Image.Image], count: int, box: Box) -> None:
    """Plant `count` trees at random places in a box."""
    left, top, right, bottom = box
    for _ in range(count):
        plant(scene, rng, trees, between(rng, left, right), between(rng, top, bottom))


def paint_car(pen: ImageDraw.ImageDraw, rng: Rng, x: int, y: int, upright: bool) -> None:
    """Paint a car or van centred at x, y, along the y axis if upright."""
    length, paint = between(rng, 7, 9), vary(rng, pick(rng, PAINTS), 8)
    width = 4

    def part(start: int, end: int, half: int, fill: tuple[int, ...], shift: int = 0) -> None:
        box = (-half, start, half, end) if upright else (start, -half, end, half)
        pen.rectangle([edge + shift + (y if place % 2 else x) for place, edge in enumerate(box)], fill)

    part(-length, length, width, (8, 10, 16, 120), 2)
    part(-length, length, width - 1, paint)
    part(-length + 1, length - 1, width, paint)
    part(-length // 2, -length // 2 + 2, width - 1, (30, 36, 44))
    part(length // 2, length // 2 + 1, width - 1, (30, 36, 44))
    part(-1, length // 2 - 1, width - 1, shade(paint, 112))


def paint_house(pen: ImageDraw.ImageDraw, rng: Rng, box: Box, roof: Colour) -> None:
    """Paint a hipped or gabled roof whose ridge runs along the longer side, with its shadow."""
    left, top, right, bottom = box
    vertical = bottom - top > right - left
    length, depth = (bottom - top, right - left) if vertical else (right - left, bottom - top)
    inset = depth // 2 if chance(rng, 0.6) else 0

    def at(along: int, across: int) -> tuple[int, int]:
        return (left + across, top + along) if vertical else (left + along, top + across)

    start, end = at(inset, depth // 2), at(length - inset, depth // 2)
    a, b, c, d = at(0, 0), at(length, 0), at(length, depth), at(0, depth)
    pen.polygon([(x + 6, y + 6) for x, y in (a, b, c, d)], (8, 10, 18, 130))
    for slope, percent in (
        ([a, b, end, start], 114),
        ([d, c, end, start], 74),
        ([a, d, start], 104),
        ([b, c, end], 86),
    ):
        pen.polygon(slope, shade(roof, percent))
    pen.line([start, end], shade(roof, 128))


def paint_flat_roof(pen: ImageDraw.ImageDraw, rng: Rng, box: Box) -> None:
    """Paint a large flat roof with a parapet, machinery and a shadow."""
    left, top, right, bottom = box
    tone = vary(rng, pick(rng, ((190, 188, 182), (150, 146, 140), (120, 118, 116), (206, 204, 200))))
    pen.rectangle((left + 10, top + 10, right + 10, bottom + 10), (8, 10, 18, 120))
    pen.rectangle(box, tone, shade(tone, 116), 2)
    for _ in range(between(rng, 2, 7)):
        x, y = between(rng, left + 6, max(left + 6, right - 16)), between(rng, top + 6, max(top + 6, bottom - 14))
        pen.rectangle((x + 3, y + 3, x + 12, y + 9), shade(tone, 68))
        pen.rectangle((x, y, x + 9, y + 6), shade(tone, 120))
