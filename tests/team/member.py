"""Script: a clone of the gallery that registers and promotes what it reads from its standard input, a JSON list a line.

The argument is the error of its clock in seconds. Each answer is a line of JSON: a version, or an error.
"""

import json
import sys
import time

import gallery

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.registry import audit_log, load_and_predict, smoke_test
from landuse.registry.transition import change_champion, current_champion

OFFSET = float(sys.argv[1])
audit_log.time = lambda: time.time() + OFFSET
smoke_test.predict_in_subprocess = load_and_predict.predict_example  # seconds less than in another process


def register(number: int) -> str:
    """Register a model of the gallery's; the same number makes the same model."""
    return str(gallery.register_twin(number).version)


def champion() -> str | None:
    """Look up the champion, as every promotion begins."""
    with tracking.store():
        return current_champion(gallery.NAME)


def promote(number: str, expected: str | None) -> str:
    """Make a version the champion, as every promotion ends."""
    with tracking.store():
        change_champion(gallery.NAME, number, "promote", "a round", expected, {"version": number})
    return number


for line in sys.stdin:
    command, *arguments = json.loads(line)
    try:
        answer = {"version": {"register": register, "champion": champion, "promote": promote}[command](*arguments)}
    except LanduseError as error:
        answer = {"error": str(error)}
    print(f"\n{json.dumps(answer)}", flush=True)
