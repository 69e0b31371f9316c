"""Orphaned runs, and arrivals while the Prefect server is away: both are reported to a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
import tiny
from ports import free_port
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event as PrefectEvent
from prefect.events import ReceivedEvent
from prefect.events.filters import EventFilter
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Failed, Running, Suspended
from processes import ROOT, python, wait_until

from landuse.core.auth import authorization_header, login
from landuse.core.errors import Unavailable
from landuse.core.paths import INBOX, SERVICES
from landuse.core.process import BOOT, HOST, STARTED, identity, record_process
from pipelines.services import deploy, inbox, orphans, processes
from pipelines.services.client import prefect_client
from pipelines.services.orphans import PID_FILES, crash_orphaned_runs
from pipelines.steps.commands import flow_lock

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
RUN = "PREFECT__FLOW_RUN_ID"  # environment variable with the ID of the current run

WAITING = """
import logging
from pipelines.steps import commands
commands.get_run_logger = logging.getLogger
with commands.flow_lock():
    pass
"""


@flow
def work() -> None:
    """Stand for any flow: the tests only check the server's state of its runs."""


def recorded_runs() -> list[str]:
    """Return the sorted IDs of the runs with a PID file."""
    return sorted(path.stem for path in PID_FILES.glob("*"))


def leave_pid_file(run: object) -> Path:
    """Write the PID file of a run whose process was killed."""
    PID_FILES.mkdir(exist_ok=True)
    path = PID_FILES / f"{run}.json"
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as process:
        record_process(path, process.pid)
        process.kill()
    return path


# PID files


def test_every_run_writes_a_pid_file_and_does_not_delete_it(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN, "outer")
    with flow_lock():
        monkeypatch.setenv(RUN, "inner")
        with flow_lock():
            pass
    assert recorded_runs() == ["inner", "outer"]
    assert all(json.loads(path.read_text()) == identity() for path in PID_FILES.iterdir())


def test_a_flow_without_a_server_writes_no_pid_file(work_dir: Path) -> None:
    with flow_lock():
        assert recorded_runs() == []


def test_a_waiting_run_has_a_pid_file_which_remains_after_a_kill(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flow_lock():
        monkeypatch.setenv(RUN, "killed")
        with subprocess.Popen(python(WAITING)) as waiting:
            wait_until(lambda: recorded_runs() == ["killed"])
            waiting.kill()
        assert recorded_runs() == ["killed"]


# The server is away


@pytest.fixture
def no_server(work_dir: Path) -> Iterator[None]:
    """A server address at which nobody listens."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


@pytest.mark.slow
def test_without_a_server_orphans_and_arrivals_are_kept_for_later(no_server: None) -> None:
    leave_pid_file(uuid4())
    with pytest.raises(Unavailable, match="make up starts it"):
        crash_orphaned_runs()
    assert len(recorded_runs()) == 1
    with pytest.raises(Unavailable, match="make up starts it"):
        inbox.send_event([INBOX / "set.zip"])


def test_active_runs_and_those_of_another_machine_need_no_server_request(no_server: None) -> None:
    leave_pid_file("here")
    leave_pid_file("elsewhere")
    record_process(PID_FILES / "here.json", os.getpid())
    elsewhere = {HOST: "elsewhere", BOOT: "another start", STARTED: "1.00"}
    (PID_FILES / "elsewhere.json").write_text(json.dumps(identity() | elsewhere))
    crash_orphaned_runs()
    assert recorded_runs() == ["elsewhere", "here"]


def test_the_run_of_a_pid_file_that_a_power_cut_emptied_is_ended(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[UUID] = []
    monkeypatch.setattr(orphans, "prefect_client", nullcontext)
    monkeypatch.setattr(orphans, "end_run", lambda _, run: ended.append(run))
    PID_FILES.mkdir()
    (PID_FILES / f"{(run := uuid4())}.json").touch()
    crash_orphaned_runs()
    assert ended == [run] and recorded_runs() == []


# A real server


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of a project of its own, in the working folder."""
    folder = tmp_path_factory.mktemp("server")
    tiny.write_params(folder, {"pipelines": {"settle_seconds": 0.2}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LANDUSE_PREFECT_PORT", free_port())
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
        SERVICES.mkdir()
        processes.start(processes.prefect_server())
        connection = {
            setting: processes.environment()[setting.name] for setting in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)
        }
        with temporary_settings(connection):
            yield
        processes.stop(processes.prefect_server())


def events() -> list[int]:
    """Return the number of arrivals in each event that the server received."""
    with prefect_client() as client:
        return [event.payload["arrivals"] for event in read_events(client, inbox.EVENT)]


def read_events(client: SyncPrefectClient, prefix: str) -> list[ReceivedEvent]:
    """Return the events whose names start with a prefix; the server stores them after some delay."""
    event_filter = EventFilter.model_validate({"event": {"prefix": [prefix]}})
    return client.read_events(filter=event_filter, limit=50).events


def ended_by_automation(client: SyncPrefectClient) -> set[str]:
    """Return the IDs of the runs whose state an automation tried to change."""
    actions = read_events(client, "prefect.automation.action.")
    return {related.id.removeprefix("prefect.flow-run.") for event in actions for related in event.related}


def heartbeat(client: SyncPrefectClient, run: UUID) -> None:
    """Send the heartbeat of a run's process."""
    event = PrefectEvent(
        event="prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run}"}
    )
    client.request("POST", "/events", json=[event.model_dump(mode="json")])


@pytest.mark.slow
def test_orphaned_runs_are_ended_while_finished_and_paused_ones_are_unchanged(real_server: None) -> None:
    states = {"CRASHED": Running(), "CANCELLED": Cancelling(), "COMPLETED": Completed(), "PAUSED": Suspended()}
    with prefect_client() as client:
        runs = {end: client.create_flow_run(work, state=state).id for end, state in states.items()}
        for run in (*runs.values(), uuid4()):
            leave_pid_file(run)
        crash_orphaned_runs()
        ended = {end: client.read_flow_run(run).state for end, run in runs.items()}
    assert {end: state.type.value for end, state in ended.items()} == {end: end for end in states}
    assert ended["CRASHED"].message == "Its process is gone without a word"
    assert recorded_runs() == []


@pytest.mark.slow
def test_the_watcher_reports_arrivals_and_orphans_once_the_server_is_back(real_server: None) -> None:
    with prefect_client() as client:
        run = client.create_flow_run(work, state=Running()).id
    processes.stop(processes.prefect_server())
    leave_pid_file(run)
    INBOX.mkdir()
    (INBOX / "set.zip").touch()
    with subprocess.Popen((sys.executable, "-m", "pipelines", "watch"), env=processes.environment()) as watcher:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                watcher.wait(timeout=4)
            processes.start(processes.prefect_server())
            wait_until(events)
            wait_until(lambda: recorded_runs() == [])
            with pytest.raises(subprocess.TimeoutExpired):
                watcher.wait(timeout=3)
        finally:
            watcher.kill()
    assert events() == [1], "reported only once"
    with prefect_client() as client:
        assert client.read_flow_run(run).state.is_crashed()


@pytest.mark.slow
def test_a_run_that_ends_in_a_state_of_any_name_is_not_taken_for_lost(
    real_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "HEARTBEAT_SECONDS", 4)
    automation = deploy.lost_runs_automation().create()
    ends = {"NothingNew": Completed(name="NothingNew"), "Skipped": Failed(name="Skipped"), "Failed": Failed()}
    with prefect_client() as client:
        runs = {name: client.create_flow_run(work, state=Running()).id for name in ends}
        for run in runs.values():
            heartbeat(client, run)
        wait_until(
            lambda: len(read_events(client, "prefect.flow-run.heartbeat")) == len(runs)
        )  # else events may arrive out of order
        for name, run in runs.items():
            client.set_flow_run_state(run, ends[name], force=True)
        runs["lost"] = client.create_flow_run(work, state=Running()).id
        heartbeat(client, runs["lost"])
        wait_until(lambda: client.read_flow_run(runs["lost"]).state.is_crashed(), 60)
        wait_until(lambda: ended_by_automation(client), 60)
        ended = ended_by_automation(client)
        assert client.read_flow_run(runs["NothingNew"]).state.name == "NothingNew"
    automation.delete()
    assert {name for name, run in runs.items() if str(run) in ended} == {"lost"}


@pytest.mark.slow
def test_ten_simultaneous_triggers_all_succeed_during_other_writes(real_server: None) -> None:
    done, address = Event(), PREFECT_API_URL.value()

    def post(path: str, body: dict) -> dict:
        headers = {"Content-Type": "application/json", "Authorization": authorization_header(login())}
        request = Request(f"{address}{path}", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def write(deployment: UUID) -> None:
        while not done.is_set():
            run = post(f"/deployments/{deployment}/create_flow_run", {})["id"]
            post(f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}, "force": True})

    with prefect_client() as client, ThreadPoolExecutor(12) as pool:
        deployment = client.create_deployment(client.create_flow(work), "busy")
        path = f"/deployments/{deployment}/create_flow_run"
        writers = [pool.submit(write, deployment) for _ in range(2)]
        triggers = [pool.submit(post, path, {"name": f"trigger-{number}"}) for number in range(10)]
        refused = [trigger.exception() for trigger in triggers if trigger.exception()]
        done.set()
        assert not refused and not any(writer.exception() for writer in writers)
        created = {client.read_flow_run(UUID(trigger.result()["id"])).name for trigger in triggers}
    assert created == {f"trigger-{number}" for number in range(10)}
