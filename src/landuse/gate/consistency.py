"""Do all copies of a version say the same: the Keras file, the LiteRT file, and what the registry serves."""

from pathlib import Path

import numpy as np
from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.streams import tensorflow_starts
from landuse.gate.blessing import Check
from landuse.gate.scoring import Evidence
from landuse.ml.classifier import CHECKED_IMAGES, TOLERANCE, Classifier
from landuse.ml.images import read_image, spread
from landuse.registry.smoke_test import check_answers


def check_formats(folder: Path, classifier: Classifier, evidence: Evidence) -> Check:
    """The Keras file beside the LiteRT file, on up to 32 held-out images from all classes."""
    with tensorflow_starts():
        from landuse.ml.network import saved_probabilities

    checked = spread(len(evidence.images), CHECKED_IMAGES)
    pixels = np.stack([read_image(path, classifier.image_size) for path in evidence.images[checked]])
    try:
        expected = saved_probabilities(folder, pixels)
        difference = float(np.abs(expected - evidence.probabilities[checked]).max())
    except (LanduseError, ValueError) as error:
        return Check("formats", None, TOLERANCE, False, str(error))
    sentence = f"Keras and LiteRT files differ by {difference:.1g} in a probability, {TOLERANCE:.1g} at most"
    return Check.at_most("formats", difference, TOLERANCE, sentence)


def check_answer(version: ModelVersion, folder: Path, classifier: Classifier) -> Check:
    """Does the registry's copy, in the folder, load in a fresh process, and answer as its model file does.

    It is not loaded where its code is not of this project; then the check fails.
    """
    try:
        difference = check_answers(version, folder, classifier)
    except Unavailable:  # says nothing of the version
        raise
    except LanduseError as error:
        return Check("fresh_process", None, TOLERANCE, False, str(error))
    sentence = "loads in a fresh process and answers its stored example as it should"
    return Check.at_most("fresh_process", difference, TOLERANCE, sentence)
