"""Does a model of the registry load and answer in a process that knows nothing of ours."""

import base64
import json
import os
import re
import subprocess
import sys
from errno import EACCES, ENOSPC, EROFS
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from landuse.classifier import TOLERANCE, Classifier
from landuse.errors import LanduseError, Unavailable

SCRIPT = Path(__file__).with_name("ask.py")
SECONDS = 120
MACHINE = re.compile(rf"\[Errno ({EACCES}|{ENOSPC}|{EROFS})\]")  # the version is not to blame for that


def check_answers(uri: str, classifier: Classifier) -> float:
    """Ask `uri` for its stored example; returns the largest difference to the classifier in a probability.

    Raises LanduseError where it does not load or differs by more than 0.001, Unavailable where it takes
    too long, or the machine does not let MLflow read and write there.
    """
    said = ask(uri)
    pairs = zip(said["example"], said["answers"], strict=True)
    difference = max(distance(classifier, image, answer) for image, answer in pairs)
    if not difference <= TOLERANCE:
        raise LanduseError(f"{uri} answers otherwise than its own model file, by {difference:.2g} in a probability")
    return difference


def distance(classifier: Classifier, image: str, answer: dict[str, float]) -> float:
    """The largest difference in a probability for one image in base64."""
    expected = classifier.probabilities(BytesIO(base64.b64decode(image)))
    return max(abs(answer[label] - value) for label, value in zip(classifier.labels, expected, strict=True))


def ask(uri: str) -> dict[str, Any]:
    """What the fresh process says. It runs isolated, so that the code it finds is that of the registry."""
    command = [sys.executable, "-I", "-B", str(SCRIPT), uri]
    try:
        with TemporaryDirectory(prefix="landuse-") as folder:  # where MLflow leaves the files that a server sent
            done = subprocess.run(
                command,
                env=os.environ | {"TMPDIR": folder},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{uri} does not answer in a fresh process within {SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no word"])[-1][:200]
        kind = Unavailable if MACHINE.search(reason) else LanduseError
        raise kind(f"{uri} does not load and answer in a fresh process: {reason}") from None
    except (ValueError, IndexError):
        raise LanduseError(f"{uri} gives no answer in a fresh process") from None
