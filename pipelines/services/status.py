"""What is scheduled next and what ran last, as the Prefect server knows it."""

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
from pipelines.services.client import server

SHOWN = 5
PLAN_SECONDS = 30
OF_ITS_OWN = FlowRunFilterParentTaskRunId(is_null_=True)  # no part of another run


def overview() -> str:
    """One line per run: the next of the schedule, those that wait or work, and the last that ended."""
    with server() as client:
        scheduled = runs(client, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC)
        working = runs(client, [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING], FlowRunSort.START_TIME_ASC)
        ended = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
        over = runs(client, ended, FlowRunSort.END_TIME_DESC, parent_task_run_id=OF_ITS_OWN)
    due = [run for run in scheduled if run.state.name == "Scheduled"]
    lines = [
        *(f"waits      {run.name}: {run.state.name}" for run in scheduled if run.state.name != "Scheduled"),
        *(f"next       {run.expected_start_time:%Y-%m-%d %H:%M} UTC" for run in due[:1]),
        *(f"now        {run.name}: {run.state.name}" for run in working),
        *(f"ended      {run.end_time:%Y-%m-%d %H:%M} UTC  {run.name}: {said(run)}" for run in over),
    ]
    return "\n".join(map(printable, lines)) or "nothing    ran or is scheduled so far"


def wait_for_plan() -> None:
    """Return when the server has planned what is on a schedule: to deploy anew makes it forget that for seconds."""
    end = time.monotonic() + PLAN_SECONDS
    with server() as client:
        on_schedule = any(schedule.active for found in client.read_deployments() for schedule in found.schedules)
        while on_schedule and time.monotonic() < end:
            if runs(client, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC):
                return
            time.sleep(0.2)


def runs(client: SyncPrefectClient, states: list[StateType], sort: FlowRunSort, **more: object) -> list[FlowRun]:
    """The first runs in these states, and of which more holds."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)), **more)
    return client.read_flow_runs(flow_run_filter=wanted, sort=sort, limit=SHOWN)


def said(run: FlowRun) -> str:
    """State and message."""
    return f"{run.state.name}{', ' + run.state.message if run.state.message else ''}"
