"""Overview of scheduled, active and recent runs on the Prefect server."""

import time

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from landuse.core.errors import printable
from pipelines.services.client import prefect_client
from pipelines.services.schedules import describe_outdated

MAX_RUNS = 5  # per line group
PLAN_SECONDS = 30
NO_SUBFLOW = FlowRunFilterParentTaskRunId(is_null_=True)


def overview() -> str:
    """Return one line per run: waiting ones, the next scheduled one, active ones, and the last that ended.

    Schedules of `prefect.yaml` that the server does not have are told, too.
    """
    with prefect_client() as client:
        scheduled = read_runs(client, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC)
        active_states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        active = read_runs(client, active_states, FlowRunSort.START_TIME_ASC)
        final_states = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
        ended = read_runs(client, final_states, FlowRunSort.END_TIME_DESC, NO_SUBFLOW)
        outdated = describe_outdated(client.read_deployments())
    due = [run for run in scheduled if run.state_name == "Scheduled"]
    lines = [
        *(f"waits      {run.name}: {run.state_name}" for run in scheduled if run.state_name != "Scheduled"),
        *(f"next       {run.expected_start_time:%Y-%m-%d %H:%M} UTC" for run in due[:1]),
        *(f"now        {run.name}: {run.state_name}" for run in active),
        *(f"schedule   {line}" for line in outdated),
        *(f"ended      {run.end_time:%Y-%m-%d %H:%M} UTC  {run.name}: {describe_state(run)}" for run in ended),
    ]
    return "\n".join(map(printable, lines)) or "nothing    ran or is scheduled so far"


def wait_for_plan() -> None:
    """Wait until the server has planned the scheduled runs, which a new deployment deletes for some seconds."""
    deadline = time.monotonic() + PLAN_SECONDS
    with prefect_client() as client:
        has_schedule = any(schedule.active for each in client.read_deployments() for schedule in each.schedules)
        while has_schedule and time.monotonic() < deadline:
            if read_runs(client, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC):
                return
            time.sleep(0.2)


def read_runs(
    client: SyncPrefectClient,
    states: list[StateType],
    sort: FlowRunSort,
    parent: FlowRunFilterParentTaskRunId | None = None,
) -> list[FlowRun]:
    """Return the first MAX_RUNS runs in the given states, optionally filtered by their parent task run."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
    run_filter = FlowRunFilter(state=state, parent_task_run_id=parent)
    return client.read_flow_runs(flow_run_filter=run_filter, sort=sort, limit=MAX_RUNS)


def describe_state(run: FlowRun) -> str:
    """Return the name and message of a run's state."""
    message = run.state.message if run.state else None
    return f"{run.state_name}{', ' + message if message else ''}"
