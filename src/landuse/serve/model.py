"""The model that the server loads."""

from dataclasses import dataclass

from landuse.ml.classifier import Classifier
from landuse.ml.examples import EXAMPLES_FILE, Examples
from landuse.registry import resolve


@dataclass(frozen=True)
class Model:
    """A classifier and its training examples, if any; `version` always identifies this very model."""

    version: str
    classifier: Classifier
    examples: Examples | None


def load(name: str, int8: bool = False) -> Model:
    """Load a model from the registry or a folder, in float32 or int8. Raises LanduseError if none is usable."""
    with resolve.model_folder(name) as (registered, folder):
        version, classifier = resolve.open_model(name, registered, folder, int8)
        examples = Examples(folder) if (folder / EXAMPLES_FILE).exists() else None
    return Model(version, classifier, examples)
