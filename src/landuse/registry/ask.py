"""Run by its path in a process of its own: load a model of the registry, and let it answer its stored example."""

import json
import sys


def main(uri: str) -> None:
    """Print, as the last line, the example (base64 texts of images) and the probabilities of each by label."""
    import mlflow

    model = mlflow.pyfunc.load_model(uri)
    example = list(model.input_example)
    answers = [getattr(answer, "probabilities", None) or answer["probabilities"] for answer in model.predict(example)]
    print(json.dumps({"example": example, "answers": answers}))


if __name__ == "__main__":
    main(sys.argv[1])
