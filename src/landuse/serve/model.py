"""A model at work in the server: loaded whole and tried before anybody asks it."""

from dataclasses import dataclass
from os import cpu_count

import numpy as np

from landuse import champion
from landuse.classifier import Classifier
from landuse.dataset import map_ahead
from landuse.errors import LanduseError
from landuse.examples import EXAMPLES_FILE, Examples


@dataclass(frozen=True)
class Model:
    """A classifier and its training examples, if it has any; `version` never comes to mean another."""

    version: str
    classifier: Classifier
    examples: Examples | None


def load(name: str, int8: bool = False) -> Model:
    """The model of a registry or folder, in float32 or int8. Raises LanduseError where there is none that works."""
    with champion.model_folder(name) as (version, folder):
        version, classifier = champion.open_model(name, version, folder, int8)
        examples = Examples(folder) if (folder / EXAMPLES_FILE).exists() else None
    warm_up(version, classifier)
    return Model(version, classifier, examples)


def warm_up(version: str, classifier: Classifier) -> None:
    """Let every core look at a blank image, so that the first request waits for nothing.

    Raises LanduseError where the model does not run, or answers what is no probability of each class.
    """
    blank = np.zeros((classifier.image_size, classifier.image_size, 3), np.uint8)
    try:
        said = np.stack(list(map_ahead(classifier.model, [blank] * (cpu_count() or 1))))
    except (ValueError, RuntimeError) as error:
        raise LanduseError(f"{version} does not run: {' '.join(str(error).split())[:160]}") from None
    if said.shape[1:] != (len(classifier.labels),) or not np.isfinite(said).all():
        raise LanduseError(f"{version} does not answer with one probability for each of its classes")
