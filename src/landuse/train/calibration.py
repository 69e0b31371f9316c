"""Calibration: temperature-scale the network and choose the confidence below which its answers count as unsure.

Both use validation images only, so that the test images stay unseen.
"""

from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from landuse.ml.network import HEAD

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
BOUND_LEVEL = 0.95
UNREACHABLE = float(np.nextafter(np.float32(1), np.float32(2)))  # the threshold that no confidence reaches


def calibrate(
    network: keras.Model, logits: NDArray[np.float32], labels: NDArray[np.float32], target_accuracy: float
) -> dict[str, float]:
    """Divide the weights of the head by the best temperature, in place, so that every export is calibrated.

    Takes logits and one-hot labels [images, classes]. Returns `accuracy`, `temperature`, and the threshold of
    `confidence_threshold` as `unsure_below` and `sure_accuracy_at_least`.
    """
    temperature = fit_temperature(logits, labels)
    head = network.get_layer(HEAD)
    head.set_weights([weight / temperature for weight in head.get_weights()])
    probabilities = scaled_softmax(logits, temperature)
    correct = probabilities.argmax(axis=1) == labels.argmax(axis=1)
    threshold = confidence_threshold(probabilities.max(axis=1), correct, target_accuracy)
    return {
        "accuracy": float(correct.mean()),
        "temperature": temperature,
        "unsure_below": threshold.confidence,
        "sure_accuracy_at_least": threshold.accuracy_at_least,
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


class Threshold(NamedTuple):
    """The confidence below which answers are unsure, and the accuracy that those above it have at least."""

    confidence: float
    accuracy_at_least: float


def confidence_threshold(confidence: NDArray[np.floating], correct: NDArray[np.bool_], target: float) -> Threshold:
    """Return the lowest confidence from which on the accuracy reaches the target, and so does its lower bound.

    The bound is the one-sided 95 % bound of Clopper and Pearson (1934) on these images. If it reaches the target
    nowhere, because they are too few, the confidence with the highest bound is taken. Returns `UNREACHABLE` if not
    even the accuracy reaches the target.
    """
    from scipy.stats import beta

    order = np.argsort(-confidence)
    negated = -confidence[order]
    accepted = np.searchsorted(negated, negated, side="right")
    right = np.cumsum(correct[order])[accepted - 1]
    reached = np.flatnonzero(right >= target * accepted)
    if not len(reached):
        return Threshold(UNREACHABLE, 0.0)
    bounds = np.asarray(beta.ppf(1 - BOUND_LEVEL, right[reached], accepted[reached] - right[reached] + 1))
    last = np.flatnonzero(bounds >= min(target, bounds.max()))[-1]
    return Threshold(float(-negated[reached[last]]), float(bounds[last]))
