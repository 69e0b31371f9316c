"""What the server says of images: every answer is counted, and kept where that is wanted."""

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
from landuse.ml.images import data_uri, map_ahead, pixel_count
from landuse.ml.pyfunc import RefusedImage, opened_image
from landuse.serve.admission import Admission
from landuse.serve.metrics import Metrics
from landuse.serve.model import Model
from landuse.serve.prediction_log import Log
from landuse.serve.reply import SHAPE

NEAREST = 6
MOST_IMAGES = 1000
UNEXPECTED = "the server failed on this request; its log says how"

begun: ContextVar[Model] = ContextVar("begun")  # the model that a request began with, and ends with


class Answers:
    """The model at work. It may be another one for the next request, never within one.

    `root` is the folder whose images may be named instead of sent.
    """

    def __init__(self, model: Model, metrics: Metrics, log: Log | None, root: str | None) -> None:
        self.metrics, self.log, self.root = metrics, log, root
        self.admission = Admission()
        self.put(model)

    def put(self, model: Model) -> None:
        """Let a model answer every request that begins from now on."""
        self.model = model
        self.metrics.show_model(model.version)

    def answer(self, model: Model, image: BinaryIO) -> tuple[Prediction, NDArray[np.float32] | None]:
        """Prediction and embedding of an image, counted and kept.

        Raises LanduseError if it is unreadable, Unavailable where there is no room for one so large.
        """
        with self.admission.admit(pixel_count(image)):
            said, embedding = model.classifier.look(image)
        self.metrics.count(said)
        if self.log:
            self.log.add(row(model.version, said, embedding, image))
        return said, embedding

    def answer_page(self, content: bytes) -> dict[str, Any]:
        """What the page shows of an image: prediction, version, and the nearest training examples."""
        model = begun.get()
        said, embedding = self.answer(model, BytesIO(content))
        known = model.examples is not None and embedding is not None
        nearest = model.examples.nearest(embedding, NEAREST) if known else []
        return {
            "prediction": said.model_dump(),
            "version": model.version,
            "nearest": [example._asdict() | {"thumbnail": data_uri(example.thumbnail)} for example in nearest],
        }


def row(version: str, said: Prediction, embedding: NDArray | None, image: BinaryIO) -> dict[str, Any]:
    """A row of the log."""
    image.seek(0)
    digest = file_digest(image, "sha256").hexdigest()
    return {
        "time": datetime.now(UTC),
        "version": version,
        "label": said.label,
        "confidence": said.confidence,
        "unsure": said.unsure,
        "embedding": None if embedding is None else embedding.astype(np.float16),
        "sha256": digest,
    }


class ScoringModel:
    """What MLflow's scoring app takes for a model: it asks `predict` with the `inputs` of a request.

    The methods of the metadata tell MLflow to hand these over as they are.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers, self.metadata = answers, self

    def get_input_schema(self) -> None:
        """There is none: `predict` looks at its input itself."""

    def _is_signature_from_type_hint(self) -> bool:
        return True

    def predict(self, model_input: Any) -> list[dict[str, Any]]:
        """One prediction per image. Raises RefusedImage for the first bad one, and for input of another shape."""
        if not (isinstance(model_input, list) and all(isinstance(text, str) for text in model_input)):
            raise RefusedImage(SHAPE)
        if len(model_input) > MOST_IMAGES:
            raise RefusedImage(f"inputs has {len(model_input):,} images: send at most {MOST_IMAGES:,} at once")
        model = begun.get()
        try:
            every = map if len(model_input) == 1 else map_ahead
            return list(every(lambda numbered: self.answer(model, *numbered), enumerate(model_input)))
        except RefusedImage:
            raise
        except Exception:
            traceback.print_exc()
            raise RefusedImage(UNEXPECTED, INTERNAL_ERROR) from None

    def answer(self, model: Model, number: int, text: str) -> dict[str, Any]:
        """The prediction for one input, by its number in the request."""
        try:
            with opened_image(text, self.answers.root) as image:
                return self.answers.answer(model, image)[0].model_dump()
        except Unavailable as error:
            raise RefusedImage(str(error), TEMPORARILY_UNAVAILABLE) from None
        except LanduseError as error:
            raise RefusedImage(f"inputs[{number}]: {error}") from None
