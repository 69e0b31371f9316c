"""The embedded sample: overhead-looking scenes painted from a seed, for where there is no network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from landuse.core.errors import LanduseError
from landuse.sample.camera import photograph
from landuse.sample.land import paint_beach, paint_farmland, paint_forest, paint_river
from landuse.sample.png import MARK, png
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
SEED = 22  # with some seeds, two beaches come out alike

# As awkward as real data: one image of another size, and one image that is there twice.
ODD_NAME, ODD_SIZE = "freeway17", 124
ORIGINAL, COPY = "tanks00", "tanks01"

# What identifies the sample without drawing it: sha256 over the name and the content of every file, in order.
# The test that draws the sample says the new one.
FINGERPRINT = "1d05d6d12a1af34bf74bfc5164706408e8e748acb80e079d805d2c350cdc1a8b"


def draw_sample(folder: Path) -> None:
    """Write the images `<class>/<class>NN.png` into a folder that is empty or not there yet.

    Raises LanduseError where the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LanduseError(f"{folder} is not an empty folder: the sample is drawn into a new one")
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            (folder / label / f"{label}{number:02d}.png").write_bytes(png(draw(label, number)))


def is_drawn(path: Path) -> bool:
    """Whether a file is one that `draw_sample` wrote, whatever it is called and wherever it lies."""
    with path.open("rb") as file:
        return MARK in file.read(128)


def draw(label: str, number: int) -> Image.Image:
    """One image of the sample: RGB, SIZE × SIZE but for the odd one."""
    name = f"{label}{number:02d}"
    if name == COPY:
        return draw(label, int(ORIGINAL.removeprefix(label)))
    rng = np.random.default_rng([SEED, CLASSES.index(label), number])
    image = photograph(PAINTERS[label](rng), rng)
    return image.crop((0, 0, ODD_SIZE, ODD_SIZE)) if name == ODD_NAME else image
