"""Run by its path in a process of its own: load a registered model from a folder, and let it answer its example."""

import json
import sys
from typing import Any


def answers(folder: str) -> dict[str, Any]:
    """The `example` of a model, base64 texts of images, and its `answers`: the probabilities of each by label."""
    import mlflow

    model = mlflow.pyfunc.load_model(folder)
    example = list(model.input_example)
    return {"example": example, "answers": [probabilities(answer) for answer in model.predict(example)]}


def probabilities(answer: Any) -> dict[str, float]:
    """Of one prediction, whether MLflow hands out the object or its fields."""
    return answer["probabilities"] if isinstance(answer, dict) else answer.probabilities


if __name__ == "__main__":
    print(json.dumps(answers(sys.argv[1])))
