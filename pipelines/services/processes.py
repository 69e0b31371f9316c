"""The processes that keep a project fresh: Prefect server, MLflow server, a worker and a watcher of inbox/.

All on 127.0.0.1. Each has a log and a note of its process in `.services/`.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from landuse.core.auth import known_by, login
from landuse.core.errors import LanduseError
from landuse.core.paths import DEFAULT_STORE, LOGIN, SERVICES, SQLITE, tracking_uri
from landuse.core.process import DEATH_SECONDS, PID, end_group, is_here, is_member, note, noted
from landuse.core.proxies import hidden
from pipelines.services.ports import LOOPBACK, listener, listeners
from pipelines.services.settings import SETTINGS

POOL = "landuse"
HEARTBEAT_SECONDS = 30
START_SECONDS = 90
STOP_SECONDS = 20
ANSWER_SECONDS = 5
PORT = "port"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Service:
    """A process of the project; a server has a port that says on `health` whether it is well.

    `private` is a path that it shows to nobody who does not know the login.
    """

    name: str
    command: tuple[str, ...]
    port: str = ""
    health: str = ""
    port_variable: str = ""
    private: str = ""

    @property
    def note(self) -> Path:
        """Where its process is noted."""
        return SERVICES / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return SERVICES / f"{self.name}.log"

    @property
    def address(self) -> str:
        """Where a server is reached."""
        return f"http://{LOOPBACK}:{self.port}"


def port_of(variable: str, usual: str) -> str:
    """The port that a variable names. Raises LanduseError where that is no number of a port."""
    port = os.environ.get(variable, usual)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise LanduseError(f"{variable} = {port}: set it to a free port, 1 to 65535")
    return port


def prefect_server() -> Service:
    """The server that knows deployments, schedules and runs."""
    port = port_of("LANDUSE_PREFECT_PORT", "4200")
    command = ("uvicorn", "--factory", "pipelines.services.prefect_server:app", "--host", LOOPBACK, "--port", port)
    return Service("prefect", command, port, "/api/health", "LANDUSE_PREFECT_PORT", "/api/admin/version")


def mlflow_server() -> Service:
    """The server of runs and registry, on the same store that bare `dvc repro` writes to."""
    port = port_of("LANDUSE_MLFLOW_PORT", "5000")
    store = ("--no-serve-artifacts", "--default-artifact-root", "./mlruns")
    command = (
        "mlflow",
        "server",
        "--app-name",
        "landuse",
        "--host",
        LOOPBACK,
        "--port",
        port,
        "--workers",
        "1",
        *store,
    )
    return Service("mlflow", command, port, "/health", "LANDUSE_MLFLOW_PORT", "/")


def every_service() -> tuple[Service, ...]:
    """All that `up` may have started, in this order."""
    worker = Service("worker", ("python", "-m", "pipelines", "work"))
    inbox = Service("inbox", ("python", "-m", "pipelines", "watch"))
    return (prefect_server(), mlflow_server(), worker, inbox)


def services() -> tuple[Service, ...]:
    """What `up` starts: the MLflow server only where the store is ours to serve."""
    left_out = mlflow_server().name if is_elsewhere() else None
    return tuple(service for service in every_service() if service.name != left_out)


def store_address() -> str:
    """What `MLFLOW_TRACKING_URI` names, else the store of the project: the same from whatever folder."""
    return absolute(tracking_uri())


def absolute(uri: str) -> str:
    """The address of a store, that of a file from the root on."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def is_elsewhere() -> bool:
    """Whether `MLFLOW_TRACKING_URI` names another store than the file beside the project, which is ours to serve."""
    own = (absolute(DEFAULT_STORE), mlflow_server().address, mlflow_server().address.replace(LOOPBACK, "localhost"))
    return store_address() not in own


def is_dead(service: Service) -> bool:
    """Whether a service was started, and is gone without having been ended."""
    return bool(noted(service.note)) and not is_running(service)


def environment() -> dict[str, str]:
    """That of every service and flow: this project's servers with their login, this Python.

    A proxy that Prefect cannot go through is hidden from it: what it asks is on this machine.
    """
    secret, home = login(), (SERVICES / "prefect").resolve()
    store = {"MLFLOW_TRACKING_URI": store_address()} if is_elsewhere() else own_store(secret)
    return (
        os.environ
        | hidden()
        | SETTINGS
        | store
        | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PREFECT_HOME": str(home),
            "PREFECT_PROFILES_PATH": f"{home}/profiles.toml",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
            "PREFECT_API_URL": f"{prefect_server().address}/api",
            "PREFECT_API_AUTH_STRING": secret,
            "PREFECT_SERVER_API_AUTH_STRING": secret,
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": prefect_server().address,
            "PREFECT_SERVER_UI_API_URL": "/api",  # of whatever address the browser has, as through a tunnel
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_BACKEND_STORE_URI": DEFAULT_STORE,  # of the MLflow server
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )


def own_store(secret: str) -> dict[str, str]:
    """The MLflow server of the project, and its login in place of one that the user has for another."""
    user, _, password = secret.partition(":")
    known = {"USERNAME": user, "PASSWORD": password, "TOKEN": "", "AUTH": "", "AWS_SIGV4": "false"}
    own = {"URI": mlflow_server().address} | known
    return {f"MLFLOW_TRACKING_{name}": value for name, value in own.items()}


def is_up(service: Service) -> bool:
    """Whether its process is at work and, if it is a server, answers.

    Raises LanduseError where it is at work on another port: on this one there may be the server of another project.
    """
    if not is_running(service):
        return False
    port = noted(service.note).get(PORT, service.port)
    if port != service.port:
        remedy = f"set it to {port}, or make down first"
        raise LanduseError(f"{service.port_variable} = {service.port}: {service.name} is up on port {port}; {remedy}")
    return not service.port or (answers(service) and is_listening(service))


def is_listening(service: Service) -> bool:
    """Whether the port is held by the service, not by another program that was there first.

    macOS tells that to root alone; there nothing is known of it.
    """
    leader = int(noted(service.note)[PID])
    try:
        return any(pid and is_member(psutil.Process(pid), leader) for pid in listeners(service.port))
    except psutil.AccessDenied:
        return True


def is_running(service: Service) -> bool:
    """Whether the noted process is still there; a note that came along from another machine is of none here."""
    return is_here(noted(service.note))


def answers(service: Service) -> bool:
    """Whether somebody says on the port of a server that all is well."""
    return status_of(Request(service.address + service.health)) == 200


def status_of(request: Request) -> int | None:
    """The status with which a server on this machine answers; None where there is no answer."""
    direct = build_opener(ProxyHandler({}))
    try:
        with direct.open(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status
    except HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def refuse_other_login(service: Service) -> None:
    """Raise LanduseError where a server shows what is private without the login of the project, or not with it.

    The one was started by an earlier version of this project, the other before the login was made anew.
    """
    if not service.private:
        return
    address, known = service.address + service.private, {"Authorization": known_by(login())}
    if status_of(Request(address)) != 401 or status_of(Request(address, headers=known)) == 401:
        raise LanduseError(f"{service.name} does not ask for the login in {LOGIN}: make down, then make up")


def start(service: Service) -> None:
    """Start a service unless it is up; returns when it answers.

    Raises LanduseError where its port is taken, or it does not come up in time; its log is named.
    """
    if is_running(service):
        wait_for(service)
        return refuse_other_login(service)
    refuse_taken_port(
        service, patience=DEATH_SECONDS if end_rest(service) else 0
    )  # of several threads the last frees it
    with service.log.open("a") as log:
        process = subprocess.Popen(
            service.command, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        note(service.note, process.pid, **{PORT: service.port})
    except OSError:  # nobody could end later what has no note
        process.kill()
        process.wait()
        raise
    wait_for(service)
    refuse_other_login(service)


def refuse_taken_port(service: Service, patience: float = 0) -> None:
    """Raise LanduseError where another program holds the port, and does so for as many seconds."""
    end = time.monotonic() + patience
    while service.port and (holder := listener(service.port)):
        if time.monotonic() > end:
            remedy = f"end it, or set {service.port_variable} to a free port"
            raise LanduseError(f"port {service.port} is taken by {holder}: {remedy}")
        time.sleep(0.02)


def wait_for(service: Service) -> None:
    """Wait until a service is up. Raises LanduseError where it ends, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while not is_up(service):
        if not is_running(service):
            raise LanduseError(f"{service.name} did not start: see the end of {service.log}, then run make up again")
        if time.monotonic() > end:
            raise LanduseError(f"{service.name} does not answer: see the end of {service.log}; make down, then make up")
        time.sleep(0.2)


def end_rest(service: Service) -> bool:
    """Kill what outlived a service that was killed, so that it holds no port; whether there was anything."""
    tags = noted(service.note)
    return bool(tags) and end_group(tags)


def end_family(leader: psutil.Process) -> None:
    """End a process and all it started: asked first, killed after a while."""
    family = [*leader.children(recursive=True), leader]
    leader.terminate()
    _, stubborn = psutil.wait_procs(family, STOP_SECONDS)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def stop(service: Service) -> bool:
    """End a service and all it started, if it is there; whether it was there."""
    was_there = is_running(service)
    if was_there:
        with suppress(psutil.NoSuchProcess):  # it may end at any moment
            end_family(psutil.Process(int(noted(service.note)[PID])))
    was_there |= end_rest(service)
    service.note.unlink(missing_ok=True)
    return was_there
