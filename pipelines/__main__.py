"""`python -m pipelines up | down | status | ui | next`, as called by `make`; `up` starts `work` and `watch`.

`up --wait` is for a container: it stays until it is told to end, or a service dies.
"""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Thread
from types import FrameType

import psutil

from landuse.core.addresses import public
from landuse.core.environment import restrict_permissions, sanitize_environment
from landuse.core.errors import LanduseError, Unavailable, report_errors
from landuse.core.paths import DEFAULT_STORE, INBOX, LOGIN, SERVICES, absolute_tracking_uri
from landuse.core.process import kill_group, termination_signals
from landuse.core.streams import open_closed_streams
from landuse.params import load_params
from landuse.recovery import recover_interrupted
from pipelines.services import processes, team_server
from pipelines.services.locks import file_lock

LOCK = SERVICES / "up.lock"
SERVER_POLL_SECONDS = 0.1
SERVICE_POLL_SECONDS = 1
LOGIN_HINT = f"log in with {LOGIN}, which is user:password"


def up() -> None:
    """Start the services that are not up yet, and print their addresses.

    Raises LanduseError or Unavailable if the team's Prefect server cannot be used.
    """
    INBOX.mkdir(exist_ok=True)
    if not processes.is_store_external():
        from landuse.tracking.backend_store import refuse_unfit_local_store

        refuse_unfit_local_store()
    if any(processes.is_dead(service) for service in processes.all_services() if service.port):
        renew_login()  # before Prefect is imported, which reads it once
    from pipelines.services.deploy import deploy
    from pipelines.services.orphans import crash_orphaned_runs
    from pipelines.services.status import wait_for_plan

    if team_server.is_named():
        team_server.check()
    else:
        processes.start(processes.prefect_server())
    deploy()
    crash_orphaned_runs()
    for service in processes.services():
        processes.start(service)
    wait_for_plan()
    status()


def down() -> None:
    """Stop what `up` started, in reverse order."""
    for service in reversed(processes.all_services()):
        print(f"{service.name:<10} {'ended' if processes.stop(service) else 'was not up'}")


def up_and_wait() -> None:
    """Start the services and stay until told to end, or until one of them dies; then end them all.

    Raises LanduseError if one dies.
    """
    when_told(exit_quietly)
    try:
        run_exclusively(up)
        wait_for_death()
    finally:
        when_told(signal.SIG_IGN)
        run_exclusively(down)


def when_told(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Set the handler of Ctrl-C, SIGTERM and a closed terminal."""
    for number in (signal.SIGINT, *termination_signals()):
        signal.signal(number, handler)


def exit_quietly(number: int, frame: FrameType | None) -> None:
    """Handle a signal: exit without an error."""
    sys.exit()


def wait_for_death() -> None:
    """Wait until a service dies. Raises LanduseError, which names it."""
    while not (dead := [service for service in processes.services() if not processes.is_running(service)]):
        time.sleep(SERVICE_POLL_SECONDS)
    raise LanduseError(f"{dead[0].name} has died, so all were ended: see the end of {dead[0].log}, then make up again")


def renew_login() -> None:
    """Stop everything and make a new login: services that outlived a dead server may have leaked the old one."""
    down()
    LOGIN.unlink(missing_ok=True)
    os.environ.update(processes.environment())


def run_exclusively(work: Callable[[], None]) -> None:
    """Run what starts or stops services under a lock; a second caller waits."""
    SERVICES.mkdir(exist_ok=True)
    with file_lock(LOCK, "another make up or make down", partial(print, flush=True)):
        work()


def status() -> None:
    """Print what is up, what is scheduled, and what ran last. Raises LanduseError if a service is not up.

    The team's servers are only asked whether they answer.
    """
    missing, problems = [], check_team_servers()
    for service in processes.services():
        is_up = processes.is_up(service)
        missing += [] if is_up else [service.name]
        print_state(service.name, is_up, service.address if service.port else str(service.log))
    if "prefect" not in {*missing, *problems}:
        from pipelines.services.status import overview

        print(overview(), flush=True)
    if any(service.port for service in processes.services() if service.name not in missing):
        print(f"{'browser':<10} {LOGIN_HINT}", flush=True)
    if missing:
        raise LanduseError(f"{', '.join(missing)} not up: make up starts what is missing")
    if problems:
        raise Unavailable("; ".join(problems.values()))


def print_state(name: str, is_up: bool, place: str) -> None:
    """Print whether a service is up, and where."""
    print(f"{name:<10} {'up' if is_up else 'DOWN':<6} {place}", flush=True)


def ui() -> None:
    """Run an MLflow server of the store until Ctrl-C.

    Raises LanduseError if a server already has the store or the port.
    """
    server = processes.mlflow_server()
    store = absolute_tracking_uri() if processes.is_store_external() else DEFAULT_STORE
    from landuse.tracking.backend_store import DATABASES

    if store.startswith("http"):
        raise LanduseError(f"MLFLOW_TRACKING_URI names a server: open {public(store)} in a browser")
    if store.partition(":")[0].partition("+")[0] not in DATABASES:
        raise LanduseError(
            f"MLFLOW_TRACKING_URI = {public(store)}: make ui shows a database, such as sqlite:///mlflow.db"
        )
    if processes.is_up(server):
        raise LanduseError(f"make up shows it at {server.address} already: {LOGIN_HINT}")
    processes.refuse_taken_port(server)
    print(f"{server.address} shows runs and models until Ctrl-C: {LOGIN_HINT}", flush=True)
    serve_until_told(server.command, os.environ | {"MLFLOW_BACKEND_STORE_URI": store})


def next_steps() -> None:
    """Print what the gate decided last, and what makes sense now."""
    from pipelines.steps.next_steps import next_steps as describe

    print(describe(), flush=True)


def serve_until_told(command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Run a server until this process is told to end, or exit with the server's code if it ends by itself.

    It is in a session of its own and gets SIGTERM, since at Ctrl-C it would print a traceback.
    """
    when_told(exit_quietly)
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        sys.exit(server.wait())
    finally:
        when_told(signal.SIG_IGN)
        with suppress(psutil.NoSuchProcess):
            processes.terminate_tree(psutil.Process(server.pid))
        kill_group(server.pid)


def check_team_servers() -> dict[str, str]:
    """Print whether each server of the team answers; return the error messages of those that do not."""
    problems: dict[str, str] = {}
    for name, is_used, address, check in (
        ("prefect", team_server.is_named(), team_server.api_url, team_server.check),
        ("mlflow", processes.is_store_external(), absolute_tracking_uri, check_store),
    ):
        if is_used:
            try:
                check()
            except LanduseError as error:
                problems[name] = str(error)
            print_state(name, name not in problems, public(address()))
    return problems


def check_store() -> None:
    """Raise LanduseError if the MLflow store cannot be used."""
    from landuse import tracking

    with tracking.store():
        pass


def watch() -> None:
    """Watch inbox/. Never returns."""
    from pipelines.services import inbox

    inbox.watch(load_params().pipelines.settle_seconds)


def work() -> None:
    """Run the Prefect worker, which ends with the server of `up` if it uses that one. Never returns."""
    from prefect.cli import app

    if not team_server.is_named():
        exit_with_server()
    sys.argv = ["prefect", "worker", "start", "--pool", processes.POOL, "--name", team_server.worker_name()]
    app()


def exit_with_server() -> None:
    """Kill this process, and the group it leads, once the server is gone: another program may then take its port.

    Another user's server would receive the login, and could make the worker run its code.
    """

    def watch_server() -> None:
        while processes.is_running(processes.prefect_server()):
            time.sleep(SERVER_POLL_SECONDS)
        kill_group(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch_server, name="server", daemon=True).start()


def main() -> None:
    """Run the requested verb; an error that the user can fix becomes one line and its exit code."""
    exclusive = {"up": partial(run_exclusively, up), "down": partial(run_exclusively, down)}
    verbs = exclusive | {"status": status, "ui": ui, "next": next_steps, "watch": watch, "work": work}
    parser = ArgumentParser("python -m pipelines")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--wait", action="store_true", help="with up: stay until a service dies, or end them when told")
    arguments = parser.parse_args()
    if arguments.wait and arguments.verb != "up":
        parser.error("--wait goes with up only")
    run = up_and_wait if arguments.wait else verbs[arguments.verb]
    open_closed_streams()
    with report_errors():
        sanitize_environment()
        restrict_permissions()
        try:
            if run is not next_steps:  # it reads the store that `landuse` uses, whether servers are up or not
                os.environ.update(processes.environment())
            recover_interrupted()
            run()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough, and the interpreter must not flush again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
