"""Script for a separate process: load a registered model from a folder and predict its stored example."""

import json
import sys
from typing import Any


def predict_example(folder: str) -> dict[str, Any]:
    """Return the model's `example` (images as base64 text) and its `answers` (probabilities of each, by label)."""
    import mlflow

    model = mlflow.pyfunc.load_model(folder)
    example = list(model.input_example)
    return {"example": example, "answers": [probabilities(answer) for answer in model.predict(example)]}


def probabilities(answer: Any) -> dict[str, float]:
    """Return the probabilities of one prediction; MLflow may return the object or a dict of its fields."""
    by_label: dict[str, float] = answer["probabilities"] if isinstance(answer, dict) else answer.probabilities
    return by_label


if __name__ == "__main__":
    print(json.dumps(predict_example(sys.argv[1])))
