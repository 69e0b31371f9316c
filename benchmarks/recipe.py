"""The tutorial's recipe in plain Keras: a frozen MobileNetV2 and a new head; each epoch is a full pass over all images.

    python benchmarks/recipe.py UCMerced_LandUse.zip weights.h5 --epochs 20

Uses nothing of this project. Each epoch prints a line of JSON: seconds since the start, and validation accuracy.
"""

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
START = perf_counter()

import keras  # noqa: E402  the import counts towards the time

SIZE, BATCH, VALIDATION, SEED = 224, 16, 0.3, 1


@contextmanager
def unpacked(archive: str) -> Iterator[Path]:
    """Unpack the archive; yields the folder that holds the classes."""
    with TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        yield next(Path(folder).rglob("agricultural")).parent


def build_network(weights: str, classes: int) -> keras.Model:
    """Build a frozen MobileNetV2 without its top, with pooling and a softmax over the classes."""
    pixels = keras.Input((SIZE, SIZE, 3))
    scaled = keras.applications.mobilenet_v2.preprocess_input(pixels)
    backbone = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights=weights)
    backbone.trainable = False
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(scaled, training=False))
    return keras.Model(pixels, keras.layers.Dense(classes, activation="softmax")(pooled))


class ProgressReporter(keras.callbacks.Callback):
    """Prints a line of JSON after each epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        line = {"epoch": epoch + 1, "seconds": perf_counter() - START, "accuracy": logs["val_accuracy"]}
        print(json.dumps(line), file=sys.__stdout__, flush=True)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive")
    parser.add_argument("weights")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    with unpacked(args.archive) as folder, redirect_stdout(sys.stderr):  # Keras prints the number of files
        train, validation = keras.utils.image_dataset_from_directory(
            folder,
            label_mode="categorical",
            image_size=(SIZE, SIZE),
            batch_size=BATCH,
            validation_split=VALIDATION,
            subset="both",
            seed=SEED,
            verbose=False,
        )
        network = build_network(args.weights, len(train.class_names))
        network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        network.fit(train, validation_data=validation, epochs=args.epochs, verbose=0, callbacks=[ProgressReporter()])


if __name__ == "__main__":
    main()
