"""Scenes of the open country: beach, farmland, forest, river."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landuse.sample.primitives import (
    GREENS,
    GROUNDS,
    ROOFS,
    SIDE,
    WHITE,
    Box,
    Colour,
    Rng,
    between,
    brush,
    chance,
    clouds,
    crowns,
    disc,
    ground,
    lay,
    mask,
    paint_car,
    paint_house,
    pick,
    plant,
    ramp,
    scatter,
    shade,
    vary,
    wave,
)

ROWS, COLUMNS = np.indices((SIDE, SIDE), np.int32)
CROPS: tuple[Colour, ...] = (
    (92, 112, 56),
    (116, 128, 68),
    (66, 96, 50),
    (150, 140, 86),
    (178, 160, 108),
    (132, 106, 78),
    (110, 88, 66),
    (160, 132, 100),
)


def paint_beach(rng: Rng) -> Image.Image:
    """Paint a beach: sand, wet edge, lines of surf, deepening water; dunes or a promenade behind."""
    feet = np.rint(COLUMNS - wave(rng, between(rng, 2, 6), 110, 290)[:, None]).astype(np.int32)
    rough = clouds(rng, 8, 30, 90) - 128
    scene = ground(rng, "sand")
    if chance(rng, 0.75):
        paint_dunes(scene, rng, feet + rough // 3)
    deep, shallow = pick(rng, GROUNDS["water"])
    shallow = vary(rng, shallow)
    sea = ramp(feet + rough // 8, [(0, shade(shallow, 135)), (25, shallow), (between(rng, 70, 220), vary(rng, deep))])
    scene.paste((84, 70, 54), mask=mask(np.clip(feet + 24 + rough // 12, 0, 24) * between(rng, 2, 5)))
    scene.paste(sea, mask=mask((feet + rough // 16) * 24))
    paint_surf(scene, rng, feet)
    paint_visitors(scene, rng, feet)
    return scene


def paint_dunes(scene: Image.Image, rng: Rng, feet: NDArray[np.int32]) -> None:
    """Paint grass and shrubs, or a road, on the landward side of the beach."""
    edge = -between(rng, 40, 130)
    scene.paste(ground(rng, pick(rng, ("grass", "grass", "concrete"))), mask=mask((edge - feet) * 20))
    trees = crowns(rng, 4, 9)
    for x, y in rng.integers(0, SIDE, (between(rng, 0, 500), 2)).tolist():
        if feet[y, x] < edge - 6:
            plant(scene, rng, trees, x, y)


def paint_surf(scene: Image.Image, rng: Rng, feet: NDArray[np.int32]) -> None:
    """Paint broken lines of foam, along the shore and farther out."""
    distance, texture = 3, clouds(rng, 12, 60, 200) - 100
    for _ in range(between(rng, 1, 5)):
        line = np.abs(feet - distance - np.rint(wave(rng, 9, -7, 7)).astype(np.int32)[:, None])
        scene.paste(WHITE, mask=mask((texture - line * 14) * 5))
        distance += between(rng, 12, 45)


def paint_visitors(scene: Image.Image, rng: Rng, feet: NDArray[np.int32]) -> None:
    """Paint towels and parasols on the dry sand, sometimes none."""
    pen = brush(scene)
    for x, y in rng.integers(10, SIDE - 10, (between(rng, 0, 260), 2)).tolist():
        if -70 < feet[y, x] < -18:
            colour = vary(rng, pick(rng, ((210, 60, 50), (60, 110, 190), (240, 220, 90), (245, 245, 240))))
            pen.ellipse(disc(x + 2, y + 2, 3), (20, 20, 20, 110))
            pen.ellipse(disc(x, y, between(rng, 1, 3)), colour)


def paint_farmland(rng: Rng) -> Image.Image:
    """Paint fields with crop rows and tracks between them; some with an irrigated circle or a farmstead."""
    scene = ground(rng, pick(rng, ("earth", "grass")))
    gap, texture = between(rng, 1, 6), clouds(rng, 3, 12, 60, 200).astype(np.int16)
    for box in parcels(rng, (0, 0, SIDE, SIDE), between(rng, 1, 3)):
        left, top, right, bottom = box
        inner = (left + gap, top + gap, right - gap, bottom - gap)
        scene.paste(crop_rows(rng, texture, inner), inner)
        if chance(rng, 0.3):
            paint_pivot(scene, rng, texture, inner)
    x, y = between(rng, 90, 310), between(rng, 90, 310)
    if chance(rng, 0.3):
        paint_farmstead(scene, rng, x, y)
    if chance(rng, 0.4):
        hedge = (x, 0, x, SIDE) if chance(rng, 0.5) else (0, y, SIDE, y)
        scatter(scene, rng, crowns(rng, 5, 10), between(rng, 12, 60), hedge)
    return scene


def parcels(rng: Rng, box: Box, depth: int) -> list[Box]:
    """Divide a box into fields, recursively."""
    left, top, right, bottom = box
    if depth == 0:
        return [box]
    share = between(rng, 30, 70)
    if right - left > bottom - top or (right - left == bottom - top and chance(rng, 0.5)):
        cut = left + (right - left) * share // 100
        halves: tuple[Box, Box] = (left, top, cut, bottom), (cut, top, right, bottom)
    else:
        cut = top + (bottom - top) * share // 100
        halves = (left, top, right, cut), (left, cut, right, bottom)
    return [part for half in halves for part in parcels(rng, half, depth - 1)]


def crop_rows(rng: Rng, texture: NDArray[np.int16], box: Box) -> Image.Image:
    """Return a field of the size of the box, its crop sown in rows; the texture comes from `clouds`."""
    left, top, right, bottom = box
    window = np.s_[top:bottom, left:right]
    texture, across = texture[window], pick(rng, (ROWS, COLUMNS))[window]
    crop, soil = vary(rng, pick(rng, CROPS), 16), vary(rng, pick(rng, CROPS[3:]), 10)
    field = Image.new("RGB", (right - left, bottom - top), crop)
    field.paste(shade(crop, between(rng, 64, 84)), mask=mask(texture * 2 - 128))
    period = between(rng, 5, 16)
    furrow = np.abs((across + texture // 24) % period * 2 - period) * 255 // period
    field.paste(soil, mask=mask(furrow * between(rng, 0, 60) // 100))
    return field


def paint_pivot(scene: Image.Image, rng: Rng, texture: NDArray[np.int16], box: Box) -> None:
    """Paint a circle in the field, irrigated by a rotating arm; a part of it may be freshly cut."""
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) // 2 - 2
    x, y = (left + right) // 2, (top + bottom) // 2
    east, south = (COLUMNS - x)[top:bottom, left:right], (ROWS - y)[top:bottom, left:right]
    circle = east * east + south * south < radius * radius
    scene.paste(crop_rows(rng, texture, box), box, mask(circle))
    if chance(rng, 0.5):
        sector = (east * between(rng, -2, 2) < south * between(rng, -2, 2)) & (east < 0)
        scene.paste(crop_rows(rng, texture, box), box, mask(circle & sector))
    brush(scene).line((x, y, x, y - radius), (220, 220, 214), 2)


def paint_farmstead(scene: Image.Image, rng: Rng, x: int, y: int) -> None:
    """Paint a house and a barn under trees, in the fields."""
    yard = (x - 40, y - 32, x + 40, y + 32)
    lay(scene, ground(rng, "earth"), yard)
    scatter(scene, rng, crowns(rng, 6, 12), between(rng, 6, 20), yard)
    pen = brush(scene)
    paint_house(pen, rng, (x - 30, y - 20, x + 6, y + 2), vary(rng, pick(rng, ROOFS)))
    paint_house(pen, rng, (x + 12, y - 18, x + 34, y + 24), vary(rng, pick(rng, ROOFS)))


def paint_forest(rng: Rng) -> Image.Image:
    """Paint a forest of varying density; some with a clearing, a track or a pond."""
    scene = ground(rng, pick(rng, ("undergrowth", "undergrowth", "grass", "earth")))
    openness = clouds(rng, 3, 7)
    if chance(rng, 0.35):
        pond = clouds(rng, 4, 9, 40) - between(rng, 150, 185)
        scene.paste(ground(rng, pick(rng, ("silt", "water"))), mask=mask(pond * 20))
        openness += np.clip(pond * 12, 0, 255)
    if chance(rng, 0.4):
        aside = np.abs(COLUMNS - wave(rng, 4, 60, 340)[:, None])
        width = between(rng, 4, 12)
        scene.paste(ground(rng, "earth"), mask=mask((width - aside) * 60))
        openness += np.where(aside < width + 3, 255, 0)
    paint_woods(scene, rng, openness, between(rng, 130, 250))
    return scene


def paint_woods(scene: Image.Image, rng: Rng, openness: NDArray[np.int32], limit: int) -> None:
    """Paint trees of two kinds wherever the openness, [SIDE, SIDE], is below `limit`."""
    smallest = between(rng, 5, 10)
    green = pick(rng, GREENS)
    kinds = crowns(rng, smallest, smallest + 5, green) + crowns(
        rng, smallest, smallest + 3, pick(rng, (green, *GREENS))
    )
    step = smallest + between(rng, 4, 6)
    spots = np.argwhere(np.ones((SIDE // step + 1,) * 2)) * step
    spots = np.clip(spots + rng.integers(-step // 2, step // 2 + 1, spots.shape), 0, SIDE - 1)
    for y, x in spots[openness[*spots.T] < limit].tolist():
        plant(scene, rng, kinds, x, y)


def paint_river(rng: Rng) -> Image.Image:
    """Paint a meandering river with its banks, through woods, meadows or fields; some with a bridge."""
    course = wave(rng, between(rng, 3, 6), 60, 340)
    slope = np.gradient(course)
    half = wave(rng, 6, 10, 34) + between(rng, 0, 30)
    aside = np.abs(COLUMNS - course[:, None]) / np.sqrt(1 + slope * slope)[:, None]
    rough = clouds(rng, 20, 60, 150) - 128
    feet = np.rint(half[:, None] - aside).astype(np.int32) + rough // 20
    scene = valley(rng, feet)
    bank = vary(rng, pick(rng, GROUNDS[pick(rng, ("sand", "earth", "undergrowth"))])[0])
    beach = between(rng, 2, 12)
    scene.paste(bank, mask=mask((feet + beach) * 40))
    deep, shallow = pick(rng, GROUNDS[pick(rng, ("silt", "silt", "water"))])
    water = ramp(feet + rough // 10, [(0, vary(rng, shallow)), (between(rng, 12, 50), vary(rng, deep))])
    scene.paste(water, mask=mask(feet * 60))
    if chance(rng, 0.25):
        paint_bridge(scene, rng, between(rng, 120, 280))
    return scene


def valley(rng: Rng, feet: NDArray[np.int32]) -> Image.Image:
    """Return the landscape along a river; `feet` is the distance from the bank, negative on land."""
    if chance(rng, 0.3):
        scene = paint_farmland(rng)
        paint_woods(scene, rng, np.abs(feet + 24), between(rng, 4, 24))
        return scene
    scene = ground(rng, pick(rng, ("grass", "grass", "undergrowth", "earth")))
    openness = clouds(rng, 4, 9) + np.where(feet > -14, 255, 0)
    paint_woods(scene, rng, openness, between(rng, 40, 255))
    return scene


def paint_bridge(scene: Image.Image, rng: Rng, y: int) -> None:
    """Paint a two-lane road across the whole scene."""
    pen = brush(scene)
    pen.rectangle((0, y + 6, SIDE, y + 34), (8, 10, 18, 120))
    lay(scene, ground(rng, "asphalt"), (0, y, SIDE, y + 28))
    pen.line((0, y, SIDE, y), (200, 198, 190), 2)
    pen.line((0, y + 28, SIDE, y + 28), (200, 198, 190), 2)
    pen.line((0, y + 14, SIDE, y + 14), (214, 180, 70), 2)
    for x in rng.integers(0, SIDE, 5).tolist():
        paint_car(pen, rng, x, y + pick(rng, (7, 21)), upright=False)
