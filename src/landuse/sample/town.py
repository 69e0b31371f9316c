"""Scenes of the town: courts, freeway, car park, residential streets."""

from PIL import Image, ImageDraw

from landuse.sample.primitives import (
    ROOFS,
    SIDE,
    WHITE,
    Colour,
    Rng,
    between,
    brush,
    chance,
    crowns,
    disc,
    ground,
    lay,
    paint_car,
    paint_flat_roof,
    paint_house,
    pick,
    plant,
    scatter,
    shade,
    vary,
)

SURFACES: tuple[Colour, ...] = (
    (70, 104, 84),
    (64, 92, 128),
    (148, 88, 68),
    (112, 110, 108),
    (84, 112, 66),
    (132, 128, 120),
    (92, 84, 112),
)
YELLOW: Colour = (214, 176, 66)


def paint_courts(rng: Rng) -> Image.Image:
    """Paint tennis or basketball courts with their lines, in a park, a school yard or beside a car park."""
    scene = ground(rng, pick(rng, ("grass", "grass", "earth", "concrete", "asphalt")))
    if chance(rng, 0.35):
        lay(scene, stalls(rng), (0, 0, SIDE, between(rng, 60, 150)))
    scatter(scene, rng, crowns(rng, 7, 14), between(rng, 0, 90), (0, 0, SIDE, SIDE))
    columns, rows = between(rng, 1, 3), between(rng, 1, 2)
    court_of = pick(rng, (tennis, tennis, basketball))
    field, border = vary(rng, pick(rng, SURFACES)), vary(rng, pick(rng, SURFACES))
    width, height = 66, 118
    left = between(rng, 100, max(100, 310 - columns * width))
    top = between(rng, 60, max(60, 310 - rows * height))
    pen = brush(scene)
    block = (left, top, left + columns * width, top + rows * height)
    pen.rectangle(block, border, shade(border, 62), 2)
    for column in range(columns):
        for row in range(rows):
            court = court_of(rng, field)
            x = left + column * width + (width - court.width) // 2
            scene.paste(court, (x, top + row * height + (height - court.height) // 2))
    scatter(scene, rng, crowns(rng, 7, 14), between(rng, 0, 14), (left - 20, top - 20, block[2] + 20, top))
    return scene


def tennis(rng: Rng, field: Colour) -> Image.Image:
    """Return a tennis court, 36 × 78 feet, with its net."""
    court = Image.new("RGB", (38, 80), field)
    pen = brush(court)
    pen.rectangle((0, 0, 37, 79), None, WHITE, 2)
    pen.rectangle((5, 0, 32, 79), None, WHITE, 2)
    pen.rectangle((5, 19, 32, 60), None, WHITE, 2)
    pen.line((19, 19, 19, 60), WHITE, 2)
    pen.rectangle((0, 40, 37, 41), (34, 38, 40))
    if chance(rng, 0.3):
        pen.rectangle((0, 0, 37, 79), (10, 20, 30, 40))
    return court


def basketball(rng: Rng, field: Colour) -> Image.Image:
    """Return a basketball court, 50 × 84 feet: keys, circles, three-point lines, boards."""
    court = Image.new("RGB", (54, 96), field)
    pen, key = brush(court), vary(rng, pick(rng, (field, *SURFACES)), 6)
    for end, sign in ((0, 1), (95, -1)):
        pen.rectangle((18, min(end, end + sign * 22), 36, max(end, end + sign * 22)), key, WHITE, 2)
        pen.ellipse(disc(27, end + sign * 22, 8), None, WHITE, 2)
        pen.ellipse(disc(27, end + sign * 4, 24), None, WHITE, 2)
        pen.rectangle((24, end + sign * 4 - 1, 30, end + sign * 4 + 1), (250, 250, 250))
    pen.line((0, 48, 54, 48), WHITE, 2)
    pen.ellipse(disc(27, 48, 8), None, WHITE, 2)
    pen.rectangle((0, 0, 53, 95), None, WHITE, 2)
    return court


def paint_freeway(rng: Rng) -> Image.Image:
    """Paint two carriageways with lane markings and traffic; some with an overpass, some at the edge of the view."""
    scene = (
        paint_residential(rng) if chance(rng, 0.25) else ground(rng, pick(rng, ("grass", "earth", "earth", "concrete")))
    )
    scatter(scene, rng, crowns(rng, 5, 12), between(rng, 0, 140), (0, 0, SIDE, SIDE))
    lanes, median = between(rng, 2, 4), between(rng, 4, 50)
    width = lanes * 14 + 16
    x = between(rng, 60, 340 - 2 * width - median if lanes < 4 else 80)
    road = ground(rng, pick(rng, ("asphalt", "asphalt", "concrete")))
    busy = between(rng, 4, 26)
    if chance(rng, 0.5) and median < 20:
        brush(scene).rectangle((x + width, 0, x + width + median, SIDE), (146, 144, 138))
    for left in (x, x + width + median):
        lay(scene, road, (left, 0, left + width, SIDE))
        paint_carriageway(scene, rng, left, lanes, busy)
    if chance(rng, 0.25):
        paint_overpass(scene, rng, between(rng, 110, 250))
    return scene


def paint_carriageway(scene: Image.Image, rng: Rng, left: int, lanes: int, busy: int) -> None:
    """Paint edge lines, dashes between the lanes, tyre marks and cars; `busy` / 40 is the chance of a car per place."""
    pen = brush(scene)
    right = left + lanes * 14 + 16
    pen.line((left + 7, 0, left + 7, SIDE), YELLOW, 2)
    pen.line((right - 8, 0, right - 8, SIDE), WHITE, 2)
    for lane in range(lanes):
        x = left + 8 + lane * 14
        pen.rectangle((x + 4, 0, x + 10, SIDE), (20, 20, 24, 34))
        if lane:
            for y in range(between(rng, 0, 23), SIDE, 24):
                pen.line((x, y, x, y + 9), WHITE, 2)
        for y in range(between(rng, 0, 30), SIDE, 30):
            if chance(rng, busy / 40):
                paint_vehicle(pen, rng, x + 7, y)


def paint_vehicle(pen: ImageDraw.ImageDraw, rng: Rng, x: int, y: int) -> None:
    """Paint a car, or sometimes a lorry, driving along the y axis."""
    if chance(rng, 0.88):
        return paint_car(pen, rng, x, y, upright=True)
    cargo = vary(rng, pick(rng, (WHITE, (180, 176, 168), (120, 64, 52))))
    pen.rectangle((x - 2, y - 14, x + 7, y + 18), (8, 10, 16, 120))
    pen.rectangle((x - 5, y - 18, x + 5, y + 8), cargo)
    pen.rectangle((x - 4, y + 10, x + 4, y + 16), shade(cargo, 80))


def paint_overpass(scene: Image.Image, rng: Rng, y: int) -> None:
    """Paint a road across the freeway, with its shadow."""
    width = between(rng, 30, 56)
    pen = brush(scene)
    pen.rectangle((0, y + 10, SIDE, y + width + 10), (8, 10, 18, 130))
    lay(scene, ground(rng, pick(rng, ("asphalt", "concrete"))), (0, y, SIDE, y + width))
    pen.line((0, y + 1, SIDE, y + 1), (206, 204, 196), 3)
    pen.line((0, y + width - 1, SIDE, y + width - 1), (206, 204, 196), 3)
    pen.line((0, y + width // 2, SIDE, y + width // 2), YELLOW, 2)
    for x in rng.integers(0, SIDE, between(rng, 0, 8)).tolist():
        paint_car(pen, rng, x, y + width * pick(rng, (1, 3)) // 4, upright=False)


def paint_parkinglot(rng: Rng) -> Image.Image:
    """Paint rows of marked stalls, more or less occupied; some with tree islands, lawns or a store."""
    scene = stalls(rng)
    if chance(rng, 0.4):
        edge = between(rng, 70, 190)
        lay(scene, ground(rng, pick(rng, ("grass", "concrete", "earth"))), (0, 0, edge, SIDE))
        if chance(rng, 0.6):
            paint_flat_roof(brush(scene), rng, (edge - 200, between(rng, -20, 100), edge - 16, between(rng, 240, 420)))
        else:
            scatter(scene, rng, crowns(rng, 6, 13), between(rng, 10, 70), (0, 0, edge, SIDE))
    if chance(rng, 0.4):
        trees = crowns(rng, 5, 9)
        for x in range(between(rng, 0, 60), SIDE, between(rng, 50, 120)):
            for y in range(between(rng, 0, 60), SIDE, between(rng, 50, 120)):
                plant(scene, rng, trees, x, y)
    return scene


def stalls(rng: Rng) -> Image.Image:
    """Return a canvas full of parking stalls, back to back, with aisles between them."""
    scene = ground(rng, pick(rng, ("asphalt", "asphalt", "concrete")))
    pen = brush(scene)
    depth, aisle, width = 20, between(rng, 22, 34), between(rng, 10, 12)
    line = pick(rng, (WHITE, WHITE, YELLOW))
    occupied = between(rng, 8, 98) / 100
    for top in range(between(rng, -40, 20), SIDE, 2 * depth + aisle):
        pen.line((0, top + depth, SIDE, top + depth), line, 1)
        for left in range(0, SIDE, width):
            pen.line((left, top, left, top + 2 * depth), line, 1)
            for y in (top + depth // 2, top + depth + depth // 2):
                if chance(rng, occupied):
                    paint_car(pen, rng, left + width // 2, y + between(rng, -2, 2), upright=True)
    for _ in range(between(rng, 0, 4)):
        paint_car(pen, rng, between(rng, 0, SIDE), between(rng, 0, SIDE), upright=False)
    return scene


def paint_residential(rng: Rng) -> Image.Image:
    """Paint streets of houses with drives, lawns, trees, parked cars and some pools."""
    scene = ground(rng, pick(rng, ("grass", "grass", "earth")))
    depth, street = between(rng, 64, 84), between(rng, 18, 26)
    asphalt, roofs = ground(rng, pick(rng, ("asphalt", "asphalt", "concrete"))), [pick(rng, ROOFS) for _ in range(3)]
    trees = crowns(rng, 6, between(rng, 8, 15))
    first = between(rng, -60, 30)
    for top in range(first, SIDE, 2 * depth + street):
        lay(scene, asphalt, (0, top, SIDE, top + street))
        brush(scene).rectangle((0, top - 4, SIDE, top - 2), (176, 172, 164))
        brush(scene).rectangle((0, top + street + 2, SIDE, top + street + 4), (176, 172, 164))
        paint_row_of_houses(scene, rng, top + street + 5, 1, roofs, trees)
        paint_row_of_houses(scene, rng, top - 5, -1, roofs, trees)
        for x in rng.integers(0, SIDE, between(rng, 1, 7)).tolist():
            paint_car(brush(scene), rng, x, top + pick(rng, (6, street - 6)), upright=False)
    if chance(rng, 0.4):
        x = between(rng, 90, 290)
        lay(scene, asphalt, (x, 0, x + street, SIDE))
    return scene


def paint_row_of_houses(
    scene: Image.Image, rng: Rng, kerb: int, side: int, roofs: list[Colour], trees: list[Image.Image]
) -> None:
    """Paint the lots on one side of a street; `side` is 1 if they are below the kerb, -1 if above."""
    pen, x = brush(scene), between(rng, -20, 10)
    while x < SIDE:
        width, depth, setback = between(rng, 34, 48), between(rng, 24, 34), between(rng, 14, 22)
        near, far = sorted((kerb + side * setback, kerb + side * (setback + depth)))
        drive = sorted((kerb, kerb + side * (setback + 2)))
        pen.rectangle((x + 4, drive[0], x + 13, drive[1]), (180, 176, 168))
        paint_house(pen, rng, (x, near, x + width, far), vary(rng, pick(rng, roofs)))
        if chance(rng, 0.5):
            paint_house(pen, rng, (x, near + side * 8, x + 18, far + side * 8), vary(rng, pick(rng, roofs), 4))
        if chance(rng, 0.4):
            paint_car(pen, rng, x + 8, (drive[0] + drive[1]) // 2, upright=True)
        if chance(rng, 0.15):
            paint_pool(pen, (x + 10, kerb + side * (setback + depth + 14)))
        behind = sorted((kerb + side * 6, kerb + side * (setback + depth + 24)))
        scatter(scene, rng, trees, between(rng, 0, 3), (x + width + 3, behind[0], x + width + 9, behind[1]))
        x += width + between(rng, 10, 22)


def paint_pool(pen: ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
    """Paint a swimming pool centred at a point."""
    x, y = at
    pen.rounded_rectangle((x - 10, y - 7, x + 10, y + 7), 5, (196, 192, 182))
    pen.rounded_rectangle((x - 8, y - 5, x + 8, y + 5), 4, (70, 160, 190))
