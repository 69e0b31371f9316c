"""Smoke test of a registered model: it loads and predicts in a fresh process, provided that its code may run at all."""

import base64
import json
import os
import re
import subprocess
import sys
from errno import EACCES, ENOSPC, EROFS
from io import BytesIO
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable, one_line, prefix_errors
from landuse.ml.classifier import TOLERANCE, Classifier
from landuse.registry import title
from landuse.registry.provenance import refuse_foreign_code
from landuse.tracking.names import facts_of

SCRIPT = Path(__file__).with_name("load_and_predict.py")
SECONDS = 120
MACHINE = re.compile(rf"\[Errno ({EACCES}|{ENOSPC}|{EROFS})\]")  # a fault of the machine, not of the version


def check_answers(version: ModelVersion, folder: Path, classifier: Classifier) -> float:
    """Predict the stored example of a version, whose files are in the folder; return the largest probability error.

    Raises ForeignCode, and runs none of its code, if that is not of this project; LanduseError if it does not load or
    differs from the classifier by more than 0.001; Unavailable if it takes too long, or the machine does not let MLflow
    read and write there.
    """
    with prefix_errors(f"{title(version)} "):
        refuse_foreign_code(folder, facts_of(version.tags))
        output = predict_in_subprocess(str(folder))
        pairs = zip(output["example"], output["answers"], strict=True)
        difference = max((max_difference(classifier, image, answer) for image, answer in pairs), default=nan)
        if not difference <= TOLERANCE:
            raise LanduseError(f"answers otherwise than its own model file, by {difference:.2g} in a probability")
        return difference


def max_difference(classifier: Classifier, image: str, answer: dict[str, float]) -> float:
    """Return the largest difference in a probability between answer and classifier, for an image in base64."""
    expected = classifier.probabilities(BytesIO(base64.b64decode(image)))
    return float(max(abs(answer[label] - value) for label, value in zip(classifier.labels, expected, strict=True)))


def predict_in_subprocess(folder: str) -> dict[str, Any]:
    """Run `load_and_predict.py` on a folder and return its output.

    The process runs isolated (`-I`), so that the code it imports is the code in the folder.
    """
    command = [sys.executable, "-I", "-B", str(SCRIPT), folder]
    try:
        with TemporaryDirectory(prefix="landuse-") as scratch:
            finished = subprocess.run(
                command,
                env=os.environ | {"TMPDIR": scratch},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
        output: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
        return output
    except subprocess.TimeoutExpired:
        raise Unavailable(f"does not answer in a fresh process within {SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        reason = one_line((error.stderr.strip().splitlines() or ["no word"])[-1], 200)
        kind = Unavailable if MACHINE.search(reason) else LanduseError
        raise kind(f"does not load and answer in a fresh process: {reason}") from None
    except (ValueError, IndexError):
        raise LanduseError("gives no answer in a fresh process") from None
