"""Libraries that start without their notes past every logging setting, and without imports of others."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

UNUSED = ("matplotlib", "sklearn")
one_at_a_time = Lock()


def open_closed_streams() -> None:
    """What is read from a closed stream is empty, and what is printed to one goes nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            if is_closed(number):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, it stays


def is_closed(number: int) -> bool:
    """Whether a file descriptor stands for nothing."""
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@contextmanager
def tensorflow_starts() -> Iterator[None]:
    """For the import of TensorFlow and Keras: in silence, and a quarter sooner.

    Keras does without matplotlib and scikit-learn where they cannot be imported, as here; afterwards they can. From
    then on Python keeps nothing that it compiles: TensorFlow's generated code would litter the temporary folder.
    """
    missing = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))
    try:
        with native_stderr_muted():
            yield
    finally:
        for name in missing:
            del sys.modules[name]
        sys.dont_write_bytecode = True


@contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Send what goes to file descriptor 2 nowhere. For start-up notes only: Python's own errors come as exceptions."""
    with one_at_a_time:
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
