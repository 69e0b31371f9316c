"""Standard streams: closed ones replaced, and native startup messages of libraries muted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

UNUSED = ("matplotlib", "sklearn")
stderr_lock = Lock()


def open_closed_streams() -> None:
    """Replace closed standard streams by /dev/null."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            if is_closed(number):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, it stays open


def is_closed(number: int) -> bool:
    """Return True if a file descriptor is closed."""
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@contextmanager
def quiet_tensorflow_import() -> Iterator[None]:
    """Context for importing TensorFlow and Keras: without native messages, and in three quarters of the time.

    Within it, matplotlib and scikit-learn cannot be imported; Keras does without them. Afterwards Python writes no
    bytecode: TensorFlow's generated code would litter the temporary folder.
    """
    missing = [name for name in UNUSED if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]  # makes `import` raise ImportError
    try:
        with mute_native_stderr():
            yield
    finally:
        for name in missing:
            del sys.modules[name]
        sys.dont_write_bytecode = True


@contextmanager
def mute_native_stderr() -> Iterator[None]:
    """Discard what native code writes to file descriptor 2. For startup messages only: Python raises its errors."""
    with stderr_lock:
        original = os.dup(2)
        devnull = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, 2)
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            os.close(devnull)
