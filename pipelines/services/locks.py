"""Locks between processes that are waited for rather than refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(path: Path, holder: str, report: Callable[[str], object]) -> Iterator[FileLock]:
    """Acquire a file lock, reporting its holder while waiting. The OS releases it if the holder dies."""
    lock = FileLock(path, thread_local=False, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"{holder} is at work: waiting for it to end")
        lock.acquire()
    try:
        yield lock
    finally:
        lock.release()
