"""One at a time: what another process holds is waited for, not refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(path: Path, holder: str, tell: Callable[[str], object]) -> Iterator[FileLock]:
    """Hold a lock; where a `holder` has it, this is told, and the lock waited for. Who dies lets go of it."""
    lock = FileLock(path, thread_local=False, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"{holder} is at work: waiting for it to end")
        lock.acquire()
    try:
        yield lock
    finally:
        lock.release()
