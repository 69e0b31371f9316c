"""How time, memory and disk grow with the data: the real images 1, 4 and 16 times over, from validation to training.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 \\
    python benchmarks/growth.py --bend 1.2 --memory 2500

Beside every image stand 3 or 15 others that were made of it: parts of it, turned, mirrored, lighter or darker. Blocks
14 and up are trained for 2 epochs on one view. Exit code 1 where an image more costs more than `--bend` times as much
between 4 and 16 times the data as it does between 1 and 4 times, or a process needs more memory than asked.
"""

import argparse
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageEnhance
from real_job import environment, fresh_clone, write_params

from landuse.ml.images import map_ahead

TIMES = (1, 4, 16)
STAGES = ("validate", "extract", "split", "train")
LITTLE = {
    "extract": {"views": 1},
    "split": {"cosine": 0.999},  # what was made of one image is not to be one group
    "train": {"epochs": 2},
}
Cost = tuple[float, float]  # seconds, peak memory of a process in MB


def grow(archive: str, folder: Path, times: int) -> int:
    """Write the images of an archive, and so many less one made of each, as `<class>/<image>`; returns their number."""
    with ZipFile(archive) as packed:
        names = [Path(name) for name in packed.namelist() if name.endswith(".jpg")]
        contents = (packed.read(name.as_posix()) for name in names)
        for label in {name.parent.name for name in names}:
            (folder / label).mkdir()
        list(map_ahead(lambda named: multiply(*named, folder, times), zip(names, contents, strict=True)))
    return times * len(names)


def multiply(name: Path, content: bytes, folder: Path, times: int) -> None:
    """Write an image and what is made of it."""
    random, image = np.random.default_rng(list(name.name.encode())), Image.open(BytesIO(content)).convert("RGB")
    for number in range(times):
        path = folder / name.parent.name / f"{name.stem}-{number}.jpg"
        path.write_bytes(content) if number == 0 else altered(image, random).save(path, quality=90)


def altered(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of an image in its size, turned, perhaps mirrored, lighter or darker."""
    part = random.uniform(0.6, 0.95)
    width, height = int(part * image.width), int(part * image.height)
    left, top = random.integers(0, image.width - width), random.integers(0, image.height - height)
    cut = image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    turned = cut.rotate(90 * random.integers(4), expand=True)
    seen = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else turned
    return ImageEnhance.Brightness(seen).enhance(random.uniform(0.7, 1.3))


def cost(clone: Path, *command: str) -> Cost:
    """Run a command in the clone; wall seconds, and the most memory that a process of it ever held."""
    start = perf_counter()
    process = subprocess.Popen(command, cwd=clone, env=environment(clone))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return perf_counter() - start, usage.ru_maxrss / 1024


def size(folder: Path) -> float:
    """GB on disk; what is linked twice counts once."""
    found = subprocess.run(["du", "-s", "-B1", folder], check=True, capture_output=True, text=True)
    return int(found.stdout.split()[0]) / 1e9


def measure(times: int) -> tuple[int, dict[str, Cost], float]:
    """Images, what each stage cost, and the GB that a project with so many times the data holds."""
    with TemporaryDirectory() as folder, fresh_clone() as clone:
        images = grow(os.environ["LANDUSE_SOURCE"], Path(folder), times)
        write_params(clone, "ucmerced", **LITTLE, data={"source": folder})
        cost(clone, "landuse", "ingest")
        costs = {stage: cost(clone, "dvc", "repro", "--quiet", "--single-item", "--force", stage) for stage in STAGES}
        return images, costs, size(clone)


def bend(images: list[int], seconds: list[float]) -> float:
    """How many times as much an image more costs with much data than with little: 1 where time is linear."""
    return float(np.divide(*(np.diff(seconds) / np.diff(images))[::-1]))


def main() -> None:
    """Grow, measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bend", type=float, default=float("inf"))
    parser.add_argument("--memory", type=float, default=float("inf"), metavar="MB")
    asked = parser.parse_args()
    found = [measure(times) for times in TIMES]
    images = [count for count, _, _ in found]
    print(f"| | {' | '.join(f'{count:,} images' for count in images)} | an image more: late to early |")
    print(f"|---|{'---|' * (len(images) + 1)}")
    for stage in STAGES:
        seconds = [costs[stage][0] for _, costs, _ in found]
        cells = [f"{costs[stage][0]:.1f} s, {costs[stage][1]:,.0f} MB" for _, costs, _ in found]
        print(f"| {stage} | {' | '.join(cells)} | {bend(images, seconds):.2f} |")
    together = [sum(seconds for seconds, _ in costs.values()) for _, costs, _ in found]
    print(f"| all | {' | '.join(f'{seconds:.0f} s' for seconds in together)} | {bend(images, together):.2f} |")
    print(f"| disk, DVC's cache included | {' | '.join(f'{held:.2f} GB' for _, _, held in found)} | |")
    highest = max(memory for _, costs, _ in found for _, memory in costs.values())
    if bend(images, together) > asked.bend or highest > asked.memory:
        sys.exit(f"asked for at most {asked.bend} and {asked.memory} MB")


if __name__ == "__main__":
    main()
