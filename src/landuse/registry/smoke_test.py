"""Does a model of the registry load and answer in a process that knows nothing of ours, if its code may run at all."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, ENOSPC, EROFS
from io import BytesIO
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.ml.classifier import TOLERANCE, Classifier
from landuse.registry import title
from landuse.registry.provenance import refuse_foreign

SCRIPT = Path(__file__).with_name("load_and_predict.py")
SECONDS = 120
MACHINE = re.compile(rf"\[Errno ({EACCES}|{ENOSPC}|{EROFS})\]")  # the version is not to blame for that


def check_answers(version: ModelVersion, folder: Path, classifier: Classifier) -> float:
    """Ask a version, whose files are in the folder, for its stored example; the largest difference in a probability.

    Raises Foreign, and runs nothing of it, where its code is not of this project; LanduseError where it does not load
    or differs from the classifier by more than 0.001; Unavailable where it takes too long, or the machine does not let
    MLflow read and write there.
    """
    with about(version):
        refuse_foreign(folder, version.tags)
        said = ask(str(folder))
        pairs = zip(said["example"], said["answers"], strict=True)
        difference = max((distance(classifier, image, answer) for image, answer in pairs), default=nan)
        if not difference <= TOLERANCE:
            raise LanduseError(f"answers otherwise than its own model file, by {difference:.2g} in a probability")
        return difference


@contextmanager
def about(version: ModelVersion) -> Iterator[None]:
    """Let what goes wrong name the version."""
    try:
        yield
    except LanduseError as error:
        raise type(error)(f"{title(version)} {error}") from None


def distance(classifier: Classifier, image: str, answer: dict[str, float]) -> float:
    """The largest difference in a probability for one image in base64."""
    expected = classifier.probabilities(BytesIO(base64.b64decode(image)))
    return max(abs(answer[label] - value) for label, value in zip(classifier.labels, expected, strict=True))


def ask(folder: str) -> dict[str, Any]:
    """The answers of a fresh process. It runs isolated, so that the code it finds is that of the folder."""
    command = [sys.executable, "-I", "-B", str(SCRIPT), folder]
    try:
        with TemporaryDirectory(prefix="landuse-") as scratch:
            done = subprocess.run(
                command,
                env=os.environ | {"TMPDIR": scratch},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise Unavailable(f"does not answer in a fresh process within {SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        reason = one_line((error.stderr.strip().splitlines() or ["no word"])[-1], 200)
        kind = Unavailable if MACHINE.search(reason) else LanduseError
        raise kind(f"does not load and answer in a fresh process: {reason}") from None
    except (ValueError, IndexError):
        raise LanduseError("gives no answer in a fresh process") from None
