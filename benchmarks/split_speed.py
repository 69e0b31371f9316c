"""Measure time and memory of grouping near-duplicates and assigning subsets, for made-up hashes and embeddings.

    python benchmarks/split_speed.py --images 33600 134400 --seconds 60 --memory 2500

Each image has 63 more or less similar ones. `--all-pairs` also compares every image with every other, and checks that
the groups are the same. Exit code 1 if a split takes more than `--seconds` or holds more than `--memory` MB.
"""

import argparse
import re
import sys
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED, hex_digits, view_hashes, within_distance
from landuse.params import SplitParams
from landuse.split import assign_subsets, group_near_duplicates

PARAMS = SplitParams(validation=0.2, test=0.2, cosine=0.97, hash_distance=2, seed=1)
CLASSES, VARIANTS, FACTORS, CHANNELS, ROWS = 21, 64, 100, 1280, 2100


def write_embeddings(path: Path, images: int) -> None:
    """Write embeddings [images, 1280] whose cosine similarities resemble those of real images and augmented copies."""
    random = np.random.default_rng(1)
    mixing = random.standard_normal((FACTORS, CHANNELS)) / np.arange(1, FACTORS + 1)[:, None] ** 0.5
    originals = random.standard_normal((-(-images // VARIANTS), FACTORS))
    table = np.lib.format.open_memmap(path, "w+", np.float32, (images, CHANNELS))
    for start in range(0, images, ROWS):
        rows = np.arange(start, min(start + ROWS, images))
        changes = random.uniform(0.2, 1, (len(rows), 1)) * random.standard_normal((len(rows), FACTORS))
        table[rows] = ((originals[rows // VARIANTS] + changes) @ mixing).clip(min=0)
    table.flush()


def made_up_manifest(images: int) -> pd.DataFrame:
    """Make rows with label, sha256 and the hashes of smooth 9 x 9 grey levels, more or less changed."""
    random = np.random.default_rng(2)
    smooth = np.exp(-40 * (np.linspace(0, 1, 9)[:, None] - np.linspace(0, 1, 7)) ** 2)
    coarse = random.standard_normal((-(-images // VARIANTS), 7, 7)).repeat(VARIANTS, axis=0)[:images]
    coarse += random.uniform(0.2, 1, (images, 1, 1)) * random.standard_normal((images, 7, 7))
    levels = smooth @ coarse @ smooth.T
    hashes = {
        PHASH: [hex_digits(image[:8]) for image in levels],
        PHASH_TURNED: [hex_digits(image[:, :8].T) for image in levels],
    }
    digests = [f"{number:064x}" for number in random.permutation(images)]
    return pd.DataFrame({"label": np.arange(images) * CLASSES // images, "sha256": digests} | hashes)


def all_pairs(manifest: pd.DataFrame, embeddings: np.ndarray) -> np.ndarray:
    """Return the groups by a comparison of every image with every other, its memory not bounded."""
    hashes, links = view_hashes(manifest), []
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for row in range(len(manifest)):
        close = within_distance(hashes[row : row + 1, 0], hashes[row:], PARAMS.hash_distance)[0]
        others = row + np.flatnonzero(close | (unit[row:] @ unit[row] >= PARAMS.cosine))
        links.append((np.full(len(others), row), others))
    first, second = np.concatenate(links, axis=1)
    return connected_components(coo_array((np.ones(len(first), bool), (first, second)), shape=(len(manifest),) * 2))[1]


def measure(path: Path, images: int, compare: bool) -> tuple[float, float]:
    """Print and return the seconds and the peak MB of a split, to be run in a process of its own."""
    manifest, embeddings = made_up_manifest(images), np.load(path, mmap_mode="r")
    start, used = perf_counter(), process_time()
    groups = group_near_duplicates(manifest, embeddings, PARAMS)
    assign_subsets(manifest.assign(group=groups), PARAMS)
    seconds, used = perf_counter() - start, process_time() - used
    status = Path("/proc/self/status").read_text()
    peak, anonymous = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmHWM", "RssAnon"))
    print(
        f"{images:>9,} images, {groups.max() + 1:,} groups: {seconds:.1f} s ({used:.1f} s of CPU), at most {peak:,.0f} "
        f"MB, mapped embeddings included; {anonymous:,.0f} MB without in the end"
    )
    if compare and (groups != all_pairs(manifest, embeddings)).any():
        sys.exit("that is another result than from all pairs")
    return seconds, peak


def main() -> None:
    """Measure each number of images, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[134_400])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--memory", type=float, default=float("inf"), metavar="MB")
    parser.add_argument("--all-pairs", action="store_true")
    args = parser.parse_args()
    for images in args.images:
        with TemporaryDirectory() as folder, get_context("spawn").Pool(1) as pool:
            path = Path(folder, "embeddings.npy")
            write_embeddings(path, images)
            seconds, peak = pool.apply(measure, (path, images, args.all_pairs))
        if seconds > args.seconds or peak > args.memory:
            sys.exit(f"asked for at most {args.seconds} s and {args.memory} MB")


if __name__ == "__main__":
    main()
