"""Compare the speed of `landuse predict` and Keras `predict` on the same files, decoding included; time a cold start.

    python benchmarks/predict_speed.py --times 3.5 --cold 3

Run it in a project with data/, artifacts/model/ and a registered champion. Exit code 1 if int8 is less than `--times`
as fast as Keras, or a single image takes longer than `--cold` seconds.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier, measure_latencies
from landuse.ml.images import image_paths, parallel_map, read_image
from landuse.predict import predict

BATCH = 32
ROUNDS, IMAGES = 3, 200
COLD = {"champion": (), "folder": ("--model", str(MODEL))}


def keras_seconds(paths: list[Path]) -> float:
    """Time one call of Keras `predict` with batches of 32, decoded ahead by one thread per core."""
    import keras

    network = keras.models.load_model(MODEL / "model.keras")
    size = network.input_shape[1]
    network.predict(np.zeros((BATCH, size, size, 3), np.uint8), verbose=0)
    start = perf_counter()
    outputs = network.predict(batches(paths, size), steps=-(-len(paths) // BATCH), verbose=0)
    assert len(outputs) == len(paths)
    return perf_counter() - start


def batches(paths: list[Path], size: int) -> Iterator[tuple[np.ndarray]]:
    """Yield the pixels of the images in batches of 32, as Keras expects them."""
    pixels = parallel_map(lambda path: read_image(path, size), paths)
    while batch := list(islice(pixels, BATCH)):
        yield (np.stack(batch),)


def landuse_seconds(paths: list[Path], int8: bool) -> float:
    """Time `landuse predict` to a file, from the arguments to the last row."""
    with TemporaryDirectory() as folder:
        start = perf_counter()
        tally = predict([*map(str, paths)], str(MODEL), Path(folder, "out.csv"), int8)
        assert tally.images == len(paths) and not tally.bad
        return perf_counter() - start


def cold_seconds(*options: str) -> float:
    """Time one image in a new process, as a user would wait for it."""
    image = str(DATA / image_paths(DATA)[0])
    start = perf_counter()
    subprocess.run(["landuse", "predict", image, *options], check=True, capture_output=True)
    return perf_counter() - start


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=float, default=0.0, help="minimum speed of int8, as a multiple of Keras")
    parser.add_argument("--cold", type=float, default=float("inf"), help="maximum seconds for one image")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    paths = [DATA / path for path in image_paths(DATA)]
    methods = {
        "Keras predict": keras_seconds,
        "landuse predict": partial(landuse_seconds, int8=False),
        "landuse predict --int8": partial(landuse_seconds, int8=True),
    }
    rounds = [{name: method(paths) for name, method in methods.items()} for _ in range(ROUNDS)]
    seconds = {name: median(timings[name] for timings in rounds) for name in methods}
    times = {name: seconds["Keras predict"] / value for name, value in seconds.items()}
    cold = {name: median(cold_seconds(*options) for _ in range(ROUNDS)) for name, options in COLD.items()}
    for name, value in seconds.items():
        print(f"{name:<23}{len(paths) / value:7.0f} images/s   {times[name]:.2f} times Keras")
    for name, int8 in {"float32": False, "int8": True}.items():
        milliseconds = np.median(measure_latencies(Classifier(MODEL, int8), paths, IMAGES))
        print(f"{name:<23}{milliseconds:7.1f} ms an image, decoding included, on one core")
    for name, value in cold.items():
        print(f"one image, {name:<12}{value:7.2f} s")
    if times["landuse predict --int8"] < args.times or max(cold.values()) > args.cold:
        sys.exit(f"asked for {args.times} times and {args.cold} s")


if __name__ == "__main__":
    main()
