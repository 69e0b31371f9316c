"""Create `weights/scenes.weights.h5`: a small MobileNetV2 pretrained on scenes that are not in the sample.

The sample stands in for real images and these weights for ImageNet's, so that everything runs offline.
Run it as `python benchmarks/pretrain_scenes.py`; it takes a few minutes on two cores.
"""

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landuse.ml.images import parallel_map
from landuse.ml.network import ALL, build_backbone, scaled_input, unfreeze
from landuse.params import ExtractParams
from landuse.sample import CLASSES, draw

BACKBONE = ExtractParams(backbone="mobilenet_v2", alpha=0.35, image_size=96, weights="none", views=1)
SCENES_PER_CLASS = 400
EPOCHS = 24
BATCH = 64
SEED = 1000
FIRST = 1000  # number of the first scene of each class: far beyond those of the sample
TARGET = Path("weights/scenes.weights.h5")


def scene_pixels(scene: tuple[str, int]) -> NDArray[np.uint8]:
    """Draw one scene at the network's input size."""
    return np.asarray(draw(*scene).resize((BACKBONE.image_size,) * 2, Image.Resampling.BILINEAR))


class Scenes(keras.utils.PyDataset):
    """Shuffled batches: one random dihedral view per batch, random brightness and tint per scene."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.float32]) -> None:
        super().__init__()
        self.images, self.labels, self.random = images, labels, np.random.default_rng(SEED)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self.order = self.random.permutation(len(self.images))

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        indices = self.order[index * BATCH : (index + 1) * BATCH]
        images = np.rot90(self.images[indices], self.random.integers(4), axes=(1, 2))
        images = images[:, :: self.random.choice([-1, 1])]
        light = self.random.uniform(0.8, 1.2, (BATCH, 1, 1, 1)) * self.random.uniform(0.9, 1.1, (BATCH, 1, 1, 3))
        return (images * light).clip(0, 255).astype(np.uint8), self.labels[indices]


def main() -> None:
    """Draw the scenes, train, and save the backbone without its head."""
    scenes = [(label, FIRST + number) for label in CLASSES for number in range(SCENES_PER_CLASS)]
    images = np.stack(list(parallel_map(scene_pixels, scenes)))
    labels = np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(label) for label, _ in scenes]]
    backbone = build_backbone(BACKBONE)
    keras.utils.set_random_seed(SEED)
    pixels, scaled = scaled_input(backbone)
    pooled = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(backbone(scaled)))
    network = keras.Model(pixels, keras.layers.Dense(len(CLASSES), activation="softmax")(pooled))
    unfreeze(network, ALL)
    schedule = keras.optimizers.schedules.CosineDecay(0.003, EPOCHS * (len(images) // BATCH))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01)
    network.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    network.fit(Scenes(images, labels), epochs=EPOCHS, verbose=2)
    backbone.save_weights(TARGET)


if __name__ == "__main__":
    main()
