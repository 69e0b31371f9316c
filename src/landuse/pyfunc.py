"""The registered model as MLflow loads it: images as base64 text in, labels and probabilities out. Runs on LiteRT."""

import base64
import binascii
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
from pydantic import BaseModel

from landuse.classifier import Classifier
from landuse.errors import LanduseError


class Prediction(BaseModel):
    """What the model says of one image."""

    label: str
    confidence: float
    probabilities: dict[str, float]


class SceneClassifier(mlflow.pyfunc.PythonModel):
    """Wraps the exported model folder, which travels as the artifact `model`."""

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier(Path(context.artifacts["model"]))

    def predict(self, model_input: list[str]) -> list[Prediction]:
        """One prediction per base64 text of an image file. Raises MlflowException for what is no image."""
        return [self.prediction(text) for text in model_input]

    def prediction(self, text: str) -> Prediction:
        """The prediction for one base64 text."""
        try:
            image = BytesIO(base64.b64decode(text, validate=True))
            values = self.classifier.probabilities(image)
        except (binascii.Error, LanduseError) as error:
            raise mlflow.MlflowException.invalid_parameter_value(f"not an image in base64: {error}") from None
        probabilities = dict(zip(self.classifier.labels, map(float, values), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Prediction(label=label, confidence=probabilities[label], probabilities=probabilities)


mlflow.models.set_model(SceneClassifier())
