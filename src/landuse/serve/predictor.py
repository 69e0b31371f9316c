"""Predictions of the served model, each counted and, if configured, logged."""

import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import file_digest
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from numpy.typing import NDArray

from landuse.core.errors import LanduseError, Unavailable
from landuse.ml.classifier import Prediction
from landuse.ml.images import data_uri, parallel_map, pixel_count
from landuse.ml.pyfunc import RefusedInput, open_input
from landuse.serve.admission import Admission
from landuse.serve.metrics import Metrics
from landuse.serve.model import Model
from landuse.serve.prediction_log import PredictionLog, Row
from landuse.serve.reply import EXPECTED_INPUT

NEAREST_EXAMPLES = 6
MAX_IMAGES = 1000
INTERNAL_ERROR_MESSAGE = "the server failed on this request; its log says how"

current_model: ContextVar[Model] = ContextVar("current_model")  # one request uses one model from start to end


class Predictor:
    """The served model. It may be replaced between requests, never within one.

    `root` is the folder whose images may be named instead of sent, `follows` the alias that a reloader follows.
    """

    def __init__(
        self, model: Model, metrics: Metrics, log: PredictionLog | None, root: str | None, follows: str | None = None
    ) -> None:
        self.metrics, self.log, self.root, self.follows = metrics, log, root, follows
        self.admission = Admission()
        self.use(model)

    def use(self, model: Model) -> None:
        """Use a model for every request that starts from now on."""
        self.model = model
        self.metrics.set_version(model.version)

    def predict(self, model: Model, image: BinaryIO) -> tuple[Prediction, NDArray[np.float32] | None]:
        """Return prediction and embedding of an image; count and log them.

        Raises LanduseError if the image is unreadable, Unavailable if there is no room for one this large.
        """
        with self.admission.admit(pixel_count(image)):
            prediction, embedding = model.classifier.predict_with_embedding(image)
        self.metrics.count_prediction(prediction)
        if self.log:
            self.log.add(log_row(model.version, prediction, embedding, image))
        return prediction, embedding

    def predict_for_page(self, content: bytes) -> dict[str, Any]:
        """Return what the page shows for an image: prediction, version, and the nearest training examples."""
        model = current_model.get()
        prediction, embedding = self.predict(model, BytesIO(content))
        if model.examples is None or embedding is None:
            nearest = []
        else:
            nearest = model.examples.nearest(embedding, NEAREST_EXAMPLES)
        return {
            "prediction": prediction.model_dump(),
            "version": model.version,
            "nearest": [example._asdict() | {"thumbnail": data_uri(example.thumbnail)} for example in nearest],
        }


def log_row(version: str, prediction: Prediction, embedding: NDArray[np.float32] | None, image: BinaryIO) -> Row:
    """Return the prediction log's row for an image; its embedding in float16."""
    image.seek(0)
    digest = file_digest(image, "sha256").hexdigest()  # type: ignore[arg-type]  # every such file has `readinto`
    return {
        "time": datetime.now(UTC),
        "version": version,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "unsure": prediction.unsure,
        "embedding": None if embedding is None else embedding.astype(np.float16),
        "sha256": digest,
    }


class ScoringModel:
    """Stands in for a pyfunc model in MLflow's scoring app, which calls `predict` with the `inputs` of a request.

    It is its own metadata, which makes MLflow pass the inputs on unchanged.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.metadata = predictor, self

    def get_input_schema(self) -> None:
        """Return no schema: `predict` checks its input itself."""

    def _is_signature_from_type_hint(self) -> bool:
        return True

    def predict(self, model_input: Any) -> list[dict[str, Any]]:
        """Return one prediction per image. Raises RefusedInput for the first bad image and for malformed input."""
        if not (isinstance(model_input, list) and all(isinstance(text, str) for text in model_input)):
            raise RefusedInput(EXPECTED_INPUT)
        if len(model_input) > MAX_IMAGES:
            raise RefusedInput(f"inputs has {len(model_input):,} images: send at most {MAX_IMAGES:,} at once")
        model = current_model.get()
        try:
            mapped = map if len(model_input) == 1 else parallel_map
            return list(mapped(lambda numbered: self.predict_one(model, *numbered), enumerate(model_input)))
        except RefusedInput:
            raise
        except Exception:
            traceback.print_exc()
            raise RefusedInput(INTERNAL_ERROR_MESSAGE, INTERNAL_ERROR) from None

    def predict_one(self, model: Model, number: int, text: str) -> dict[str, Any]:
        """Return the prediction for one input, given its index in the request."""
        try:
            with open_input(text, self.predictor.root) as image:
                return self.predictor.predict(model, image)[0].model_dump()
        except Unavailable as error:
            raise RefusedInput(str(error), TEMPORARILY_UNAVAILABLE) from None
        except LanduseError as error:
            raise RefusedInput(f"inputs[{number}]: {error}") from None
