"""`python -m pipelines up | down | status | ui`, as `make` calls it; `up` starts `work` and `watch`."""

import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from threading import Thread

from landuse.core.addresses import public
from landuse.core.environment import keep_from_others, own_environment
from landuse.core.errors import LanduseError, Unavailable, in_one_line
from landuse.core.paths import DEFAULT_STORE, INBOX, LOGIN, SERVICES
from landuse.core.process import kill_group
from landuse.core.streams import open_closed_streams
from landuse.params import load_params
from landuse.recovery import recover_killed
from pipelines.services import processes
from pipelines.services.locks import held

LOCK = SERVICES / "up.lock"
SERVER_SECONDS = 0.1  # between two looks at whether the server is at work
LOG_IN = f"log in with {LOGIN}, which is user:password"


def up() -> None:
    """Start what is not up yet, and say where everything is."""
    INBOX.mkdir(exist_ok=True)
    if not processes.is_elsewhere():
        from landuse.tracking.backend_store import refuse_unfit_own_store

        refuse_unfit_own_store()
    if any(processes.is_dead(service) for service in processes.every_service() if service.port):
        renew_login()  # before Prefect is imported, which reads it once
    from pipelines.services.deploy import deploy
    from pipelines.services.orphans import end_lost_runs
    from pipelines.services.status import wait_for_plan

    server, *others = processes.services()
    processes.start(server)
    deploy()
    end_lost_runs()
    for service in others:
        processes.start(service)
    wait_for_plan()
    status()


def down() -> None:
    """End what `up` started, the last first."""
    for service in reversed(processes.every_service()):
        print(f"{service.name:<10} {'ended' if processes.stop(service) else 'was not up'}")


def renew_login() -> None:
    """End everything and make a new login: what lived on beside a dead server may have told the old one to others."""
    down()
    LOGIN.unlink(missing_ok=True)
    os.environ.update(processes.environment())


def in_turn(work: Callable[[], None]) -> None:
    """Do what starts or ends services; who comes meanwhile waits."""
    SERVICES.mkdir(exist_ok=True)
    with held(LOCK, "another make up or make down", partial(print, flush=True)):
        work()


def status() -> None:
    """What is up, what is scheduled, and what ran last. Raises LanduseError where something is not up.

    Of a store that is not ours to serve it is only asked whether it answers.
    """
    missing, complaint = [], ask_store() if processes.is_elsewhere() else ""
    for service in processes.services():
        well = processes.is_up(service)
        missing += [] if well else [service.name]
        where = service.address if service.port else service.log
        print(f"{service.name:<10} {'up' if well else 'DOWN':<6} {where}", flush=True)
    if "prefect" not in missing:
        from pipelines.services.status import overview

        print(overview(), flush=True)
        print(f"{'browser':<10} {LOG_IN}", flush=True)
    if missing:
        raise LanduseError(f"{', '.join(missing)} not up: make up starts what is missing")
    if complaint:
        raise Unavailable(complaint)


def ui() -> None:
    """Become an MLflow server of the store, until Ctrl-C. Raises LanduseError where a server has it, or the port."""
    server, store = processes.mlflow_server(), processes.store_address() if processes.is_elsewhere() else DEFAULT_STORE
    from landuse.tracking.backend_store import DATABASES

    if store.startswith("http"):
        raise LanduseError(f"MLFLOW_TRACKING_URI names a server: open {public(store)} in a browser")
    if store.partition(":")[0].partition("+")[0] not in DATABASES:
        raise LanduseError(
            f"MLFLOW_TRACKING_URI = {public(store)}: make ui shows a database, such as sqlite:///mlflow.db"
        )
    if processes.is_up(server):
        raise LanduseError(f"make up shows it at {server.address} already: {LOG_IN}")
    processes.refuse_taken_port(server)
    print(f"{server.address} shows runs and models until Ctrl-C: {LOG_IN}", flush=True)
    os.execvpe(server.command[0], server.command, os.environ | {"MLFLOW_BACKEND_STORE_URI": store})


def ask_store() -> str:
    """Whether the store that `MLFLOW_TRACKING_URI` names answers, shown as a line; what is wrong with it."""
    from landuse import tracking

    complaint = ""
    try:
        with tracking.store():
            pass
    except LanduseError as error:
        complaint = str(error)
    print(f"{'mlflow':<10} {'DOWN' if complaint else 'up':<6} {public(processes.store_address())}", flush=True)
    return complaint


def watch() -> None:
    """Watch inbox/. Never returns."""
    from pipelines.services import inbox

    inbox.watch(load_params().pipelines.settle_seconds)


def work() -> None:
    """Run the worker of Prefect, as long as the server is at work. Never returns."""
    from prefect.cli import app

    end_with_server()
    sys.argv = ["prefect", "worker", "start", "--pool", processes.POOL, "--name", processes.POOL]
    app()


def end_with_server() -> None:
    """Kill this process, and its group if it leads one, when the server is gone: nobody else is asked on that port.

    Another user's server would be sent the login, and could hand the worker a run of its own.
    """

    def look() -> None:
        while processes.is_running(processes.prefect_server()):
            time.sleep(SERVER_SECONDS)
        kill_group(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=look, name="server", daemon=True).start()


def main() -> None:
    """Do what is asked; an error that people can mend becomes one line and its exit code."""
    turns = {"up": partial(in_turn, up), "down": partial(in_turn, down)}
    verbs = turns | {"status": status, "ui": ui, "watch": watch, "work": work}
    parser = ArgumentParser("python -m pipelines")
    parser.add_argument("verb", choices=verbs)
    verb = parser.parse_args().verb
    open_closed_streams()
    with in_one_line():
        own_environment()
        keep_from_others()
        try:
            os.environ.update(processes.environment())
            recover_killed()
            verbs[verb]()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough, and the interpreter must not try once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
