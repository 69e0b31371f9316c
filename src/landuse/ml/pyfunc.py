"""The registered model as MLflow loads it: images in, the same predictions out as everywhere. Runs on LiteRT."""

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
from landuse.ml.images import map_ahead

ROOT_VARIABLE = "LANDUSE_ROOT"


class RefusedImage(mlflow.MlflowException):
    """An image that is not answered. MLflow would repeat the whole request in front of the one sentence."""

    def __init__(self, sentence: str, code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code=code)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """What the client of `mlflow models serve` reads, with the status of the code: 400 unless another is given."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class SceneClassifier(mlflow.pyfunc.PythonModel):
    """Wraps the exported model folder, which travels as the artifact `model`.

    Where the environment variable LANDUSE_ROOT names a folder, images in it may be named instead of sent.
    """

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier(Path(context.artifacts["model"]))
        self.root = os.environ.get(ROOT_VARIABLE)

    def predict(self, model_input: list[str]) -> list[Prediction]:
        """One prediction per image: a file in base64, or its path or URI. Raises RefusedImage for the first bad one."""
        return list(map_ahead(self.prediction, enumerate(model_input)))

    def prediction(self, numbered: tuple[int, str]) -> Prediction:
        """The prediction for one input and its number in the request."""
        number, text = numbered
        try:
            with opened_image(text, self.root) as image:
                return self.classifier.predict(image)
        except LanduseError as error:
            raise RefusedImage(f"inputs[{number}]: {error}") from None


@contextmanager
def opened_image(text: str, root: str | None) -> Iterator[BinaryIO]:
    """The file that an input stands for. With a dot or colon, which base64 does not have, it is a path or file URI.

    Raises LanduseError where it is neither, and for every path that does not lead to a readable file below the root. A
    message names the file as the input does: where the root is, is nobody's business.
    """
    if "." not in text and ":" not in text:
        yield from_base64(text)
        return
    shown = repr(text[:80])
    path = file_below(root, text, shown)
    try:
        file = path.open("rb")
    except OSError as error:
        raise LanduseError(f"{shown} cannot be read: {error.strerror}") from None
    with file:
        try:
            yield file
        except LanduseError as error:
            raise type(error)(f"{shown}: {error}") from None


def from_base64(text: str) -> BinaryIO:
    """The file that was sent. Raises LanduseError where it is not in base64."""
    try:
        return BytesIO(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise LanduseError(f"image is not in base64: {error}") from None


def file_below(root: str | None, text: str, shown: str) -> Path:
    """The file below the root that a path or file URI leads to once all links are followed."""
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
    except (OSError, ValueError, RuntimeError):  # a name too long or with a zero byte, a ring of links
        pass
    raise LanduseError(f"{shown} is no file below the folder that {ROOT_VARIABLE} names")


mlflow.models.set_model(SceneClassifier())
