"""How fast `landuse predict` is beside Keras `predict` on the same files, decoding included, and from a cold start.

    python benchmarks/predict_speed.py --times 3.5 --cold 3

Run it in a project with data/, artifacts/model/ and a registered champion. Exit code 1 where it is slower than asked.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from landuse.dataset import image_paths, map_ahead, read_image
from landuse.paths import DATA, MODEL
from landuse.predict import predict

BATCH = 32
ROUNDS = 3
COLD = {"champion": (), "folder": ("--model", str(MODEL))}


def keras_seconds(paths: list[Path]) -> float:
    """One call of Keras `predict` with batches of 32, decoded ahead of it by as many threads as there are cores."""
    import keras

    network = keras.models.load_model(MODEL / "model.keras")
    size = network.input_shape[1]
    network.predict(np.zeros((BATCH, size, size, 3), np.uint8), verbose=0)
    start = perf_counter()
    answers = network.predict(batches(paths, size), steps=-(-len(paths) // BATCH), verbose=0)
    assert len(answers) == len(paths)
    return perf_counter() - start


def batches(paths: list[Path], size: int) -> Iterator[tuple[np.ndarray]]:
    """The pixels of the images, 32 at a time, as Keras takes them."""
    pixels = map_ahead(lambda path: read_image(path, size), paths)
    while batch := list(islice(pixels, BATCH)):
        yield (np.stack(batch),)


def landuse_seconds(paths: list[Path]) -> float:
    """`landuse predict` to a file, from the arguments to the last row."""
    with TemporaryDirectory() as folder:
        start = perf_counter()
        tally = predict([*map(str, paths)], str(MODEL), Path(folder, "out.csv"))
        assert tally.images == len(paths) and not tally.bad
        return perf_counter() - start


def cold_seconds(*options: str) -> float:
    """One image in a process of its own, as a user waits for it."""
    image = str(DATA / image_paths(DATA)[0])
    start = perf_counter()
    subprocess.run(["landuse", "predict", image, *options], check=True, capture_output=True)
    return perf_counter() - start


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=float, default=0.0, help="how many times as fast as Keras it must be")
    parser.add_argument("--cold", type=float, default=float("inf"), help="seconds that one image may take")
    asked = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    paths = [DATA / path for path in image_paths(DATA)]
    ours, theirs = zip(*((landuse_seconds(paths), keras_seconds(paths)) for _ in range(ROUNDS)), strict=True)
    times = median(theirs) / median(ours)
    cold = {name: median(cold_seconds(*options) for _ in range(ROUNDS)) for name, options in COLD.items()}
    print(f"landuse predict   {len(paths) / median(ours):7.0f} images/s")
    print(f"Keras predict     {len(paths) / median(theirs):7.0f} images/s   {times:.2f} times slower")
    for name, seconds in cold.items():
        print(f"one image, {name:<9}{seconds:5.2f} s")
    if times < asked.times or max(cold.values()) > asked.cold:
        sys.exit(f"asked for {asked.times} times and {asked.cold} s")


if __name__ == "__main__":
    main()
