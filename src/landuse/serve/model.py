"""A model at work in the server."""

from dataclasses import dataclass

from landuse.ml.classifier import Classifier
from landuse.ml.examples import EXAMPLES_FILE, Examples
from landuse.registry import resolve


@dataclass(frozen=True)
class Model:
    """A classifier and its training examples, if it has any; `version` never comes to mean another."""

    version: str
    classifier: Classifier
    examples: Examples | None


def load(name: str, int8: bool = False) -> Model:
    """The model of a registry or folder, in float32 or int8. Raises LanduseError where there is none that works."""
    with resolve.model_folder(name) as (version, folder):
        version, classifier = resolve.open_model(name, version, folder, int8)
        examples = Examples(folder) if (folder / EXAMPLES_FILE).exists() else None
    return Model(version, classifier, examples)
