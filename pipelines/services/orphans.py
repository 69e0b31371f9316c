"""Flow runs whose process is gone without a word: known by a note of each process, and ended for the Prefect server."""

import os
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from landuse.core.paths import SERVICES
from landuse.core.process import is_gone, note, noted
from pipelines.services.client import server

NOTES = SERVICES / "flows"
ENDS = {StateType.RUNNING: Crashed, StateType.CANCELLING: Cancelled}


def note_process() -> None:
    """Note in which process the flow run at hand is at work; a plain call, which no server knows of, is no run."""
    if flow_run.id is not None:
        NOTES.mkdir(exist_ok=True)
        note(NOTES / f"{flow_run.id}.json", os.getpid())


def end_lost_runs() -> None:
    """See to it that no run is at work whose process is gone, and remove its note.

    Raises Unavailable where the server does not answer. A flow does not remove its note itself: the server may be away
    when it wants to say that it has ended.
    """
    for path in NOTES.glob("*.json"):
        with suppress(FileNotFoundError):  # `make up` and the watcher do this at once
            tags = noted(path)
            if not tags or is_gone(tags):  # a damaged note is of before the machine broke down
                with server() as client:
                    end_run(client, UUID(path.stem))
                path.unlink()


def end_run(client: SyncPrefectClient, run: UUID) -> None:
    """End a run that the server knows as being at work, which gives its place to the next."""
    with suppress(ObjectNotFound):
        end = ENDS.get(client.read_flow_run(run).state.type)
        if end:
            client.set_flow_run_state(run, end(message="Its process is gone without a word"), force=True)
