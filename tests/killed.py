"""Script: make a version of the gallery the champion, and kill this process before the step of a given number.

With a third argument, it waits for the file of that name once it has seen the champion, and leaves one beside it.
"""

import os
import signal
import sys
from pathlib import Path
from time import sleep
from typing import Any

from landuse import registry, tracking
from landuse.registry import audit_log, load_and_predict, smoke_test, transition

steps_left = int(sys.argv[1])


def count_as_step(module: Any, name: str) -> None:
    """Patch a function to count as a step."""
    function = getattr(module, name)

    def step(*args: Any, **kwargs: Any) -> Any:
        global steps_left
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps_left -= 1
        return function(*args, **kwargs)

    setattr(module, name, step)


for module, names in (
    (audit_log, ("open_entry", "add_tags", "attach_blessing", "close_entry")),
    (registry, ("set_alias",)),
    (transition, ("check_loads",)),
):
    for name in names:
        count_as_step(module, name)
smoke_test.predict_in_subprocess = load_and_predict.predict_example
with tracking.store():
    champion = transition.current_champion("gallery")
    for start in map(Path, sys.argv[3:]):
        start.with_suffix(f".{os.getpid()}").touch()
        while not start.exists():
            sleep(0.01)
    transition.change_champion("gallery", sys.argv[2], "promote", "to be killed", champion, {"version": sys.argv[2]})
