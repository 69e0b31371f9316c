"""Flow runs whose process is gone without a word: known by a note of each process, and ended for the Prefect server."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from landuse.paths import SERVICES
from landuse.process import is_gone, note
from pipelines.server import server

NOTES = SERVICES / "flows"
MESSAGE = "Its process is gone without a word"


@contextmanager
def noted() -> Iterator[None]:
    """Keep a note of the process in which the flow run at hand is at work. A kill leaves the note behind."""
    if flow_run.id is None:  # a plain call, which no server knows of
        yield
        return
    path = NOTES / f"{flow_run.id}.json"
    NOTES.mkdir(exist_ok=True)
    note(path, os.getpid())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def end_lost_runs() -> None:
    """Let the server know of every run whose process is gone. Raises Unavailable where it does not answer."""
    for path in filter(is_left, NOTES.glob("*.json")):
        with server() as client:
            end_run(client, UUID(path.stem))
        path.unlink(missing_ok=True)


def is_left(path: Path) -> bool:
    """Whether the process of a note is gone, and the note is not."""
    with suppress(FileNotFoundError):  # its run ended a moment ago
        return is_gone(json.loads(path.read_text(encoding="utf-8")))
    return False


def end_run(client: SyncPrefectClient, run: UUID) -> None:
    """End a run, which gives its place to the next, unless it has ended or the server does not know it."""
    with suppress(ObjectNotFound):
        state = client.read_flow_run(run).state
        if not state.is_final():
            end = Cancelled if state.is_cancelling() else Crashed
            client.set_flow_run_state(run, end(message=MESSAGE), force=True)
