"""Calibrate: the confidence of the network comes to mean what it says, and where it is too low to trust is found.

All of it on validation images, so that the test images stay unseen.
"""

import keras
import numpy as np
from numpy.typing import NDArray

from landuse.ml.network import HEAD

COLDEST, HOTTEST = 0.01, 100.0
NEVER = float(np.nextafter(np.float32(1), np.float32(2)))  # no answer is as sure as this


def calibrate(
    network: keras.Model, logits: NDArray[np.float32], actual: NDArray, sure_accuracy: float
) -> dict[str, float]:
    """Divide what flows into the softmax by a temperature, in place, so that every export agrees.

    Takes logits and one-hot labels [images, classes]; returns the share of them that is right as `accuracy`,
    `temperature`, and `unsure_below`, the lowest confidence from which on at least `sure_accuracy` of the images are.
    """
    temperature = best_temperature(logits, actual)
    head = network.get_layer(HEAD)
    head.set_weights([weight / temperature for weight in head.get_weights()])
    calibrated = tempered(logits, temperature)
    right = calibrated.argmax(axis=1) == actual.argmax(axis=1)
    return {
        "accuracy": float(right.mean()),
        "temperature": temperature,
        "unsure_below": trusted_confidence(calibrated.max(axis=1), right, sure_accuracy),
    }


def best_temperature(logits: NDArray[np.float32], actual: NDArray) -> float:
    """The temperature of least cross-entropy (Guo et al., 2017), to four decimals.

    One image's worth of the labels goes to all classes alike, or a network that errs nowhere would become infinitely
    sure of itself.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = logits.astype(float)
    images, classes = actual.shape
    targets = (images * actual + 1 / classes) / (images + 1)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum())

    return round(float(np.exp(minimize_scalar(loss, bounds=np.log((COLDEST, HOTTEST))).x)), 4)


def tempered(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """The softmax of the logits divided by the temperature."""
    from scipy.special import softmax

    return softmax(logits.astype(float) / temperature, axis=1)


def trusted_confidence(confidence: NDArray[np.float64], right: NDArray[np.bool_], share: float) -> float:
    """The lowest confidence of an image at which `share` of the images at least as sure are right; else beyond 1."""
    order = np.argsort(-confidence)
    falling = -confidence[order]
    accepted = np.searchsorted(falling, falling, side="right")
    good = np.cumsum(right[order])[accepted - 1] >= share * accepted
    return float(-falling[good].max()) if good.any() else NEVER
