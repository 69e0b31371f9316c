"""Calibration: temperature-scale the network and choose the confidence below which its answers count as unsure.

Both use validation images only, so that the test images stay unseen.
"""

import keras
import numpy as np
from numpy.typing import NDArray

from landuse.ml.network import HEAD

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
UNREACHABLE = float(np.nextafter(np.float32(1), np.float32(2)))  # the threshold that no confidence reaches


def calibrate(
    network: keras.Model, logits: NDArray[np.float32], labels: NDArray[np.float32], target_accuracy: float
) -> dict[str, float]:
    """Divide the weights of the head by the best temperature, in place, so that every export is calibrated.

    Takes logits and one-hot labels [images, classes]. Returns `accuracy`, `temperature` and `unsure_below`, the lowest
    confidence at or above which at least `target_accuracy` of the images are correct.
    """
    temperature = fit_temperature(logits, labels)
    head = network.get_layer(HEAD)
    head.set_weights([weight / temperature for weight in head.get_weights()])
    probabilities = scaled_softmax(logits, temperature)
    correct = probabilities.argmax(axis=1) == labels.argmax(axis=1)
    return {
        "accuracy": float(correct.mean()),
        "temperature": temperature,
        "unsure_below": confidence_threshold(probabilities.max(axis=1), correct, target_accuracy),
    }


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Return the temperature with the least cross-entropy (Guo et al., 2017), to four decimals.

    The labels are smoothed by the weight of one image, or a network without errors would become infinitely confident.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    images, classes = labels.shape
    exact_logits = logits.astype(float)
    targets = (images * labels + 1 / classes) / (images + 1)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(exact_logits / np.exp(log_temperature), axis=1)).sum())

    low, high = np.log((MIN_TEMPERATURE, MAX_TEMPERATURE))
    return round(float(np.exp(minimize_scalar(loss, bounds=(low, high)).x)), 4)


def scaled_softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return the softmax of the logits divided by the temperature."""
    from scipy.special import softmax

    return softmax(logits.astype(float) / temperature, axis=1)


def confidence_threshold(confidence: NDArray[np.floating], correct: NDArray[np.bool_], target: float) -> float:
    """Return the lowest confidence such that, of the images at or above it, at least the target share is correct.

    Returns `UNREACHABLE` if there is none.
    """
    order = np.argsort(-confidence)
    negated = -confidence[order]
    accepted = np.searchsorted(negated, negated, side="right")
    reached = np.cumsum(correct[order])[accepted - 1] >= target * accepted
    return float(-negated[reached].max()) if reached.any() else UNREACHABLE
