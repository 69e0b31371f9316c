"""Measure time and memory of ingest, extract and split at many made-up images, and of adding 1 % to them.

    python benchmarks/many_images.py 33600 134400 --memory 2500 --flat 1.2

Each image is 16 x 16 random colours and noise, in 64 x 64 pixels; the network is that of the sample. Exit code 1 if a
process exceeds `--memory` MB, or if the last number of images needs more than `--flat` times the memory of the first.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from real_job import fresh_clone, write_params
from update import ONE_IN, run

from landuse.ml.images import parallel_map

SIDE, BLOCK, CLASSES = 64, 4, 10
CHANGES = {
    "validate": {"classes": [f"class-{number}" for number in range(CLASSES)], "size": SIDE, "smallest": SIDE},
    "extract": {"views": 1},
    "split": {"cosine": 0.999},
    "promote": {"families": []},
}


def write_image(folder: Path, number: int) -> None:
    """Write an image that is like no other."""
    random = np.random.default_rng(number)
    colours = random.integers(20, 235, (SIDE // BLOCK, SIDE // BLOCK, 3)).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    pixels = (colours + random.normal(0, 5, colours.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"class-{number % CLASSES}" / f"{number:06}.jpg", quality=80)


def write_images(folder: Path, numbers: range) -> None:
    """Write images `<class>/<image>`."""
    for number in range(CLASSES):
        (folder / f"class-{number}").mkdir(parents=True)
    list(parallel_map(partial(write_image, folder), numbers))


def measure(images: int) -> float:
    """Return the peak memory in MB of any process at a number of images."""
    with TemporaryDirectory() as folder, fresh_clone() as clone:
        many, more = Path(folder, "many"), Path(folder, "more")
        write_images(many, range(images))
        write_images(more, range(images, images + images // ONE_IN))
        write_params(clone, "sample", **CHANGES)
        return max(run(clone, f"{images:,} images", str(many))[1], run(clone, "1 % added", "--add", str(more))[1])


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="+")
    parser.add_argument("--memory", type=float, default=float("inf"), metavar="MB")
    parser.add_argument("--flat", type=float, default=float("inf"), metavar="RATIO")
    args = parser.parse_args()
    peaks = [measure(images) for images in args.images]
    if max(peaks) > args.memory or peaks[-1] > args.flat * peaks[0]:
        sys.exit(f"asked for at most {args.memory} MB, and {args.flat} times as much at the last as at the first")


if __name__ == "__main__":
    main()
