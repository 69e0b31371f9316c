"""Silent depthwise channels: found by their outputs, in float32 and int8, whatever their weights."""

import json
import os
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from networks import TINY

from landuse.core import paths
from landuse.ml.activity import dead_channels, silent_channels
from landuse.ml.images import decode, to_upright_rgb
from landuse.ml.litert import to_int8, to_litert
from landuse.ml.network import build_backbone, build_network
from landuse.params.backbones import BACKBONES

CHANNELS = (1, 5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for number, label in enumerate(tiny.LABELS):
        tiny.scene(label, number).save(folder / f"{label}.png")
    return sorted(folder.iterdir())


def count_by_layer(network: keras.Model, images: list[Path], folder: Path, int8: bool) -> list[int]:
    """Convert a network to a file, and count the silent channels of each depthwise layer."""
    flatbuffer = to_litert(network)
    if int8:
        pixels = [np.asarray(to_upright_rgb(decode(path)).resize(network.input_shape[1:3])) for path in images]
        flatbuffer = to_int8(flatbuffer, pixels)
    (folder / "model.tflite").write_bytes(flatbuffer)
    return [int(layer.sum()) for layer in silent_channels(folder / "model.tflite", images, network.input_shape[1])]


FOURTH_NORM = {"mobilenet_v2": "block_3_depthwise_BN", "mobilenet": "conv_dw_4_bn"}  # and so on in MobileNetV3


def with_shifted_channels(backbone: str, shift: float) -> keras.Model:
    """Build a network in which two channels of the fourth depthwise layer are shifted far to one side."""
    built = build_backbone(replace(TINY, backbone=backbone))
    norm = built.get_layer(FOURTH_NORM.get(backbone, "expanded_conv_3_depthwise_bn"))
    beta = np.array(norm.beta)
    beta[list(CHANNELS)] += shift
    norm.beta.assign(beta)
    return build_network(built, 3)


@pytest.mark.parametrize(
    ("backbone", "int8"),
    [(name, int8) for name in ("mobilenet_v2", "mobilenet") for int8 in (False, True)]
    + [("mobilenet_v3_small", False)],
)
def test_channels_that_are_cut_off_are_silent_in_their_block_only(
    backbone: str, int8: bool, images: list[Path], tmp_path: Path
) -> None:
    before, after = (
        count_by_layer(with_shifted_channels(backbone, shift), images, tmp_path, int8) for shift in (0, -4)
    )
    assert len(before) == BACKBONES[backbone].depthwise
    assert before[:3] == after[:3] and before[3] + 1 <= after[3] <= before[3] + len(CHANNELS)


def test_a_channel_with_large_outputs_silences_the_others_of_its_layer_in_int8(
    images: list[Path], tmp_path: Path
) -> None:
    network = with_shifted_channels("mobilenet_v2", 5)
    exact, int8 = (count_by_layer(network, images, tmp_path, int8) for int8 in (False, True))
    assert exact[3] + 10 < int8[3]


def test_the_evaluation_counts_silent_channels_by_block(trained: Path) -> None:
    metrics = json.loads(paths.METRICS.read_text("utf-8"))
    blocks = metrics["depthwise"]
    names = [block["block"] for block in blocks]
    assert names == ["expanded_conv", *(f"block_{number}" for number in range(1, 17))]
    filters = sum(block["filters"] for block in blocks)
    for share, count in (
        ("dead_kernels", "dead"),
        ("dead_kernels_int8", "dead_int8"),
        ("silent_kernels", "silent"),
        ("silent_kernels_int8", "silent_int8"),
    ):
        assert metrics[share] == pytest.approx(sum(block[count] for block in blocks) / filters, abs=1e-9)
    assert metrics["silent_images"] == metrics["images"] == 9


@pytest.mark.parametrize("int8", [False, True])
def test_filters_without_weights_are_dead_in_their_block_only(int8: bool, images: list[Path], tmp_path: Path) -> None:
    built = build_backbone(TINY)
    layer = built.get_layer("block_3_depthwise")
    kernel = np.array(layer.kernel)
    kernel[:, :, list(CHANNELS)] *= 1e-6
    layer.kernel.assign(kernel)
    count_by_layer(build_network(built, 3), images, tmp_path, int8)
    layers = dead_channels(tmp_path / "model.tflite")
    assert [list(np.flatnonzero(mask)) for mask in layers] == [[]] * 3 + [list(CHANNELS)] + [[]] * 13


@pytest.mark.skipif("LANDUSE_WEIGHTS" not in os.environ, reason="LANDUSE_WEIGHTS names no pretrained weights")
def test_pretrained_weights_have_silent_channels_though_none_is_dead(images: list[Path], tmp_path: Path) -> None:
    params = replace(TINY, alpha=1.0, image_size=224, weights=os.environ["LANDUSE_WEIGHTS"])
    counts = count_by_layer(build_network(build_backbone(params), 3), images, tmp_path, int8=False)
    assert sum(counts) > 0
