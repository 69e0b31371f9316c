"""Flow runs whose process died: found by the PID file of each run, and reported to the Prefect server."""

import os
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from landuse.core.paths import SERVICES
from landuse.core.process import is_gone, read_json_or_empty, record_process
from pipelines.services.client import prefect_client

PID_FILES = SERVICES / "flows"
FINAL_STATES = {StateType.RUNNING: Crashed, StateType.CANCELLING: Cancelled}


def write_pid_file() -> None:
    """Record the process of the current flow run; a plain call without a server has no run."""
    if flow_run.id is not None:
        PID_FILES.mkdir(exist_ok=True)
        record_process(PID_FILES / f"{flow_run.id}.json", os.getpid())


def crash_orphaned_runs() -> None:
    """Mark runs whose process died as crashed and delete their PID files.

    Raises Unavailable if the server does not answer. A flow does not delete its own PID file, since the server may be
    away when it ends.
    """
    for path in PID_FILES.glob("*.json"):
        with suppress(FileNotFoundError):  # `make up` and the watcher may do this at the same time
            tags = read_json_or_empty(path)
            if not tags or is_gone(tags):  # a damaged PID file dates from before the machine crashed
                with prefect_client() as client:
                    end_run(client, UUID(path.stem))
                path.unlink()


def end_run(client: SyncPrefectClient, run: UUID) -> None:
    """Move a run that is still active on the server to a final state, which frees its slot."""
    with suppress(ObjectNotFound):
        state = client.read_flow_run(run).state
        final_state = FINAL_STATES.get(state.type) if state else None
        if final_state:
            client.set_flow_run_state(run, final_state(message="Its process is gone without a word"), force=True)
