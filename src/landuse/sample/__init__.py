"""The embedded sample: aerial-looking scenes drawn from a seed, so that the project works without a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from landuse.core.errors import LanduseError
from landuse.sample.camera import photograph
from landuse.sample.land import paint_beach, paint_farmland, paint_forest, paint_river
from landuse.sample.png import MARK, encode_png
from landuse.sample.primitives import Rng
from landuse.sample.town import paint_courts, paint_freeway, paint_parkinglot, paint_residential
from landuse.sample.works import paint_harbor, paint_tanks

PAINTERS: dict[str, Callable[[Rng], Image.Image]] = {
    "beach": paint_beach,
    "courts": paint_courts,
    "farmland": paint_farmland,
    "forest": paint_forest,
    "freeway": paint_freeway,
    "harbor": paint_harbor,
    "parkinglot": paint_parkinglot,
    "residential": paint_residential,
    "river": paint_river,
    "tanks": paint_tanks,
}
CLASSES: tuple[str, ...] = tuple(PAINTERS)
IMAGES_PER_CLASS = 40
SEED = 22  # some seeds draw two beaches that look alike

# As imperfect as real data: one image has another size, and one image occurs twice.
ODD_NAME, ODD_SIZE = "freeway17", 124
ORIGINAL, COPY = "tanks00", "tanks01"

# Identifies the sample without drawing it: SHA-256 over the name and the content of every file, in order.
# If the drawing changes, the test that draws the sample prints the new value.
FINGERPRINT = "1d05d6d12a1af34bf74bfc5164706408e8e748acb80e079d805d2c350cdc1a8b"


def draw_sample(folder: Path) -> None:
    """Draw the images `<class>/<class>NN.png` into a new or empty folder.

    Raises LanduseError if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LanduseError(f"{folder} is not an empty folder: the sample is drawn into a new one")
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            (folder / label / f"{label}{number:02d}.png").write_bytes(encode_png(draw(label, number)))


def is_drawn(path: Path) -> bool:
    """Return True if `draw_sample` wrote this file, whatever its name and folder."""
    with path.open("rb") as file:
        return MARK in file.read(128)


def draw(label: str, number: int) -> Image.Image:
    """Draw one image of the sample: RGB, SIZE × SIZE except for the odd one."""
    name = f"{label}{number:02d}"
    if name == COPY:
        return draw(label, int(ORIGINAL.removeprefix(label)))
    rng = np.random.default_rng([SEED, CLASSES.index(label), number])
    image = photograph(PAINTERS[label](rng), rng)
    return image.crop((0, 0, ODD_SIZE, ODD_SIZE)) if name == ODD_NAME else image
