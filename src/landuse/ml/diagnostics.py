"""Diagnostics of a network: dead depthwise filters, and a digest of all weights."""

import hashlib
import re
from itertools import pairwise

import keras
import numpy as np
from numpy.typing import NDArray

DEAD = 1e-3  # largest absolute weight below which a filter counts as dead
BLOCK = re.compile(r"block_\d+|expanded_conv|Conv_1|conv_[dp]w_\d+")


def block_name(layer: keras.Layer) -> str:
    """Return the block of a layer: Conv1, expanded_conv, block_1 … Conv_1, or a convolution of MobileNet v1."""
    block = BLOCK.match(layer.name)
    return block[0] if block else "Conv1"


def depthwise_max_weights(backbone: keras.Model) -> dict[str, NDArray[np.float32]]:
    """Return the largest absolute weight of each depthwise filter [filters] by block, with BatchNorm folded in."""
    return {
        block_name(layer): np.abs(np.asarray(layer.kernel)[..., 0] * batchnorm_scale(norm)).max(axis=(0, 1))
        for layer, norm in pairwise(backbone.layers)
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    }


def dead_kernels(backbone: keras.Model) -> float:
    """Share of depthwise filters whose weights are all below 0.001 with BatchNorm folded in."""
    return float((np.concatenate(list(depthwise_max_weights(backbone).values())) < DEAD).mean())


def depthwise_filters(backbone: keras.Model) -> dict[str, dict[str, float]]:
    """Summarize the depthwise filters of each block: count, dead ones, and minimum and median of their max weights."""
    return {
        block: {
            "filters": len(max_weights),
            "dead": int((max_weights < DEAD).sum()),
            "weakest": float(max_weights.min()),
            "median": float(np.median(max_weights)),
        }
        for block, max_weights in depthwise_max_weights(backbone).items()
    }


def batchnorm_scale(norm: keras.layers.BatchNormalization) -> NDArray[np.float32]:
    """Return the factor per channel that a BatchNorm applies in inference mode."""
    scale: NDArray[np.float32] = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    return scale


def weights_digest(network: keras.Model) -> str:
    """Return the sha256 of all weights in order: it identifies what was loaded, whichever file it came from."""
    digest = hashlib.sha256()
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
