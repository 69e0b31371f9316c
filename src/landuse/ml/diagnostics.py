"""Diagnostics of a network: which depthwise filters died, and a digest of its weights."""

import hashlib
import re
from itertools import pairwise

import keras
import numpy as np

DEAD = 1e-3


def block_of(layer: keras.Layer) -> str:
    """The block a layer belongs to: Conv1, expanded_conv, block_1 … Conv_1, or a convolution of MobileNet v1."""
    return re.match(r"block_\d+|expanded_conv|Conv_1|conv_[dp]w_\d+|", layer.name)[0] or "Conv1"


def depthwise_peaks(backbone: keras.Model) -> dict[str, np.ndarray]:
    """The largest weight [filters] of every depthwise filter once BatchNorm is folded in, by block."""
    return {
        block_of(layer): np.abs(np.asarray(layer.kernel)[..., 0] * norm_scale(norm)).max(axis=(0, 1))
        for layer, norm in pairwise(backbone.layers)
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    }


def dead_kernels(backbone: keras.Model) -> float:
    """Share of the depthwise filters whose every weight is below 0.001 once BatchNorm is folded in."""
    return float((np.concatenate(list(depthwise_peaks(backbone).values())) < DEAD).mean())


def depthwise_filters(backbone: keras.Model) -> dict[str, dict[str, float]]:
    """The depthwise filters of each block: how many, how many dead, and the weakest and the median largest weight."""
    return {
        block: {
            "filters": len(peaks),
            "dead": int((peaks < DEAD).sum()),
            "weakest": float(peaks.min()),
            "median": float(np.median(peaks)),
        }
        for block, peaks in depthwise_peaks(backbone).items()
    }


def norm_scale(norm: keras.layers.BatchNormalization) -> np.ndarray:
    """What a BatchNorm in inference mode multiplies each channel with."""
    return np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)


def weights_digest(network: keras.Model) -> str:
    """A sha256 of every weight, in order: what was really loaded, whatever file it came from."""
    digest = hashlib.sha256()
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
