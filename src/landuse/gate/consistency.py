"""Consistency: the Keras file, the LiteRT file and the model served from the registry give the same answers."""

from pathlib import Path

import numpy as np
from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.streams import quiet_tensorflow_import
from landuse.gate.blessing import Check
from landuse.gate.scoring import ScoredImages
from landuse.ml.classifier import CHECKED_IMAGES, TOLERANCE, Classifier
from landuse.ml.images import evenly_spaced, read_image
from landuse.registry.smoke_test import check_answers


def check_formats(folder: Path, classifier: Classifier, scored: ScoredImages) -> Check:
    """Compare the Keras file with the LiteRT file on up to 32 held-out images, spread over all classes."""
    with quiet_tensorflow_import():
        from landuse.ml.network import keras_probabilities

    checked = evenly_spaced(len(scored.images), CHECKED_IMAGES)
    pixels = np.stack([read_image(path, classifier.image_size) for path in scored.images[checked]])
    try:
        expected = keras_probabilities(folder, pixels)
        difference = float(np.abs(expected - scored.probabilities[checked]).max())
    except (LanduseError, ValueError) as error:
        return Check("formats", None, TOLERANCE, False, str(error))
    sentence = f"Keras and LiteRT files differ by {difference:.1g} in a probability, {TOLERANCE:.1g} at most"
    return Check.at_most("formats", difference, TOLERANCE, sentence)


def check_fresh_process(version: ModelVersion, folder: Path, classifier: Classifier) -> Check:
    """Check that the registry's copy, in `folder`, loads in a fresh process and answers as its model file does.

    A version whose code is not this project's is not loaded; then the check fails.
    """
    try:
        difference = check_answers(version, folder, classifier)
    except Unavailable:  # the environment is at fault, not the version
        raise
    except LanduseError as error:
        return Check("fresh_process", None, TOLERANCE, False, str(error))
    sentence = "loads in a fresh process and answers its stored example as it should"
    return Check.at_most("fresh_process", difference, TOLERANCE, sentence)
