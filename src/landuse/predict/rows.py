"""Rows of the output, one per image, written and read back as CSV or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import NamedTuple

from landuse.ml.classifier import Prediction

NO_PREDICTION = dict.fromkeys(Prediction.model_fields)


class ImageResult(NamedTuple):
    """The result for one image: a prediction, or the reason why there is none."""

    path: str
    prediction: Prediction | None = None
    error: str | None = None


class EarlierRow(NamedTuple):
    """The fields needed of a row that was written earlier."""

    path: str
    unsure: bool
    error: str | None
    model: str


class CsvLines:
    """CSV rows: path, label, confidence, unsure, one probability `p_<class>` per class, error, model.

    Every file starts with `prefix`.
    """

    def __init__(self, labels: list[str], model: str) -> None:
        self.labels, self.model = labels, model
        self.header = self.prefix = csv_line(
            ["path", "label", "confidence", "unsure", *(f"p_{x}" for x in labels), "error", "model"]
        )

    def format_row(self, result: ImageResult) -> str:
        """Format the row of one image, with a newline."""
        prediction = result.prediction
        values = [""] * (3 + len(self.labels))
        if prediction:
            numbers = [f"{prediction.probabilities[label]:.6f}" for label in self.labels]
            values = [prediction.label, f"{prediction.confidence:.6f}", str(prediction.unsure).lower(), *numbers]
        return csv_line([result.path, *values, result.error or "", self.model])

    def parse(self, lines: Iterable[str]) -> Iterator[EarlierRow]:
        """Parse earlier lines, including the header."""
        for row in csv.DictReader(lines):
            yield EarlierRow(row["path"], row["unsure"] == "true", row["error"] or None, row["model"])


class JsonLines:
    """JSON lines, one object each: path, all fields of the prediction, error, model; missing values are null.

    Every file starts with `prefix`.
    """

    header, prefix = "", '{"path": "'

    def __init__(self, labels: list[str], model: str) -> None:
        self.model = model

    def format_row(self, result: ImageResult) -> str:
        """Format the row of one image, with a newline."""
        prediction = result.prediction.model_dump() if result.prediction else NO_PREDICTION
        row = {"path": result.path} | prediction | {"error": result.error, "model": self.model}
        return json.dumps(row, ensure_ascii=False) + "\n"

    def parse(self, lines: Iterable[str]) -> Iterator[EarlierRow]:
        """Parse earlier lines. Raises KeyError, TypeError or ValueError if they are something else."""
        for row in map(json.loads, lines):
            yield EarlierRow(row["path"], bool(row["unsure"]), row["error"], row["model"])


def csv_line(values: list[str]) -> str:
    """Format one line of CSV."""
    file = StringIO()
    csv.writer(file, lineterminator="\n").writerow(values)
    return file.getvalue()
