"""Measure how time, memory and disk grow with 1, 4 and 16 times the real images, from validation to training.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 \\
    python benchmarks/growth.py --bend 1.2 --memory 2500

Each image gets 3 or 15 augmented copies: random crops, rotated, mirrored, lighter or darker. Blocks 14 and up are
trained for 2 epochs on one view. Exit code 1 if the marginal cost of an image between 4 and 16 times the data is more
than `--bend` times that between 1 and 4 times, or if a process exceeds `--memory`.
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

from landuse.ml.images import parallel_map

FACTORS = (1, 4, 16)
STAGES = ("validate", "extract", "split", "train")
SMALL_TRAINING = {
    "extract": {"views": 1},
    "split": {"cosine": 0.999},  # keeps the copies of an image from forming one group
    "train": {"epochs": 2},
}
Cost = tuple[float, float]  # seconds, peak memory of any process in MB


def grow(archive: str, folder: Path, factor: int) -> int:
    """Write `factor` versions of each image of an archive as `<class>/<image>`; returns their number."""
    with ZipFile(archive) as packed:
        names = [Path(name) for name in packed.namelist() if name.endswith(".jpg")]
        contents = (packed.read(name.as_posix()) for name in names)
        for label in {name.parent.name for name in names}:
            (folder / label).mkdir()
        list(parallel_map(lambda named: write_versions(*named, folder, factor), zip(names, contents, strict=True)))
    return factor * len(names)


def write_versions(name: Path, content: bytes, folder: Path, factor: int) -> None:
    """Write an image and its augmented copies."""
    random, image = np.random.default_rng(list(name.name.encode())), Image.open(BytesIO(content)).convert("RGB")
    for number in range(factor):
        path = folder / name.parent.name / f"{name.stem}-{number}.jpg"
        path.write_bytes(content) if number == 0 else augmented(image, random).save(path, quality=90)


def augmented(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a random crop in the original size, rotated, perhaps mirrored, lighter or darker."""
    scale = random.uniform(0.6, 0.95)
    width, height = int(scale * image.width), int(scale * image.height)
    left, top = random.integers(0, image.width - width), random.integers(0, image.height - height)
    crop = image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    rotated = crop.rotate(90 * random.integers(4), expand=True)
    flipped = rotated.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else rotated
    return ImageEnhance.Brightness(flipped).enhance(random.uniform(0.7, 1.3))


def cost(clone: Path, *command: str) -> Cost:
    """Run a command in the clone; returns wall seconds and the peak memory of any of its processes."""
    start = perf_counter()
    process = subprocess.Popen(command, cwd=clone, env=environment(clone))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return perf_counter() - start, usage.ru_maxrss / 1024


def disk_gb(folder: Path) -> float:
    """Return GB on disk, counting hard links once."""
    usage = subprocess.run(["du", "-s", "-B1", folder], check=True, capture_output=True, text=True)
    return int(usage.stdout.split()[0]) / 1e9


def measure(factor: int) -> tuple[int, dict[str, Cost], float]:
    """Return the number of images, the cost of each stage, and the project's GB at a multiple of the data."""
    with TemporaryDirectory() as folder, fresh_clone() as clone:
        images = grow(os.environ["LANDUSE_SOURCE"], Path(folder), factor)
        write_params(clone, "ucmerced", **SMALL_TRAINING, data={"source": folder})
        cost(clone, "landuse", "ingest")
        costs = {stage: cost(clone, "dvc", "repro", "--quiet", "--single-item", "--force", stage) for stage in STAGES}
        return images, costs, disk_gb(clone)


def bend(images: list[int], seconds: list[float]) -> float:
    """Return the ratio of the marginal seconds per image, late to early: 1 if time is linear."""
    return float(np.divide(*(np.diff(seconds) / np.diff(images))[::-1]))


def main() -> None:
    """Measure each multiple, print the table, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bend", type=float, default=float("inf"))
    parser.add_argument("--memory", type=float, default=float("inf"), metavar="MB")
    args = parser.parse_args()
    results = [measure(factor) for factor in FACTORS]
    images = [count for count, _, _ in results]
    print(f"| | {' | '.join(f'{count:,} images' for count in images)} | an image more: late to early |")
    print(f"|---|{'---|' * (len(images) + 1)}")
    for stage in STAGES:
        seconds = [costs[stage][0] for _, costs, _ in results]
        cells = [f"{costs[stage][0]:.1f} s, {costs[stage][1]:,.0f} MB" for _, costs, _ in results]
        print(f"| {stage} | {' | '.join(cells)} | {bend(images, seconds):.2f} |")
    totals = [sum(seconds for seconds, _ in costs.values()) for _, costs, _ in results]
    print(f"| all | {' | '.join(f'{seconds:.0f} s' for seconds in totals)} | {bend(images, totals):.2f} |")
    print(f"| disk, DVC's cache included | {' | '.join(f'{held:.2f} GB' for _, _, held in results)} | |")
    peak = max(memory for _, costs, _ in results for _, memory in costs.values())
    if bend(images, totals) > args.bend or peak > args.memory:
        sys.exit(f"asked for at most {args.bend} and {args.memory} MB")


if __name__ == "__main__":
    main()
