"""The registered model as MLflow loads it: images in, predictions out. Runs on LiteRT."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from landuse.core.errors import LanduseError
from landuse.ml.classifier import Classifier, Prediction
from landuse.ml.images import parallel_map

ROOT_VARIABLE = "LANDUSE_ROOT"


class RefusedInput(mlflow.MlflowException):
    """An input without a prediction. Its JSON holds only the reason; MLflow would prepend the whole request."""

    def __init__(self, reason: str, code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(reason, error_code=code)
        self.reason = reason

    def serialize_as_json(self) -> str:
        """Return the response body of `mlflow models serve`. The code sets the HTTP status: 400 by default."""
        return json.dumps({"error_code": self.error_code, "message": self.reason})


class SceneClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]  # mlflow loads it lazily
    """MLflow model that wraps the exported model folder, logged as the artifact `model`.

    If the environment variable LANDUSE_ROOT names a folder, images in it may be passed by path.
    """

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier(Path(context.artifacts["model"]))
        self.root = os.environ.get(ROOT_VARIABLE)

    def predict(self, model_input: list[str]) -> list[Prediction]:
        """Predict each image, given as base64, path or file URI. Raises RefusedInput for the first bad one."""
        return list(parallel_map(self.predict_one, enumerate(model_input)))

    def predict_one(self, indexed_input: tuple[int, str]) -> Prediction:
        """Predict one input, given with its index in the request."""
        index, text = indexed_input
        try:
            with open_input(text, self.root) as image:
                return self.classifier.predict(image)
        except LanduseError as error:
            raise RefusedInput(f"inputs[{index}]: {error}") from None


@contextmanager
def open_input(text: str, root: str | None) -> Iterator[BinaryIO]:
    """Open the image of an input. A dot or colon, which base64 lacks, marks a path or file URI.

    Raises LanduseError for invalid base64, and for a path that does not lead to a readable file below the root.
    Messages name the file as the input does, so as not to disclose the root.
    """
    if "." not in text and ":" not in text:
        yield decode_base64(text)
        return
    shown = repr(text[:80])
    path = resolve_below(root, text, shown)
    try:
        file = path.open("rb")
    except OSError as error:
        raise LanduseError(f"{shown} cannot be read: {error.strerror}") from None
    with file:
        try:
            yield file
        except LanduseError as error:
            raise type(error)(f"{shown}: {error}") from None


def decode_base64(text: str) -> BinaryIO:
    """Decode an inline image. Raises LanduseError if it is not base64."""
    try:
        return BytesIO(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise LanduseError(f"image is not in base64: {error}") from None


def resolve_below(root: str | None, text: str, shown: str) -> Path:
    """Resolve a path or file URI, following links. Raises LanduseError unless it is a file below the root."""
    if not root:
        raise LanduseError(
            f"{shown} is no base64, and files may be named only where {ROOT_VARIABLE} is set to a folder"
        )
    try:
        parts = urlsplit(text)
        plain = unquote(parts.path) if parts.scheme == "file" and not parts.netloc else text
        path, folder = Path(root, plain).resolve(), Path(root).resolve()
        if path.is_relative_to(folder) and path.is_file():
            return path
    except (OSError, ValueError, RuntimeError):  # a name that is too long or has a null byte, a symlink loop
        pass
    raise LanduseError(f"{shown} is no file below the folder that {ROOT_VARIABLE} names")


mlflow.models.set_model(SceneClassifier())
