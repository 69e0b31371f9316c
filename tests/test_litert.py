"""Conversion to LiteRT: the flatbuffer predicts what the Keras network predicts."""

import numpy as np
import pytest
from networks import pixels, tiny_network

from landuse.ml.classifier import LiteModel
from landuse.ml.litert import to_litert
from landuse.params.backbones import BACKBONES


@pytest.mark.parametrize("backbone", BACKBONES)
def test_litert_predicts_the_same_as_keras(backbone: str) -> None:
    network, images = tiny_network(backbone), pixels(5)
    lite = LiteModel(to_litert(network))
    expected = np.asarray(network(images))
    assert np.abs(expected - expected[0]).max() > 1e-3, "the images are told apart"
    assert np.abs(np.stack([lite(image) for image in images]) - expected).max() < 1e-4
