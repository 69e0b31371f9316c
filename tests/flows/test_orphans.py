"""Runs whose process was killed, and arrivals while the Prefect server is away: a real server learns of both."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

from landuse.core.auth import known_by, login
from landuse.core.errors import Unavailable
from landuse.core.paths import INBOX, SERVICES
from landuse.core.process import BOOT, HOST, STARTED, identity, note
from pipelines.services import deploy, inbox, processes
from pipelines.services.client import server
from pipelines.services.orphans import NOTES, end_lost_runs
from pipelines.steps.commands import alone

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
RUN = "PREFECT__FLOW_RUN_ID"  # where Prefect tells a process which run it is

WAITING = """
import logging
from pipelines.steps import commands
commands.get_run_logger = logging.getLogger
with commands.alone():
    pass
"""


@flow
def work() -> None:
    """Stands for any flow: only what the server thinks of its runs is looked at."""


def kept() -> list[str]:
    """The runs of which there is a note."""
    return sorted(path.stem for path in NOTES.glob("*"))


def leave_note(run: object) -> Path:
    """The note of a run whose process was killed."""
    NOTES.mkdir(exist_ok=True)
    path = NOTES / f"{run}.json"
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as process:
        note(path, process.pid)
        process.kill()
    return path


# Notes


def test_every_run_notes_its_process_and_leaves_the_note_for_whoever_sees_to_its_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "outer")
    with alone():
        monkeypatch.setenv(RUN, "inner")
        with alone():
            pass
    assert kept() == ["inner", "outer"]
    assert all(json.loads(path.read_text()) == identity() for path in NOTES.iterdir())


def test_a_flow_that_no_server_knows_of_keeps_no_note(place: Path) -> None:
    with alone():
        assert kept() == []


def test_a_run_that_waits_for_another_has_its_note_and_leaves_it_when_it_is_killed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alone():
        monkeypatch.setenv(RUN, "killed")
        with subprocess.Popen(python(WAITING)) as waiting:
            wait_until(lambda: kept() == ["killed"])
            waiting.kill()
        assert kept() == ["killed"]


# The server is away


@pytest.fixture
def no_server(place: Path) -> Iterator[None]:
    """Nobody listens where the server should be."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


@pytest.mark.slow
def test_without_a_server_the_note_of_a_lost_run_is_kept_and_an_arrival_is_not_taken_for_told(no_server: None) -> None:
    leave_note(uuid4())
    with pytest.raises(Unavailable, match="make up starts it"):
        end_lost_runs()
    assert len(kept()) == 1
    with pytest.raises(Unavailable, match="make up starts it"):
        inbox.tell_of([INBOX / "set.zip"])


def test_a_run_at_work_or_on_another_machine_is_nothing_to_ask_a_server_about(no_server: None) -> None:
    leave_note("here")
    leave_note("elsewhere")
    note(NOTES / "here.json", os.getpid())
    elsewhere = {HOST: "elsewhere", BOOT: "another start", STARTED: "1.00"}
    (NOTES / "elsewhere.json").write_text(json.dumps(identity() | elsewhere))
    end_lost_runs()
    assert kept() == ["elsewhere", "here"]


# A real server


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of a project of its own, which is the folder in use."""
    folder = tmp_path_factory.mktemp("server")
    tiny.write_params(folder, {"pipelines": {"settle_seconds": 0.2}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LANDUSE_PREFECT_PORT", free_port())
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
        SERVICES.mkdir()
        processes.start(processes.prefect_server())
        known = {
            setting: processes.environment()[setting.name] for setting in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)
        }
        with temporary_settings(known):
            yield
        processes.stop(processes.prefect_server())


def events() -> list[int]:
    """How many arrivals each event told of, as the server remembers."""
    with server() as client:
        return [event.payload["arrivals"] for event in seen(client, inbox.EVENT)]


def seen(client: SyncPrefectClient, prefix: str) -> list[ReceivedEvent]:
    """The events whose names begin so, as the server remembers them after some delay."""
    wanted = EventFilter.model_validate({"event": {"prefix": [prefix]}})
    return client.read_events(filter=wanted, limit=50).events


def ended_by_automation(client: SyncPrefectClient) -> set[str]:
    """The runs of which automations tried to change the state."""
    acted = seen(client, "prefect.automation.action.")
    return {related.id.removeprefix("prefect.flow-run.") for event in acted for related in event.related}


def heartbeat(client: SyncPrefectClient, run: UUID) -> None:
    """The sign of life that the process of a run sends."""
    event = PrefectEvent(
        event="prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run}"}
    )
    client.request("POST", "/events", json=[event.model_dump(mode="json")])


@pytest.mark.slow
def test_lost_runs_are_ended_and_those_that_ended_or_wait_stay_as_they_are(real_server: None) -> None:
    states = {"CRASHED": Running(), "CANCELLED": Cancelling(), "COMPLETED": Completed(), "PAUSED": Suspended()}
    with server() as client:
        runs = {end: client.create_flow_run(work, state=state).id for end, state in states.items()}
        for run in (*runs.values(), uuid4()):
            leave_note(run)
        end_lost_runs()
        ended = {end: client.read_flow_run(run).state for end, run in runs.items()}
    assert {end: state.type.value for end, state in ended.items()} == {end: end for end in states}
    assert ended["CRASHED"].message == "Its process is gone without a word"
    assert kept() == []


@pytest.mark.slow
def test_what_arrives_or_is_lost_while_the_server_is_away_it_learns_when_it_is_back(real_server: None) -> None:
    with server() as client:
        run = client.create_flow_run(work, state=Running()).id
    processes.stop(processes.prefect_server())
    leave_note(run)
    INBOX.mkdir()
    (INBOX / "set.zip").touch()
    with subprocess.Popen((sys.executable, "-m", "pipelines", "watch"), env=processes.environment()) as watcher:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                watcher.wait(timeout=4)
            processes.start(processes.prefect_server())
            wait_until(events)
            wait_until(lambda: kept() == [])
            with pytest.raises(subprocess.TimeoutExpired):
                watcher.wait(timeout=3)
        finally:
            watcher.kill()
    assert events() == [1], "and learns it once"
    with server() as client:
        assert client.read_flow_run(run).state.is_crashed()


@pytest.mark.slow
def test_a_run_that_ends_under_whatever_name_is_not_taken_for_lost(
    real_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "HEARTBEAT_SECONDS", 4)
    automation = deploy.lost_runs().create()
    ends = {"NothingNew": Completed(name="NothingNew"), "Skipped": Failed(name="Skipped"), "Failed": Failed()}
    with server() as client:
        runs = {name: client.create_flow_run(work, state=Running()).id for name in ends}
        for run in runs.values():
            heartbeat(client, run)
        wait_until(lambda: len(seen(client, "prefect.flow-run.heartbeat")) == len(runs))  # else events may be swapped
        for name, run in runs.items():
            client.set_flow_run_state(run, ends[name], force=True)
        runs["lost"] = client.create_flow_run(work, state=Running()).id
        heartbeat(client, runs["lost"])
        wait_until(lambda: client.read_flow_run(runs["lost"]).state.is_crashed(), 60)
        wait_until(lambda: ended_by_automation(client), 60)
        named = ended_by_automation(client)
        assert client.read_flow_run(runs["NothingNew"]).state.name == "NothingNew"
    automation.delete()
    assert {name for name, run in runs.items() if str(run) in named} == {"lost"}


@pytest.mark.slow
def test_of_ten_triggers_at_once_none_is_refused_while_others_write(real_server: None) -> None:
    over, address = Event(), PREFECT_API_URL.value()

    def post(path: str, body: dict) -> dict:
        headers = {"Content-Type": "application/json", "Authorization": known_by(login())}
        asked = Request(f"{address}{path}", json.dumps(body).encode(), headers)
        with urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    def write(deployment: UUID) -> None:
        while not over.is_set():
            run = post(f"/deployments/{deployment}/create_flow_run", {})["id"]
            post(f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}, "force": True})

    with server() as client, ThreadPoolExecutor(12) as pool:
        deployment = client.create_deployment(client.create_flow(work), "busy")
        path = f"/deployments/{deployment}/create_flow_run"
        writers = [pool.submit(write, deployment) for _ in range(2)]
        triggers = [pool.submit(post, path, {"name": f"trigger-{number}"}) for number in range(10)]
        refused = [trigger.exception() for trigger in triggers if trigger.exception()]
        over.set()
        assert not refused and not any(writer.exception() for writer in writers)
        made = {client.read_flow_run(UUID(trigger.result()["id"])).name for trigger in triggers}
    assert made == {f"trigger-{number}" for number in range(10)}
