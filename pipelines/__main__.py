"""`python -m pipelines up | down | status | ui`, as called by `make`; `up` starts `work` and `watch`."""

import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from threading import Thread

from landuse.core.addresses import public
from landuse.core.environment import restrict_permissions, sanitize_environment
from landuse.core.errors import LanduseError, Unavailable, report_errors
from landuse.core.paths import DEFAULT_STORE, INBOX, LOGIN, SERVICES
from landuse.core.process import kill_group
from landuse.core.streams import open_closed_streams
from landuse.params import load_params
from landuse.recovery import recover_interrupted
from pipelines.services import processes
from pipelines.services.locks import file_lock

LOCK = SERVICES / "up.lock"
SERVER_POLL_SECONDS = 0.1
LOGIN_HINT = f"log in with {LOGIN}, which is user:password"


def up() -> None:
    """Start the services that are not up yet, and print their addresses."""
    INBOX.mkdir(exist_ok=True)
    if not processes.is_store_external():
        from landuse.tracking.backend_store import refuse_unfit_local_store

        refuse_unfit_local_store()
    if any(processes.is_dead(service) for service in processes.all_services() if service.port):
        renew_login()  # before Prefect is imported, which reads it once
    from pipelines.services.deploy import deploy
    from pipelines.services.orphans import crash_orphaned_runs
    from pipelines.services.status import wait_for_plan

    server, *others = processes.services()
    processes.start(server)
    deploy()
    crash_orphaned_runs()
    for service in others:
        processes.start(service)
    wait_for_plan()
    status()


def down() -> None:
    """Stop what `up` started, in reverse order."""
    for service in reversed(processes.all_services()):
        print(f"{service.name:<10} {'ended' if processes.stop(service) else 'was not up'}")


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

    An external store is only asked whether it answers.
    """
    missing, problem = [], check_store() if processes.is_store_external() else ""
    for service in processes.services():
        is_up = processes.is_up(service)
        missing += [] if is_up else [service.name]
        place = service.address if service.port else service.log
        print(f"{service.name:<10} {'up' if is_up else 'DOWN':<6} {place}", flush=True)
    if "prefect" not in missing:
        from pipelines.services.status import overview

        print(overview(), flush=True)
        print(f"{'browser':<10} {LOGIN_HINT}", flush=True)
    if missing:
        raise LanduseError(f"{', '.join(missing)} not up: make up starts what is missing")
    if problem:
        raise Unavailable(problem)


def ui() -> None:
    """Replace this process by an MLflow server of the store, until Ctrl-C.

    Raises LanduseError if a server already has the store or the port.
    """
    server = processes.mlflow_server()
    store = processes.store_address() if processes.is_store_external() else DEFAULT_STORE
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
    os.execvpe(server.command[0], server.command, os.environ | {"MLFLOW_BACKEND_STORE_URI": store})


def check_store() -> str:
    """Print whether the external MLflow store answers; return the error message, empty if it does."""
    from landuse import tracking

    problem = ""
    try:
        with tracking.store():
            pass
    except LanduseError as error:
        problem = str(error)
    print(f"{'mlflow':<10} {'DOWN' if problem else 'up':<6} {public(processes.store_address())}", flush=True)
    return problem


def watch() -> None:
    """Watch inbox/. Never returns."""
    from pipelines.services import inbox

    inbox.watch(load_params().pipelines.settle_seconds)


def work() -> None:
    """Run the Prefect worker as long as the server runs. Never returns."""
    from prefect.cli import app

    exit_with_server()
    sys.argv = ["prefect", "worker", "start", "--pool", processes.POOL, "--name", processes.POOL]
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
    verbs = exclusive | {"status": status, "ui": ui, "watch": watch, "work": work}
    parser = ArgumentParser("python -m pipelines")
    parser.add_argument("verb", choices=verbs)
    verb = parser.parse_args().verb
    open_closed_streams()
    with report_errors():
        sanitize_environment()
        restrict_permissions()
        try:
            os.environ.update(processes.environment())
            recover_interrupted()
            verbs[verb]()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough, and the interpreter must not flush again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
