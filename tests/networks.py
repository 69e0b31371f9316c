"""A small, untrained network for tests of the network, its conversion and its diagnostics; a pretended GPU."""

from dataclasses import replace
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from landuse.ml.network import build_backbone, build_network
from landuse.params import ExtractParams

TINY = ExtractParams(backbone="mobilenet_v2", alpha=0.35, image_size=32, weights="none", views=1)


def pixels(count: int) -> np.ndarray:
    """Return images of large patches, so that even a network that mostly averages tells them apart."""
    patches = np.random.default_rng(2).integers(0, 256, (count, 2, 2, 3), np.uint8)
    return patches.repeat(16, axis=1).repeat(16, axis=2)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every module believe that TensorFlow sees a GPU."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [tf.config.PhysicalDevice("", "GPU")])


@cache
def tiny_network(backbone: str) -> keras.Model:
    """Return a cached network of three classes, with BatchNorm statistics as after training. Do not modify it."""
    network = build_network(build_backbone(replace(TINY, backbone=backbone)), classes=3)
    norms = [x for x in network.get_layer(backbone).layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    network(pixels(32), training=True)
    for norm in norms:
        norm.momentum = 0.9
    return network
