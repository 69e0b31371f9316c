"""The services of `make up`: Prefect server, MLflow server, a worker and a watcher of inbox/.

All listen on 127.0.0.1 only. Each has a log and a PID file in `.services/`.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, Request

import psutil

from landuse.core.auth import authorization_header, login
from landuse.core.errors import LanduseError
from landuse.core.paths import DEFAULT_STORE, LOGIN, SERVICES, absolute_tracking_uri, absolute_uri
from landuse.core.process import (
    DEATH_SECONDS,
    PID,
    end_group,
    is_in_group,
    is_running_here,
    read_json_or_empty,
    record_process,
)
from landuse.core.proxies import hide_unsupported_proxies
from pipelines.services import team_server
from pipelines.services.health import http_status
from pipelines.services.ports import LOOPBACK, listener, listening_pids
from pipelines.services.settings import SETTINGS, project_settings, to_variables

POOL = "landuse"
HEARTBEAT_SECONDS = 30
START_SECONDS = 90
STOP_SECONDS = 20
PORT = "port"  # key in the PID file
BIN = Path(sys.executable).parent
NO_PROXY = ProxyHandler({})  # for requests to this machine


@dataclass(frozen=True)
class Service:
    """A process of the project. A server also has a port, a health endpoint and a path that requires the login."""

    name: str
    command: tuple[str, ...]
    port: str = ""
    health: str = ""
    port_variable: str = ""
    private: str = ""

    @property
    def pid_file(self) -> Path:
        """File that identifies the process."""
        return SERVICES / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File that takes stdout and stderr."""
        return SERVICES / f"{self.name}.log"

    @property
    def address(self) -> str:
        """Base URL of a server."""
        return f"http://{LOOPBACK}:{self.port}"


def read_port(variable: str, default: str) -> str:
    """Return the port that an environment variable sets. Raises LanduseError if it is not a port number."""
    port = os.environ.get(variable, default)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise LanduseError(f"{variable} = {port}: set it to a free port, 1 to 65535")
    return port


def prefect_server() -> Service:
    """Server of deployments, schedules and runs."""
    port = read_port("LANDUSE_PREFECT_PORT", "4200")
    command = ("uvicorn", "--factory", "pipelines.services.prefect_server:app", "--host", LOOPBACK, "--port", port)
    return Service("prefect", command, port, "/api/health", "LANDUSE_PREFECT_PORT", "/api/admin/version")


def mlflow_server() -> Service:
    """Server of runs and registry, on the store that a bare `dvc repro` writes to."""
    port = read_port("LANDUSE_MLFLOW_PORT", "5000")
    listen = ("--host", LOOPBACK, "--port", port, "--workers", "1")
    store = ("--no-serve-artifacts", "--default-artifact-root", "./mlruns")
    command = ("mlflow", "server", "--app-name", "landuse", *listen, *store)
    return Service("mlflow", command, port, "/health", "LANDUSE_MLFLOW_PORT", "/")


def all_services() -> tuple[Service, ...]:
    """Return every service that `up` may have started, in start order."""
    worker = Service("worker", ("python", "-m", "pipelines", "work"))
    inbox = Service("inbox", ("python", "-m", "pipelines", "watch"))
    return (prefect_server(), mlflow_server(), worker, inbox)


def services() -> tuple[Service, ...]:
    """Return the services that `up` starts: no server in place of which the team has one."""
    external = {mlflow_server(): is_store_external(), prefect_server(): team_server.is_named()}
    return tuple(service for service in all_services() if not external.get(service))


def is_store_external() -> bool:
    """Return True if `MLFLOW_TRACKING_URI` names a store other than the project's own, which it serves itself."""
    own = (absolute_uri(DEFAULT_STORE), mlflow_server().address, mlflow_server().address.replace(LOOPBACK, "localhost"))
    return absolute_tracking_uri() not in own


def is_dead(service: Service) -> bool:
    """Return True if a service was started and died without being stopped."""
    return bool(read_json_or_empty(service.pid_file)) and not is_running(service)


def environment(with_server: bool = True) -> dict[str, str]:
    """Return the environment of every service and flow: the servers and their login, and this Python.

    A proxy that Prefect cannot use is hidden from it: no request of its own passes one. Without a server, flows use a
    temporary one of their own.
    """
    secret, server = login(), prefect_server()
    project = project_settings((SERVICES / "prefect").resolve(), secret, server.address, HEARTBEAT_SECONDS)
    store = {"MLFLOW_TRACKING_URI": absolute_tracking_uri()} if is_store_external() else own_store_settings(secret)
    return (
        os.environ
        | hide_unsupported_proxies()
        | to_variables(SETTINGS | project | server_settings(with_server))
        | store
        | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "MLFLOW_BACKEND_STORE_URI": DEFAULT_STORE,  # read by the MLflow server
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )


def server_settings(with_server: bool) -> dict[str, str]:
    """Return Prefect's settings that say where the server is (the team's, or ours), or how to start a temporary one."""
    if team_server.is_named():
        return team_server.settings()
    if with_server:
        return {"api.url": f"{prefect_server().address}/api", "ui_url": f"{prefect_server().address}/v2"}
    # Ctrl-C ends the temporary server too: do not wait for it.
    return {"server.ephemeral.startup_timeout_seconds": str(START_SECONDS), "client.max_retries": "1"}


def own_store_settings(secret: str) -> dict[str, str]:
    """Return the tracking variables of the project's MLflow server, in place of the user's login for another one."""
    user, _, password = secret.partition(":")
    credentials = {"USERNAME": user, "PASSWORD": password, "TOKEN": "", "AUTH": "", "AWS_SIGV4": "false"}
    settings = {"URI": mlflow_server().address} | credentials
    return {f"MLFLOW_TRACKING_{name}": value for name, value in settings.items()}


def is_up(service: Service) -> bool:
    """Return True if the process is running and, if it is a server, healthy.

    Raises LanduseError if it runs on another port: the configured one may belong to the server of another project.
    """
    if not is_running(service):
        return False
    port = read_json_or_empty(service.pid_file).get(PORT, service.port)
    if port != service.port:
        remedy = f"set it to {port}, or make down first"
        raise LanduseError(f"{service.port_variable} = {service.port}: {service.name} is up on port {port}; {remedy}")
    return not service.port or (is_healthy(service) and is_listening(service))


def is_listening(service: Service) -> bool:
    """Return True if the service itself holds its port, not another program that was there first.

    On macOS only root can tell; the answer there is True.
    """
    leader = int(read_json_or_empty(service.pid_file)[PID])
    try:
        return any(pid and is_in_group(psutil.Process(pid), leader) for pid in listening_pids(service.port))
    except psutil.AccessDenied:
        return True


def is_running(service: Service) -> bool:
    """Return True if the process in the PID file is alive; a PID file from another machine does not count."""
    return is_running_here(read_json_or_empty(service.pid_file))


def is_healthy(service: Service) -> bool:
    """Return True if the health endpoint of a server answers with 200, whichever process that is."""
    return http_status(Request(service.address + service.health), NO_PROXY) == 200


def check_login(service: Service) -> None:
    """Raise LanduseError if a server's private path opens without the project's login, or not with it.

    The first was started by an earlier version of this project, the second before the login was renewed.
    """
    if not service.private:
        return
    address, credentials = service.address + service.private, {"Authorization": authorization_header(login())}
    status, signed_in = (http_status(Request(address, headers=each), NO_PROXY) for each in ({}, credentials))
    if status != 401 or signed_in == 401:
        raise LanduseError(f"{service.name} does not ask for the login in {LOGIN}: make down, then make up")


def start(service: Service) -> None:
    """Start a service and wait until it is up. Raises LanduseError if its port is taken or it fails to start."""
    if is_running(service):
        wait_for(service)
        return check_login(service)
    # The port is free only after the last thread of what was killed has ended.
    refuse_taken_port(service, patience=DEATH_SECONDS if kill_leftovers(service) else 0)
    with service.log.open("a") as log:
        process = subprocess.Popen(
            service.command, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        record_process(service.pid_file, process.pid, **{PORT: service.port})
    except OSError:  # without a PID file nobody could stop it later
        process.kill()
        process.wait()
        raise
    wait_for(service)
    check_login(service)


def refuse_taken_port(service: Service, patience: float = 0) -> None:
    """Raise LanduseError if another program still holds the port after `patience` seconds."""
    deadline = time.monotonic() + patience
    while service.port and (holder := listener(service.port)):
        if time.monotonic() > deadline:
            remedy = f"end it, or set {service.port_variable} to a free port"
            raise LanduseError(f"port {service.port} is taken by {holder}: {remedy}")
        time.sleep(0.02)


def wait_for(service: Service) -> None:
    """Wait until a service is up. Raises LanduseError if it exits or takes longer than START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while not is_up(service):
        if not is_running(service):
            raise LanduseError(f"{service.name} did not start: see the end of {service.log}, then run make up again")
        if time.monotonic() > deadline:
            raise LanduseError(f"{service.name} does not answer: see the end of {service.log}; make down, then make up")
        time.sleep(0.2)


def kill_leftovers(service: Service) -> bool:
    """Kill the children that outlived a killed service, to free its port; return True if there were any."""
    tags = read_json_or_empty(service.pid_file)
    return bool(tags) and end_group(tags)


def terminate_tree(leader: psutil.Process) -> None:
    """Terminate a process with its descendants; kill those that are still alive after STOP_SECONDS."""
    family = [*leader.children(recursive=True), leader]
    leader.terminate()
    _, survivors = psutil.wait_procs(family, STOP_SECONDS)
    for process in survivors:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def stop(service: Service) -> bool:
    """Stop a service and everything it started; return True if anything was running."""
    was_running = is_running(service)
    if was_running:
        with suppress(psutil.NoSuchProcess):  # it may exit at any moment
            terminate_tree(psutil.Process(int(read_json_or_empty(service.pid_file)[PID])))
    was_running |= kill_leftovers(service)
    service.pid_file.unlink(missing_ok=True)
    return was_running
