"""Compare MobileNetV2 as published with the same network and a ReLU6 after each projection, trained from scratch.

    python benchmarks/linear_bottleneck.py

A block of MobileNetV2 ends in a projection to few channels without an activation, its linear bottleneck (Sandler et
al., 2018, section 3.2). Here both networks start with the same weights, see the same batches, and differ in 17
activations only. The scenes are drawn as those of the sample, but are others. Held-out scenes decide nothing: the
learning rate was chosen with `--pilot`, which takes another seed and other scenes in their place. Needs no variables;
takes half an hour on two cores shared with other work, a pilot of 10 epochs three minutes.
"""

import argparse
import os
from collections.abc import Iterable
from itertools import zip_longest
from time import perf_counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pretrain_scenes import BACKBONE, BATCH, Scenes

from landuse.ml.images import parallel_map
from landuse.ml.network import ALL, Network, backbone_of, build_network, unfreeze
from landuse.sample import CLASSES, draw

SIZE = 64  # pixels; the sample's 96 take twice the time
SEEDS, PILOT_SEED = (1, 2, 3), 0
TRAIN, TEST, PILOT = range(2000, 2100), range(3000, 3100), range(4000, 4100)  # numbers of the scenes of each class
PROJECTIONS = 17
ROWS = ("as published", "with ReLU6", "difference")
MEASURES = {"accuracy, %": 1, "loss": 3, "accuracy on training scenes, %": 1, "loss on training scenes": 3}  # digits

Scenery = tuple[NDArray[np.uint8], NDArray[np.float32]]  # images [n, size, size, 3], one-hot labels [n, classes]


def scene_pixels(scene: tuple[str, int]) -> NDArray[np.uint8]:
    """Draw one scene: [SIZE, SIZE, 3]."""
    return np.asarray(draw(*scene).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def draw_scenes(numbers: range) -> Scenery:
    """Draw the scenes of these numbers of every class."""
    scenes = [(label, number) for label in CLASSES for number in numbers]
    labels = np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(label) for label, _ in scenes]]
    return np.stack(list(parallel_map(scene_pixels, scenes))), labels


def with_activations(backbone: keras.Model) -> keras.Model:
    """Rebuild a MobileNetV2 with a ReLU6 after the BatchNorm of each projection, before the shortcut is added."""

    def call(layer: keras.Layer, *args: keras.KerasTensor, **kwargs: object) -> keras.KerasTensor:
        output = layer(*args, **kwargs)
        return keras.layers.ReLU(6.0)(output) if layer.name.endswith("project_BN") else output

    return keras.models.clone_model(backbone, call_function=call)


def build_pair(alpha: float, seed: int) -> tuple[Network, Network]:
    """Build the published and the changed network with the same random weights, all of them trainable."""
    keras.utils.set_random_seed(seed)
    backbone = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), alpha=alpha, include_top=False, weights=None)
    published = build_network(backbone, len(CLASSES))
    changed = build_network(with_activations(backbone), len(CLASSES))
    changed.set_weights(published.get_weights())
    check_pair(published, changed)
    for network in (published, changed):
        unfreeze(network, ALL)
    return published, changed


def check_pair(published: Network, changed: Network) -> None:
    """Raise AssertionError unless the weights are the same, and each projection has an activation more."""
    assert published.count_params() == changed.count_params()
    assert all(map(np.array_equal, published.get_weights(), changed.get_weights()))
    before, after = ([type(layer) for layer in backbone_of(network).layers] for network in (published, changed))
    assert len(after) - len(before) == PROJECTIONS
    assert after.count(keras.layers.ReLU) - before.count(keras.layers.ReLU) == PROJECTIONS


def train(network: Network, scenes: Scenery, seed: int, epochs: int, rate: float) -> None:
    """Train for a fixed number of epochs; the seed determines the order of the scenes and their augmentation."""
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(scenes[0]))
    batches = Scenes(*(part[order] for part in scenes))
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01)
    network.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    network.fit(batches, epochs=epochs, verbose=0)


def measure(network: Network, held_out: Scenery, training: Scenery) -> list[float]:
    """Evaluate on unaugmented scenes: the values of MEASURES."""
    (loss, accuracy), (training_loss, training_accuracy) = (
        network.evaluate(*scenes, batch_size=BATCH, verbose=0) for scenes in (held_out, training)
    )
    return [100 * accuracy, loss, 100 * training_accuracy, training_loss]


def compare(training: Scenery, held_out: Scenery, seed: int, args: argparse.Namespace) -> NDArray[np.float64]:
    """Train both networks with one seed: [ROWS, MEASURES]."""
    measured = []
    for network in build_pair(args.alpha, seed):
        train(network, training, seed, args.epochs, args.rate)
        measured.append(measure(network, held_out, training))
    return np.array([*measured, np.subtract(measured[1], measured[0])])


def print_row(seed: int | str, name: str, values: Iterable[float], spreads: Iterable[float] = ()) -> None:
    """Print a row of the table: the values of MEASURES, with their standard deviations if there are any."""
    cells = [
        f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")
        for digits, value, spread in zip_longest(MEASURES.values(), values, spreads)
    ]
    print(f"| {seed} | {name} | {' | '.join(cells)} |")


def print_table(seeds: tuple[int, ...], results: NDArray[np.float64]) -> None:
    """Print results [seeds, ROWS, MEASURES], and over several seeds mean and standard deviation."""
    print(f"| seed | projection | {' | '.join(MEASURES)} |")
    print(f"|---|---|{'---|' * len(MEASURES)}")
    for seed, rows in zip(seeds, results, strict=True):
        for name, values in zip(ROWS, rows, strict=True):
            print_row(seed, name, values)
    if len(seeds) > 1:
        for name, values in zip(ROWS, results.swapaxes(0, 1), strict=True):
            print_row("all", name, values.mean(axis=0), values.std(axis=0, ddof=1))


def main() -> None:
    """Draw the scenes, train each pair, and print settings and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=BACKBONE.alpha)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--pilot", action="store_true")
    args = parser.parse_args()
    start = perf_counter()
    seeds = (PILOT_SEED,) if args.pilot else SEEDS
    training, held_out = draw_scenes(TRAIN), draw_scenes(PILOT if args.pilot else TEST)
    results = np.stack([compare(training, held_out, seed, args) for seed in seeds])
    print(f"alpha {args.alpha}, {SIZE} pixels, {args.epochs} epochs, batch {BATCH}, rate {args.rate}")
    print(f"{len(training[0])} training scenes, {len(held_out[0])} {'pilot' if args.pilot else 'held-out'} scenes")
    print_table(seeds, results)
    print(f"{perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
