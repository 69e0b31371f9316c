"""The processes that keep a project fresh: Prefect server, MLflow server, a worker and a watcher of inbox/.

All on 127.0.0.1. Each has a log and a note of its process in `.services/`.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from urllib.request import ProxyHandler, build_opener

import psutil

from landuse.errors import LanduseError
from landuse.paths import DEFAULT_STORE, SERVICES, SQLITE, tracking_uri
from landuse.process import DEATH_SECONDS, PID, end_group, is_here, note, noted

HOST = "127.0.0.1"
POOL = "landuse"
HEARTBEAT_SECONDS = 30
START_SECONDS = 90
STOP_SECONDS = 20
PORT = "port"
SHOWN_CHARACTERS = 100
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Service:
    """A process of the project; a server has a port that says on `health` whether it is well."""

    name: str
    command: tuple[str, ...]
    port: str = ""
    health: str = ""
    port_variable: str = ""

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
        return f"http://{HOST}:{self.port}"


def port_of(variable: str, usual: str) -> str:
    """The port that a variable names. Raises LanduseError where that is no number of a port."""
    port = os.environ.get(variable, usual)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise LanduseError(f"{variable} = {port}: set it to a free port, 1 to 65535")
    return port


def prefect_server() -> Service:
    """The server that knows deployments, schedules and runs."""
    port = port_of("LANDUSE_PREFECT_PORT", "4200")
    command = ("python", "-m", "pipelines.prefect_server", "--host", HOST, "--port", port)
    return Service("prefect", command, port, "/api/health", "LANDUSE_PREFECT_PORT")


def mlflow_server() -> Service:
    """The server of runs and registry, on the same store that bare `dvc repro` writes to."""
    port = port_of("LANDUSE_MLFLOW_PORT", "5000")
    store = ("--backend-store-uri", DEFAULT_STORE, "--no-serve-artifacts", "--default-artifact-root", "./mlruns")
    command = ("mlflow", "server", "--host", HOST, "--port", port, "--workers", "1", *store)
    return Service("mlflow", command, port, "/health", "LANDUSE_MLFLOW_PORT")


def every_service() -> tuple[Service, ...]:
    """All that `up` may have started, in this order."""
    worker = Service("worker", ("prefect", "worker", "start", "--pool", POOL, "--name", POOL))
    inbox = Service("inbox", ("python", "-m", "pipelines.inbox"))
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
    own = (absolute(DEFAULT_STORE), mlflow_server().address, mlflow_server().address.replace(HOST, "localhost"))
    return store_address() not in own


def environment() -> dict[str, str]:
    """That of every service and flow: this project's servers, this Python.

    What is on this machine is asked directly, also where the data set comes through a proxy.
    """
    store = store_address() if is_elsewhere() else mlflow_server().address
    direct = ",".join(dict.fromkeys([*filter(None, unproxied().split(",")), HOST, "localhost"]))
    return os.environ | {
        "no_proxy": direct,
        "NO_PROXY": direct,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PREFECT_HOME": str((SERVICES / "prefect").resolve()),
        "PREFECT_API_URL": f"{prefect_server().address}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def unproxied() -> str:
    """The hosts that the user has asked without the proxy."""
    return os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")


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
    return not service.port or answers(service)


def is_running(service: Service) -> bool:
    """Whether the noted process is still there; a note that came along from another machine is of none here."""
    return is_here(noted(service.note))


def answers(service: Service) -> bool:
    """Whether somebody says on the port of a server that all is well."""
    direct = build_opener(ProxyHandler({}))
    with suppress(OSError), direct.open(service.address + service.health, timeout=5) as answer:
        return answer.status == 200
    return False


def start(service: Service) -> None:
    """Start a service unless it is up; returns when it answers.

    Raises LanduseError where its port is taken, or it does not come up in time; its log is named.
    """
    if is_running(service):
        return wait_for(service)
    patience = time.monotonic() + (DEATH_SECONDS if end_rest(service) else 0)  # of several threads the last frees it
    while service.port and (holder := listener(service.port)):
        if time.monotonic() > patience:
            remedy = f"end it, or set {service.port_variable} to a free port"
            raise LanduseError(f"port {service.port} is taken by {holder}: {remedy}")
        time.sleep(0.02)
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


def listener(port: str) -> str | None:
    """Which program listens on the port, if one does; that of another user is not known by its number."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells root alone
        return None if is_free(port) else "another program"
    for each in connections:
        if each.laddr.port == int(port) and each.status == psutil.CONN_LISTEN:
            return f"process {each.pid} ({command_of(each.pid)})" if each.pid else "another user's program"
    return None


def is_free(port: str) -> bool:
    """Whether a server could listen on the port."""
    with suppress(OSError), socket.create_server((HOST, int(port))):
        return True
    return False


def command_of(pid: int) -> str:
    """The beginning of the command line of a process."""
    with suppress(psutil.Error):
        return shorten(" ".join(psutil.Process(pid).cmdline()), SHOWN_CHARACTERS)
    return "it has just ended"


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
