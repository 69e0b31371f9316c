"""One row per image, as a line of CSV or JSON that can be read again."""

import csv
import json
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import NamedTuple

from landuse.ml.classifier import Prediction

NOTHING = dict.fromkeys(Prediction.model_fields)


class Answer(NamedTuple):
    """What became of one image: a prediction, or the reason why there is none."""

    path: str
    prediction: Prediction | None = None
    error: str | None = None


class Past(NamedTuple):
    """What a row says that was written earlier."""

    path: str
    unsure: bool
    error: str | None
    model: str


class CsvLines:
    """Path, label, confidence, unsure, one probability `p_<class>` per class, error, model.

    Every file begins with the `opening`.
    """

    def __init__(self, labels: list[str], model: str) -> None:
        self.labels, self.model = labels, model
        self.header = self.opening = csv_line(
            ["path", "label", "confidence", "unsure", *(f"p_{x}" for x in labels), "error", "model"]
        )

    def line(self, answer: Answer) -> str:
        """The row of one image, with its line end."""
        said = answer.prediction
        values = [""] * (3 + len(self.labels))
        if said:
            numbers = [f"{said.probabilities[label]:.6f}" for label in self.labels]
            values = [said.label, f"{said.confidence:.6f}", str(said.unsure).lower(), *numbers]
        return csv_line([answer.path, *values, answer.error or "", self.model])

    def read(self, lines: Iterable[str]) -> Iterator[Past]:
        """The rows of earlier lines, header and all."""
        for row in csv.DictReader(lines):
            yield Past(row["path"], row["unsure"] == "true", row["error"] or None, row["model"])


class JsonLines:
    """An object per line: path, the whole prediction, error, model; what there is not is null.

    Every file begins with the `opening`.
    """

    header, opening = "", '{"path": "'

    def __init__(self, labels: list[str], model: str) -> None:
        self.model = model

    def line(self, answer: Answer) -> str:
        """The row of one image, with its line end."""
        said = answer.prediction.model_dump() if answer.prediction else NOTHING
        row = {"path": answer.path} | said | {"error": answer.error, "model": self.model}
        return json.dumps(row, ensure_ascii=False) + "\n"

    def read(self, lines: Iterable[str]) -> Iterator[Past]:
        """The rows of earlier lines. Raises KeyError, TypeError or ValueError where they are something else."""
        for row in map(json.loads, lines):
            yield Past(row["path"], bool(row["unsure"]), row["error"], row["model"])


def csv_line(values: list[str]) -> str:
    """A line of CSV."""
    file = StringIO()
    csv.writer(file, lineterminator="\n").writerow(values)
    return file.getvalue()
