"""Ground resolution: what the tags of a GeoTIFF, or the world file beside an image, tell of it."""

import struct
from collections.abc import Mapping
from contextlib import suppress
from math import hypot, isfinite
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from landuse.ml.image_formats import tiff_tags

PIXEL_SCALE, GEO_KEYS = 33550, 34735  # tags of a GeoTIFF: ModelPixelScale, GeoKeyDirectory
MODEL_TYPE, LINEAR_UNITS = 1024, 3076  # its keys: GTModelType, ProjLinearUnits
GEOGRAPHIC = 2  # a model whose coordinates are degrees
UNITS = {9001: "m", 9002: "ft", 9003: "ft (US survey)"}
UNKNOWN_UNITS = "map units"
WORLD_SUFFIXES = {".tif": ".tfw", ".tiff": ".tfw", ".jpg": ".jgw", ".jpeg": ".jgw", ".png": ".pgw"}
WORLD_BYTES = 1000  # more than the six numbers of a world file have


def world_file(member: str, beside: frozenset[str]) -> str | None:
    """Return the path of the world file of an image among the files beside it, as in a.tfw of a.tif; None without."""
    path = PurePosixPath(member)
    suffix = WORLD_SUFFIXES.get(path.suffix.lower(), "")
    names = (str(path.with_suffix(each)) for each in (suffix, suffix.upper()) if each)
    return next((name for name in names if name in beside), None)


def read_resolution(image: Image.Image, world: Path | None) -> str | None:
    """Return the side of a pixel on the ground, as in `0.3 m`; None if neither tags nor a world file tell it."""
    with suppress(TypeError, ValueError, struct.error):  # tags or a text of another kind
        return resolution_of_tags(tiff_tags(image)) or (resolution_of_file(world) if world else None)
    return None


def resolution_of_tags(tags: Mapping[int, Any]) -> str | None:
    """Return the side of a pixel by the tags of a GeoTIFF."""
    if PIXEL_SCALE not in tags:
        return None
    width, height, *_ = map(float, tags[PIXEL_SCALE])
    return describe(width, height, unit_of(tags))


def resolution_of_file(world: Path) -> str | None:
    """Return the side of a pixel by a world file: two steps on the map, one pixel to the right and one pixel down."""
    with world.open(encoding="ascii") as file:
        right, right_down, down_right, down, *_ = map(float, file.read(WORLD_BYTES).split())
    return describe(hypot(right, right_down), hypot(down_right, down), UNKNOWN_UNITS)


def unit_of(tags: Mapping[int, Any]) -> str:
    """Return the unit of a GeoTIFF's coordinates, by its keys: number, location, count and value of each."""
    flat = tags.get(GEO_KEYS, ())
    keys = {flat[index]: flat[index + 3] for index in range(4, len(flat) - 3, 4) if flat[index + 1] == 0}
    return "degrees" if keys.get(MODEL_TYPE) == GEOGRAPHIC else UNITS.get(keys.get(LINEAR_UNITS, 0), UNKNOWN_UNITS)


def describe(width: float, height: float, unit: str) -> str | None:
    """Format the sides of a pixel; one of them if they are the same. None if they make no sense."""
    if not (isfinite(width) and isfinite(height) and width > 0 and height > 0):
        return None
    across, down = f"{width:.3g}", f"{height:.3g}"
    return f"{across} {unit}" if across == down else f"{across} × {down} {unit}"
