"""Diagnostics: dead depthwise filters, and the digest of a network's weights."""

import os
from dataclasses import replace

import keras
import numpy as np
import pytest
from networks import TINY

from landuse.ml.diagnostics import dead_kernels, depthwise_filters, weights_digest
from landuse.ml.network import build_backbone


def test_untrained_weights_are_the_same_every_time() -> None:
    first, second = (weights_digest(build_backbone(TINY)) for _ in range(2))
    assert first == second != weights_digest(build_backbone(replace(TINY, backbone="mobilenet")))


def test_a_depthwise_kernel_of_zeros_counts_as_dead() -> None:
    backbone = build_backbone(TINY)
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    filters = sum(layer.kernel.shape[2] for layer in layers)
    assert len(layers) == 17 and dead_kernels(backbone) == 0
    for number, layer in enumerate(layers[:2], 1):
        kernel = np.array(layer.kernel)
        kernel[:, :, 3] = 0
        layer.kernel.assign(kernel)
        assert dead_kernels(backbone) == pytest.approx(number / filters)


def test_a_depthwise_kernel_zeroed_by_batchnorm_counts_as_dead() -> None:
    backbone = build_backbone(TINY)
    norm = backbone.get_layer("block_1_depthwise_BN")
    norm.gamma.assign(np.zeros(norm.gamma.shape))
    filters = sum(layer.kernel.shape[2] for layer in backbone.layers if isinstance(layer, keras.layers.DepthwiseConv2D))
    assert dead_kernels(backbone) == pytest.approx(norm.gamma.shape[0] / filters)


def test_depthwise_filters_are_counted_by_block_with_the_weakest_of_each() -> None:
    backbone = build_backbone(TINY)
    layer = backbone.get_layer("block_3_depthwise")
    kernel = np.array(layer.kernel)
    kernel[:, :, 5] = 0
    layer.kernel.assign(kernel)
    blocks = depthwise_filters(backbone)
    assert list(blocks) == ["expanded_conv", *(f"block_{number}" for number in range(1, 17))]
    assert [block for block, counts in blocks.items() if counts["dead"]] == ["block_3"]
    assert (blocks["block_3"]["filters"], blocks["block_3"]["weakest"]) == (kernel.shape[2], 0)
    assert all(counts["weakest"] <= counts["median"] for counts in blocks.values())


@pytest.mark.skipif("LANDUSE_WEIGHTS" not in os.environ, reason="LANDUSE_WEIGHTS names no pretrained weights")
def test_pretrained_weights_load_and_leave_few_kernels_dead() -> None:
    params = replace(TINY, alpha=1.0, image_size=224, weights=os.environ["LANDUSE_WEIGHTS"])
    backbone = build_backbone(params)
    assert weights_digest(backbone) != weights_digest(build_backbone(replace(params, weights="none")))
    assert 0 <= dead_kernels(backbone) < 0.2
