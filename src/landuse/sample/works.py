"""Industrial scenes: harbor, storage tanks."""

from PIL import Image, ImageDraw

from landuse.sample.primitives import (
    SIDE,
    WHITE,
    Colour,
    Rng,
    between,
    brush,
    chance,
    crowns,
    ground,
    lay,
    paint_car,
    paint_flat_roof,
    pick,
    scatter,
    shade,
    vary,
)
from landuse.sample.town import stalls

HULLS: tuple[Colour, ...] = (WHITE, WHITE, (216, 220, 222), (60, 76, 110), (140, 60, 54), (196, 186, 160))
TANKS: tuple[Colour, ...] = ((226, 226, 220), (206, 204, 196), (180, 184, 182), (156, 136, 116), (196, 206, 200))


def paint_harbor(rng: Rng) -> Image.Image:
    """Paint piers with boats moored on both sides; some with a quay or boats in motion."""
    scene = ground(rng, pick(rng, ("water", "water", "silt")), 3, 60, 130, 200)
    pen = brush(scene)
    plank = vary(rng, pick(rng, ((176, 168, 152), (140, 126, 106), (196, 194, 188))))
    length, occupied = between(rng, 26, 54), between(rng, 15, 98) / 100
    x = between(rng, -60, 40)
    spacing = 2 * length + between(rng, 26, 70)
    end = between(rng, 230, 400)
    for pier in range(x, SIDE, spacing):
        paint_moorings(pen, rng, pier, end, length, occupied, plank)
    if end < 320:
        for _ in range(between(rng, 0, 2)):
            paint_moving_boat(pen, rng, between(rng, 100, 300), between(rng, end + 20, 350))
    if chance(rng, 0.45):
        paint_quay(scene, rng, between(rng, 60, 190))
    return scene


def paint_moorings(
    pen: ImageDraw.ImageDraw, rng: Rng, x: int, end: int, length: int, occupied: float, plank: Colour
) -> None:
    """Paint a pier along the y axis with finger piers, boats between them."""
    berth = length // 3 + between(rng, 6, 9)
    pen.rectangle((x + 3, 0, x + 11, end + 3), (6, 12, 20, 130))
    pen.rectangle((x, 0, x + 7, end), plank)
    for y in range(between(rng, 0, berth), end - berth, berth):
        for side, root in ((-1, x), (1, x + 7)):
            left, right = sorted((root, root + side * length * 3 // 4))
            pen.rectangle((left + 1, y + 2, right + 1, y + 3), (6, 12, 20, 110))
            pen.rectangle((left, y, right, y + 1), plank)
            if chance(rng, occupied):
                size = length * between(rng, 60, 96) // 100
                paint_boat(pen, rng, root + side * (size // 2 + 3), y + berth // 2, size, side)


def paint_boat(pen: ImageDraw.ImageDraw, rng: Rng, x: int, y: int, length: int, heading: int) -> None:
    """Paint a boat along the x axis, its bow towards `heading`: hull, deck, cabin, perhaps a mast."""
    half, beam = length // 2, max(3, length // 6)
    hull = vary(rng, pick(rng, HULLS), 8)

    def outline(inset: int, shift: int = 0) -> list[tuple[int, int]]:
        back, front, wide = -half + inset, half - inset, beam - inset
        points = ((back, -wide), (front // 3, -wide), (front, 0), (front // 3, wide), (back, wide))
        return [(x + heading * along + shift, y + across + shift) for along, across in points]

    pen.polygon(outline(0, 3), (4, 10, 18, 130))
    pen.polygon(outline(0), hull)
    pen.polygon(outline(2), shade(hull, 88))
    if chance(rng, 0.5):
        pen.line((x - heading * half, y, x + heading * half // 2, y), (250, 250, 248), 1)
        pen.line((x + heading * 3, y - beam, x + heading * 3, y + beam), (90, 90, 92), 1)
    cabin = sorted((x - heading * half // 2, x + heading * half // 5))
    roof = vary(rng, pick(rng, (WHITE, (70, 84, 120), (90, 90, 88))))
    pen.rectangle((cabin[0], y - beam // 2, cabin[1], y + beam // 2), roof)


def paint_moving_boat(pen: ImageDraw.ImageDraw, rng: Rng, x: int, y: int) -> None:
    """Paint a boat in motion, its wake spreading behind it."""
    heading, length = pick(rng, (-1, 1)), between(rng, 20, 34)
    for part in range(12):
        tail, strength = x - heading * (length // 3 + part * 6), 150 - part * 12
        pen.ellipse((tail - 7, y - 2, tail + 7, y + 2), (236, 242, 242, strength))
        for middle in (y - 3 - part, y + 3 + part):
            pen.ellipse((tail - 6, middle - 2, tail + 6, middle + 2), (236, 242, 242, strength))
    paint_boat(pen, rng, x, y, length, heading)


def paint_quay(scene: Image.Image, rng: Rng, edge: int) -> None:
    """Paint the shore at the head of the piers: a car park, a lawn or sheds."""
    shore = stalls(rng) if chance(rng, 0.5) else ground(rng, pick(rng, ("concrete", "grass", "earth")))
    brush(scene).rectangle((0, edge, SIDE, edge + 6), (6, 12, 20, 130))
    lay(scene, shore, (0, 0, SIDE, edge))
    pen = brush(scene)
    pen.rectangle((0, edge - 12, SIDE, edge), (182, 178, 168))
    if chance(rng, 0.5):
        paint_flat_roof(pen, rng, (between(rng, 60, 200), edge - 100, between(rng, 250, 340), edge - 30))
    scatter(scene, rng, crowns(rng, 5, 10), between(rng, 0, 16), (0, edge - 16, SIDE, edge - 16))


def paint_tanks(rng: Rng) -> Image.Image:
    """Paint round storage tanks with rims and shadows on a grid; dikes, pipes, a road."""
    scene = ground(rng, pick(rng, ("earth", "earth", "concrete", "grass", "asphalt")))
    scatter(scene, rng, crowns(rng, 5, 12), between(rng, 0, 40), (0, 0, SIDE, SIDE))
    radius = between(rng, 14, 62)
    pitch = 2 * radius + between(rng, 14, 46)
    left, top = between(rng, 60, 60 + pitch), between(rng, 60, 60 + pitch)
    grid = [(x, y) for x in range(left, 345, pitch) for y in range(top, 345, pitch)]
    middle = min(grid, key=lambda spot: abs(spot[0] - SIDE // 2) + abs(spot[1] - SIDE // 2))
    spots = [spot for spot in grid if spot == middle or chance(rng, 0.72)]
    paint, floating = pick(rng, TANKS), chance(rng, 0.4)
    paint_surroundings(scene, rng, spots, pitch)
    for x, y in spots:
        size = radius * between(rng, 72, 100) // 100
        paint_tank(scene, rng, x, y, size, vary(rng, paint, 10), floating)
    return scene


def paint_surroundings(scene: Image.Image, rng: Rng, spots: list[tuple[int, int]], pitch: int) -> None:
    """Paint pipes from tank to tank, dikes around them, a service road with a car, a shed."""
    pen = brush(scene)
    road = between(rng, 0, 90)
    if chance(rng, 0.6):
        lay(scene, ground(rng, pick(rng, ("asphalt", "concrete"))), (road, 0, road + 24, SIDE))
        paint_car(pen, rng, road + 12, between(rng, 80, 320), upright=True)
    left, top = between(rng, 60, 260), between(rng, 60, 260)
    if all(abs(x - left - 25) > pitch // 2 + 30 or abs(y - top - 20) > pitch // 2 + 25 for x, y in spots):
        paint_flat_roof(pen, rng, (left, top, left + between(rng, 30, 50), top + between(rng, 30, 40)))
    half, diked = pitch // 2 - 3, chance(rng, 0.5)
    dike, pipe = vary(rng, (150, 138, 116)), vary(rng, (196, 194, 188))
    for x, y in spots:
        if diked:
            pen.rectangle((x - half + 3, y - half + 3, x + half + 3, y + half + 3), None, (10, 12, 16, 100), 3)
            pen.rectangle((x - half, y - half, x + half, y + half), None, dike, 3)
        pen.line((x + 4, y, x + 4, SIDE), (10, 12, 16, 110), 3)
        pen.line((x, y, x, SIDE), pipe, 3)


def paint_tank(scene: Image.Image, rng: Rng, x: int, y: int, radius: int, paint: Colour, floating: bool) -> None:
    """Paint one tank; a floating roof lies deep inside its wall, a fixed one is a flat cone."""
    height = radius // 4 + between(rng, 4, 10)
    side = 2 * radius + height + 2
    sprite = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sprite)
    for drop in range(0, height, 2):
        pen.ellipse((drop, drop, drop + 2 * radius, drop + 2 * radius), (8, 10, 18, 140))
    pen.ellipse((0, 0, 2 * radius, 2 * radius), shade(paint, 112))
    inner, depth = 2 * radius - 3, max(2, radius // 4) if floating else 0
    pen.ellipse((3, 3, inner, inner), shade(paint, 48 if floating else 88))
    pen.ellipse((3 + depth, 3 + depth, inner, inner), shade(paint, 84 if floating else 94))
    if not floating:
        pen.ellipse((radius // 2, radius // 2, radius * 4 // 3, radius * 4 // 3), shade(paint, 106))
        pen.ellipse((radius - 2, radius - 2, radius + 2, radius + 2), shade(paint, 60))
    pen.line((radius, radius, 2 * radius - 4, radius), shade(paint, 66), 2)
    scene.paste(sprite, (x - radius, y - radius), sprite)
