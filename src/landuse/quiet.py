"""Silence for what native libraries print about themselves, past every logging setting."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

one_at_a_time = Lock()


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
