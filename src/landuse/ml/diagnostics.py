"""Diagnostics of a network: dead depthwise filters, and a digest of all weights."""

import hashlib
import re
from itertools import pairwise
from math import prod

import keras
import numpy as np
from numpy.typing import NDArray

from landuse.ml.classifier import DEAD
from landuse.ml.network import backbone_of

BLOCK = re.compile(r"block_\d+|expanded_conv(_\d+)?|[Cc]onv_1|conv_[dp]w_\d+|block\d[a-z]|top_conv")


def block_name(layer: keras.Layer) -> str:
    """Return the block of a layer as Keras names it, such as block_1 or conv_dw_1; Conv1 for those before the first."""
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


def multiply_adds(network: keras.Model, views: int) -> int:
    """Count the multiplications of convolutions and dense layers, each with its addition, for one image.

    The backbone runs once for each view of the image.
    """
    return views * kernel_products(backbone_of(network)) + kernel_products(network)


def kernel_products(model: keras.Model) -> int:
    """Count the multiplications by kernels in the layers of a model, without those in models within it."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return sum(prod(layer.kernel.shape) * prod(layer.output.shape[1:-1]) for layer in layers)


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
