"""The services of `make up`: local to this machine, started once, found again or replaced after a kill."""

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

from landuse.core.environment import sanitize_environment
from landuse.core.errors import LanduseError
from landuse.core.process import BOOT, HOST, STARTED, identity, is_gone
from landuse.tracking.backend_store import connect
from pipelines.__main__ import LOCK
from pipelines.services import processes
from pipelines.services.locks import file_lock
from pipelines.services.processes import Service, environment, is_healthy, is_running, is_up, start, stop

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
AS_A_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"])
"""


@pytest.fixture
def web(work_dir: Path) -> Iterator[Service]:
    """A server on a free port, stopped at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = (sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1")
    service = Service("web", command, port, "/", "LANDUSE_WEB_PORT")
    yield service
    stop(service)


def read_pid_file(service: Service) -> dict[str, str]:
    return json.loads(service.pid_file.read_text())


def kill(service: Service) -> None:
    """Send SIGKILL to the process in the PID file."""
    process = psutil.Process(int(read_pid_file(service)["process.id"]))
    process.kill()
    process.wait()


# Addresses


@pytest.fixture
def shell(work_dir: Path) -> Iterator[None]:
    """An environment without variables about servers."""
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):
        yield


def test_the_environment_of_flows_and_services_names_this_machine_only(shell: None) -> None:
    own = {key: value for key, value in environment().items() if value != os.environ.get(key)}
    hosts = {host for value in own.values() for host in re.findall(r"\w+://([^:/\"]+)", value)}
    assert hosts == {"127.0.0.1"}
    assert own["PREFECT_API_URL"] == "http://127.0.0.1:4200/api" and own["MLFLOW_TRACKING_URI"].endswith(":5000")
    sanitize_environment()
    assert own["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false" and environment()["DO_NOT_TRACK"] == "true"
    assert own["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "false"
    assert own["PREFECT_SERVER_UI_V2_ENABLED"] == "true" and own["PREFECT_UI_URL"] == "http://127.0.0.1:4200/v2"


def test_requests_to_this_machine_bypass_the_proxy_of_the_user(web: Service) -> None:
    dead_proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": "tiles.example"}
    start(web)
    with patch.dict(os.environ, dead_proxy):
        assert is_up(web)
        for _ in range(2):
            sanitize_environment()
            assert environment()["no_proxy"] == environment()["NO_PROXY"] == "tiles.example,127.0.0.1,localhost,::1"
    assert stop(web)


def test_every_server_binds_to_this_machine_only(shell: None) -> None:
    servers = [service for service in processes.services() if service.port]
    assert [service.name for service in servers] == ["prefect", "mlflow"]
    for service in servers:
        assert service.command[service.command.index("--host") + 1] == "127.0.0.1"
        assert service.address.startswith("http://127.0.0.1:")


def test_ports_are_set_by_environment_variables(shell: None) -> None:
    for service in processes.services()[:2]:
        os.environ[service.port_variable] = "4321"
    for service in processes.services()[:2]:
        assert service.port == "4321" and "4321" in service.command
    assert environment()["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


@pytest.mark.parametrize("port", ["abc", "0", "65536", ""])
def test_an_invalid_port_is_reported_with_its_variable(shell: None, port: str) -> None:
    os.environ["LANDUSE_MLFLOW_PORT"] = port
    with pytest.raises(LanduseError, match=f"^LANDUSE_MLFLOW_PORT = {port}: set it to a free port"):
        environment()


def test_with_an_external_mlflow_server_none_is_started(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:8080"
    assert [service.name for service in processes.services()] == ["prefect", "worker", "inbox"]
    assert environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:8080"
    os.environ["MLFLOW_TRACKING_URI"] = processes.mlflow_server().address
    assert len(processes.services()) == 4, "the address of the project's own server is not external"


@pytest.mark.parametrize("named", ["http://127.0.0.1:5000/", "http://localhost:5000", " http://localhost:5000// "])
def test_the_projects_server_may_be_written_with_a_slash_or_as_localhost(shell: None, named: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = named
    assert len(processes.services()) == 4 and environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_a_trailing_slash_is_removed_from_the_address_of_a_server(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "https://host/mlflow/"
    assert environment()["MLFLOW_TRACKING_URI"] == "https://host/mlflow"
    with connect() as uri:
        assert uri == "https://host/mlflow"


def test_an_external_store_is_used_from_any_folder_and_without_a_server(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///shared.db"
    assert [service.name for service in processes.services()] == ["prefect", "worker", "inbox"]
    assert environment()["MLFLOW_TRACKING_URI"] == f"sqlite:///{Path.cwd()}/shared.db"
    os.environ["MLFLOW_TRACKING_URI"] = "postgresql://db/runs"
    assert environment()["MLFLOW_TRACKING_URI"] == "postgresql://db/runs"


def test_the_store_of_the_project_is_served_even_if_it_is_named(shell: None) -> None:
    for own in ("sqlite:///mlflow.db", f"sqlite:///{Path.cwd()}/mlflow.db"):
        os.environ["MLFLOW_TRACKING_URI"] = own
        assert environment()["MLFLOW_TRACKING_URI"] == processes.mlflow_server().address


def test_all_services_include_the_mlflow_server_even_with_an_external_store(shell: None) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:8080"
    assert [service.name for service in processes.all_services()] == ["prefect", "mlflow", "worker", "inbox"]


# Up and down


def test_a_service_is_started_once_and_stopped(web: Service) -> None:
    assert not is_up(web)
    start(web)
    first = read_pid_file(web)
    assert is_up(web)
    start(web)
    assert read_pid_file(web) == first
    assert stop(web) and not is_up(web) and is_gone(first) and not is_healthy(web)
    assert not stop(web) and not web.pid_file.exists()


def test_a_killed_service_is_detected_and_restarted(web: Service) -> None:
    start(web)
    first = read_pid_file(web)
    kill(web)
    assert not is_running(web) and not is_up(web)
    start(web)
    assert is_up(web) and read_pid_file(web) != first


def test_an_empty_pid_file_left_by_a_power_cut_means_not_running(web: Service) -> None:
    web.pid_file.write_text("")
    assert not is_running(web) and not stop(web) and not web.pid_file.exists()
    web.pid_file.write_text("")
    start(web)
    assert is_up(web)


def test_a_restart_frees_the_port_from_the_children_of_a_killed_server(web: Service) -> None:
    with_child = replace(web, command=(*python(AS_A_CHILD), web.port))
    start(with_child)
    kill(with_child)
    assert is_healthy(web) and not is_up(with_child)
    start(with_child)
    assert is_up(with_child)
    kill(with_child)
    assert stop(with_child), "a child of it was still running"
    wait_until(lambda: not is_healthy(web))


def test_a_port_taken_by_another_program_is_reported_with_the_variable_to_set(web: Service) -> None:
    with socket.create_server(("127.0.0.1", int(web.port))), pytest.raises(LanduseError) as refusal:
        start(web)
    begin, _, end = str(refusal.value).partition("): ")
    assert begin.startswith(f"port {web.port} is taken by process {os.getpid()} (")
    assert end == "end it, or set LANDUSE_WEB_PORT to a free port"
    assert not web.pid_file.exists() and not web.log.exists()


def test_a_taken_port_is_refused_even_if_its_process_is_not_known(web: Service) -> None:
    with patch.object(psutil, "net_connections", side_effect=psutil.AccessDenied):
        with socket.create_server(("127.0.0.1", int(web.port))), pytest.raises(LanduseError) as refusal:
            start(web)
        assert str(refusal.value).startswith(f"port {web.port} is taken by another program: ")
        start(web)
        assert is_up(web)


def test_the_server_of_another_project_is_not_mistaken_for_ours(web: Service) -> None:
    start(web)
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = replace(web, port=str(other.getsockname()[1]))
        for function in (start, is_up):
            with pytest.raises(LanduseError) as refusal:
                function(elsewhere)
            assert str(refusal.value) == (
                f"LANDUSE_WEB_PORT = {elsewhere.port}: web is up on port {web.port}; "
                f"set it to {web.port}, or make down first"
            )
    assert is_up(web) and stop(elsewhere), "it is stopped on any port"


def test_a_server_that_asks_for_no_login_is_refused(web: Service) -> None:
    start(web)
    for attempt in (web, replace(web, private="/missing")):  # open to everybody, or answering 404 instead of 401
        with pytest.raises(LanduseError, match=r"^web does not ask for the login in .*: make down, then make up$"):
            start(replace(attempt, private=attempt.private or "/"))
    assert is_running(web)


def test_another_program_on_the_port_is_not_mistaken_for_the_server(web: Service) -> None:
    idle = replace(web, command=python("import time; time.sleep(60)"))
    with patch.object(processes, "listener", return_value=None), patch.object(processes, "START_SECONDS", 1):
        command = (sys.executable, "-m", "http.server", web.port, "--bind", "127.0.0.1")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as stranger:
            wait_until(lambda: is_healthy(web))
            with pytest.raises(LanduseError, match="web does not answer"):
                start(idle)
            assert is_running(idle) and not is_up(idle)
            stranger.terminate()


def test_a_service_without_a_pid_file_is_killed(web: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(processes, "record_process", full)
    before = psutil.Process().children()
    with pytest.raises(OSError, match="No space left"):
        start(web)
    assert set(psutil.Process().children()) <= set(before) and not web.pid_file.exists()


def test_a_service_that_exits_at_once_is_reported_with_its_log(web: Service) -> None:
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


def test_a_service_that_ignores_sigterm_is_killed_with_its_children(
    web: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + AS_A_CHILD
    stubborn = replace(web, command=(*python(deaf), web.port))
    start(stubborn)
    leader = read_pid_file(stubborn)
    children = psutil.Process(int(leader["process.id"])).children()
    family = [*(identity(process.pid) for process in children), leader]
    assert stop(stubborn) and len(family) == 2
    for process in family:
        wait_until(lambda process=process: is_gone(process))


def test_an_unrelated_process_with_a_reused_pid_is_not_the_service(web: Service) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        web.pid_file.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        assert not is_running(web)
        start(web)
        assert read_pid_file(web)["process.id"] != str(stranger.pid) and stop(web)
        web.pid_file.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        assert not stop(web) and stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_pid_file_from_another_machine_is_ignored(web: Service) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        web.pid_file.write_text(json.dumps(identity(stranger.pid) | {HOST: "elsewhere", BOOT: "another start"}))
        assert not is_up(web) and not stop(web) and stranger.poll() is None
        web.pid_file.write_text(json.dumps(identity(stranger.pid) | {HOST: "elsewhere", BOOT: "another start"}))
        start(web)
        assert is_up(web) and read_pid_file(web)["process.id"] != str(stranger.pid)
        assert stop(web) and stranger.poll() is None
        stranger.communicate(b"\n")


# Verbs that `make` calls


def test_a_second_make_up_or_down_waits_for_the_first(work_dir: Path) -> None:
    with file_lock(LOCK, "nobody", print):
        second = subprocess.Popen((sys.executable, "-m", "pipelines", "down"), stdout=subprocess.PIPE, text=True)
        first_line = second.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.5)
    rest, _ = second.communicate()
    assert (first_line, second.returncode) == ("another make up or make down is at work: waiting for it to end\n", 0)
    assert rest.startswith("inbox      was not up")


def test_a_closed_pipe_ends_the_status_quietly(work_dir: Path) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    command = (sys.executable, "-m", "pipelines", "status")
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, env=os.environ | {"LANDUSE_PREFECT_PORT": "1"})
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_worker_exits_with_the_server(work_dir: Path) -> None:
    idle = python("import time; time.sleep(60)")
    script = "from pipelines.__main__ import exit_with_server; exit_with_server(); import time; time.sleep(60)"
    with patch.object(processes, "prefect_server", return_value=Service("prefect", idle)) as server:
        start(server())
        with subprocess.Popen(python(script), start_new_session=True) as worker:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(1.5)
            kill(server())
            assert worker.wait(2) == -signal.SIGKILL
        assert processes.is_dead(server()) and not stop(server()) and not processes.is_dead(server())


# Up, and stay


STAY = """
import sys, time
from landuse.core.errors import report_errors
from pipelines import __main__ as main
from pipelines.services import processes

idle = processes.Service("idle", (sys.executable, "-c", "import time; time.sleep(60)"))
processes.services = processes.all_services = lambda: (idle,)

def up():
    processes.start(idle)
    print("started", flush=True)
    time.sleep(float(sys.argv[1]))

main.up = up
with report_errors():
    main.up_and_wait()
"""
IDLE = Service("idle", ())


def stay(seconds_to_start: float = 0) -> subprocess.Popen:
    """Run `up --wait` with one idle service, which has been started."""
    command = (*python(STAY), str(seconds_to_start))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("seconds_to_start", [0, 60], ids=["when up", "on its way up"])
def test_services_that_were_stayed_with_end_when_told(work_dir: Path, number: int, seconds_to_start: int) -> None:
    with stay(seconds_to_start) as process:
        assert is_running(IDLE)
        process.send_signal(number)
        assert process.communicate() == ("idle       ended\n", "") and process.returncode == 0
    assert not IDLE.pid_file.exists()


def test_services_that_were_stayed_with_end_when_one_dies(work_dir: Path) -> None:
    with stay() as process:
        kill(IDLE)
        remedy = "see the end of .services/idle.log, then make up again"
        reply = process.communicate()
        assert reply == ("idle       ended\n", f"landuse: idle has died, so all were ended: {remedy}\n")
        assert process.returncode == 1


def test_only_up_can_stay(work_dir: Path) -> None:
    done = subprocess.run((sys.executable, "-m", "pipelines", "down", "--wait"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith("error: --wait goes with up only\n")
