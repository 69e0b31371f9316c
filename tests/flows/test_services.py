"""The services of `make up`: on this machine only, started once, found again or replaced after a kill."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from processes import python, wait_until

from landuse.core.environment import own_environment
from landuse.core.errors import LanduseError
from landuse.core.process import BOOT, HOST, STARTED, identity, is_gone
from landuse.tracking.backend_store import reach
from pipelines.__main__ import LOCK
from pipelines.services import processes
from pipelines.services.locks import held
from pipelines.services.processes import Service, answers, environment, is_running, is_up, start, stop

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
AS_A_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"])
"""


@pytest.fixture
def web(place: Path) -> Iterator[Service]:
    """A server on a free port, ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = (sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1")
    service = Service("web", command, port, "/", "LANDUSE_WEB_PORT")
    yield service
    stop(service)


def noted(service: Service) -> dict[str, str]:
    return json.loads(service.note.read_text())


def kill(service: Service) -> None:
    """kill -9 of the process in the note."""
    process = psutil.Process(int(noted(service)["process.id"]))
    process.kill()
    process.wait()


# Where they are


@pytest.fixture
def shell(place: Path) -> Iterator[None]:
    """An environment in which nothing about servers is said."""
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):
        yield


def test_the_environment_of_flows_and_services_names_this_machine_only(shell: None) -> None:
    own = {key: value for key, value in environment().items() if value != os.environ.get(key)}
    hosts = {host for value in own.values() for host in re.findall(r"\w+://([^:/]+)", value)}
    assert hosts == {"127.0.0.1"}
    assert own["PREFECT_API_URL"] == "http://127.0.0.1:4200/api" and own["MLFLOW_TRACKING_URI"].endswith(":5000")
    own_environment()
    assert own["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false" and environment()["DO_NOT_TRACK"] == "true"


def test_what_is_on_this_machine_is_asked_without_the_proxy_of_the_user(web: Service) -> None:
    nobody = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": "tiles.example"}
    start(web)
    with patch.dict(os.environ, nobody):
        assert is_up(web)
        for _ in range(2):
            own_environment()
            assert environment()["no_proxy"] == environment()["NO_PROXY"] == "tiles.example,127.0.0.1,localhost,::1"
    assert stop(web)


def test_every_server_binds_to_this_machine_only(shell: None) -> None:
    servers = [service for service in processes.services() if service.port]
    assert [service.name for service in servers] == ["prefect", "mlflow"]
    for service in servers:
        assert service.command[service.command.index("--host") + 1] == "127.0.0.1"
        assert service.address.startswith("http://127.0.0.1:")


def test_ports_are_set_by_the_variables_that_a_taken_port_names(shell: None) -> None:
    for service in processes.services()[:2]:
        os.environ[service.port_variable] = "4321"
    for service in processes.services()[:2]:
        assert service.port == "4321" and "4321" in service.command
    assert environment()["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


@pytest.mark.parametrize("port", ["abc", "0", "65536", ""])
def test_a_port_that_is_none_is_named_with_its_variable(shell: None, port: str) -> None:
    os.environ["LANDUSE_MLFLOW_PORT"] = port
    with pytest.raises(LanduseError, match=f"^LANDUSE_MLFLOW_PORT = {port}: set it to a free port"):
        environment()


def test_an_mlflow_server_of_ones_own_is_used_and_none_started(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:8080"
    assert [service.name for service in processes.services()] == ["prefect", "worker", "inbox"]
    assert environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:8080"
    os.environ["MLFLOW_TRACKING_URI"] = processes.mlflow_server().address
    assert len(processes.services()) == 4, "the address of the server that is started is nobody else's"


@pytest.mark.parametrize("named", ["http://127.0.0.1:5000/", "http://localhost:5000", " http://localhost:5000// "])
def test_the_server_that_is_started_may_be_named_with_a_slash_or_as_localhost(shell: None, named: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = named
    assert len(processes.services()) == 4 and environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_the_address_of_a_server_has_no_slash_at_its_end_in_links_to_its_pages(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "https://host/mlflow/"
    assert environment()["MLFLOW_TRACKING_URI"] == "https://host/mlflow"
    with reach() as uri:
        assert uri == "https://host/mlflow"


def test_a_store_of_ones_own_is_used_from_whatever_folder_and_no_server_started_for_it(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///shared.db"
    assert [service.name for service in processes.services()] == ["prefect", "worker", "inbox"]
    assert environment()["MLFLOW_TRACKING_URI"] == f"sqlite:///{Path.cwd()}/shared.db"
    os.environ["MLFLOW_TRACKING_URI"] = "postgresql://db/runs"
    assert environment()["MLFLOW_TRACKING_URI"] == "postgresql://db/runs"


def test_the_store_of_the_project_by_its_name_is_served_like_one_that_is_not_named(shell: None) -> None:
    for own in ("sqlite:///mlflow.db", f"sqlite:///{Path.cwd()}/mlflow.db"):
        os.environ["MLFLOW_TRACKING_URI"] = own
        assert environment()["MLFLOW_TRACKING_URI"] == processes.mlflow_server().address


def test_a_server_that_was_started_is_ended_whatever_store_is_named_now(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:8080"
    assert [service.name for service in processes.every_service()] == ["prefect", "mlflow", "worker", "inbox"]


# Up and down


def test_a_service_is_started_once_and_ended(web: Service) -> None:
    assert not is_up(web)
    start(web)
    first = noted(web)
    assert is_up(web)
    start(web)
    assert noted(web) == first
    assert stop(web) and not is_up(web) and is_gone(first) and not answers(web)
    assert not stop(web) and not web.note.exists()


def test_a_service_that_was_killed_is_seen_and_started_again(web: Service) -> None:
    start(web)
    first = noted(web)
    kill(web)
    assert not is_running(web) and not is_up(web)
    start(web)
    assert is_up(web) and noted(web) != first


def test_a_note_that_a_power_cut_left_empty_is_that_of_a_service_that_is_not_there(web: Service) -> None:
    web.note.write_text("")
    assert not is_running(web) and not stop(web) and not web.note.exists()
    web.note.write_text("")
    start(web)
    assert is_up(web)


def test_a_server_whose_leader_was_killed_gives_its_port_to_the_next(web: Service) -> None:
    with_child = replace(web, command=(*python(AS_A_CHILD), web.port))
    start(with_child)
    kill(with_child)
    assert answers(web) and not is_up(with_child)
    start(with_child)
    assert is_up(with_child)
    kill(with_child)
    assert stop(with_child), "what outlived it was there"
    wait_until(lambda: not answers(web))


def test_a_port_that_another_program_holds_is_named_with_the_variable_to_set(web: Service) -> None:
    with socket.create_server(("127.0.0.1", int(web.port))), pytest.raises(LanduseError) as refusal:
        start(web)
    begin, _, end = str(refusal.value).partition("): ")
    assert begin.startswith(f"port {web.port} is taken by process {os.getpid()} (")
    assert end == "end it, or set LANDUSE_WEB_PORT to a free port"
    assert not web.note.exists() and not web.log.exists()


def test_where_only_root_is_told_who_listens_a_taken_port_is_refused_all_the_same(web: Service) -> None:
    with patch.object(psutil, "net_connections", side_effect=psutil.AccessDenied):
        with socket.create_server(("127.0.0.1", int(web.port))), pytest.raises(LanduseError) as refusal:
            start(web)
        assert str(refusal.value).startswith(f"port {web.port} is taken by another program: ")
        start(web)
        assert is_up(web)


def test_the_server_of_another_project_is_not_taken_for_ones_own(web: Service) -> None:
    start(web)
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = replace(web, port=str(other.getsockname()[1]))
        for look in (start, is_up):
            with pytest.raises(LanduseError) as refusal:
                look(elsewhere)
            assert str(refusal.value) == (
                f"LANDUSE_WEB_PORT = {elsewhere.port}: web is up on port {web.port}; "
                f"set it to {web.port}, or make down first"
            )
    assert is_up(web) and stop(elsewhere), "whatever the port, it is ended"


def test_a_server_that_shows_everything_to_everybody_is_not_taken_for_up(web: Service) -> None:
    start(web)
    for attempt in (web, replace(web, private="/missing")):  # shows it, or asks for no login
        with pytest.raises(LanduseError, match=r"^web does not ask for the login in .*: make down, then make up$"):
            start(replace(attempt, private=attempt.private or "/"))
    assert is_running(web)


def test_a_program_that_was_first_on_the_port_is_not_taken_for_the_server(web: Service) -> None:
    idle = replace(web, command=python("import time; time.sleep(60)"))
    with patch.object(processes, "listener", return_value=None), patch.object(processes, "START_SECONDS", 1):
        command = (sys.executable, "-m", "http.server", web.port, "--bind", "127.0.0.1")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as stranger:
            wait_until(lambda: answers(web))
            with pytest.raises(LanduseError, match="web does not answer"):
                start(idle)
            assert is_running(idle) and not is_up(idle)
            stranger.terminate()


def test_a_service_that_cannot_be_noted_is_not_left_behind(web: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(processes, "note", full)
    before = psutil.Process().children()
    with pytest.raises(OSError, match="No space left"):
        start(web)
    assert set(psutil.Process().children()) <= set(before) and not web.note.exists()


def test_a_service_that_ends_at_once_is_named_with_its_log(web: Service) -> None:
    broken = replace(web, command=python("raise SystemExit('no such table')"))
    with pytest.raises(LanduseError, match=r"^web did not start: see the end of \.services/web\.log"):
        start(broken)
    assert web.log.read_text() == "no such table\n"


def test_a_server_that_does_not_answer_in_time_is_not_up(web: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SECONDS", 0.5)
    mute = replace(web, command=python("import time; time.sleep(60)"))
    for _ in range(2):
        with pytest.raises(LanduseError, match=r"^web does not answer: see .*web\.log; make down, then make up$"):
            start(mute)
    assert is_running(mute) and not is_up(mute)


def test_a_service_that_does_not_end_when_asked_is_killed_with_what_it_started(
    web: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + AS_A_CHILD
    stubborn = replace(web, command=(*python(deaf), web.port))
    start(stubborn)
    family = [identity(process.pid) for process in psutil.Process(int(noted(stubborn)["process.id"])).children()]
    family.append(noted(stubborn))
    assert stop(stubborn) and len(family) == 2
    for process in family:
        wait_until(lambda process=process: is_gone(process))


def test_a_process_that_was_given_the_number_of_a_service_is_not_the_service(web: Service) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        web.note.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        assert not is_running(web)
        start(web)
        assert noted(web)["process.id"] != str(stranger.pid) and stop(web)
        web.note.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        assert not stop(web) and stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_note_that_came_along_from_another_machine_is_of_no_service_here(web: Service) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        web.note.write_text(json.dumps(identity(stranger.pid) | {HOST: "elsewhere", BOOT: "another start"}))
        assert not is_up(web) and not stop(web) and stranger.poll() is None
        web.note.write_text(json.dumps(identity(stranger.pid) | {HOST: "elsewhere", BOOT: "another start"}))
        start(web)
        assert is_up(web) and noted(web)["process.id"] != str(stranger.pid) and stop(web) and stranger.poll() is None
        stranger.communicate(b"\n")


# What `make` calls


def test_a_second_make_up_or_down_waits_until_the_first_has_ended(place: Path) -> None:
    with held(LOCK, "nobody", print):
        second = subprocess.Popen((sys.executable, "-m", "pipelines", "down"), stdout=subprocess.PIPE, text=True)
        told = second.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.5)
    rest, _ = second.communicate()
    assert (told, second.returncode) == ("another make up or make down is at work: waiting for it to end\n", 0)
    assert rest.startswith("inbox      was not up")


def test_a_reader_that_has_read_enough_ends_the_status_quietly(place: Path) -> None:
    nobody, pipe = os.pipe()
    os.close(nobody)
    command = (sys.executable, "-m", "pipelines", "status")
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, env=os.environ | {"LANDUSE_PREFECT_PORT": "1"})
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_worker_ends_with_the_server_before_another_program_takes_its_port(place: Path) -> None:
    idle = python("import time; time.sleep(60)")
    script = "from pipelines.__main__ import end_with_server; end_with_server(); import time; time.sleep(60)"
    with patch.object(processes, "prefect_server", return_value=Service("prefect", idle)) as server:
        start(server())
        with subprocess.Popen(python(script), start_new_session=True) as worker:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(1.5)
            kill(server())
            assert worker.wait(2) == -signal.SIGKILL
        assert processes.is_dead(server()) and not stop(server()) and not processes.is_dead(server())
