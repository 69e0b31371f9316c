"""`python -m pipelines up | down | status`, as `make` calls it."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial

from landuse.errors import LanduseError, Unavailable, in_one_line, without_login
from landuse.paths import INBOX, SERVICES
from landuse.quiet import own_environment
from landuse.recovery import recover_killed
from pipelines import services
from pipelines.waiting import held

LOCK = SERVICES / "up.lock"


def up() -> None:
    """Start what is not up yet, and say where everything is."""
    INBOX.mkdir(exist_ok=True)
    if not services.is_elsewhere():
        from landuse.tracking.place import refuse_unfit_own_store

        refuse_unfit_own_store()
    from pipelines.deploy import deploy
    from pipelines.lost import end_lost_runs
    from pipelines.overview import wait_for_plan

    server, *others = services.services()
    services.start(server)
    deploy()
    end_lost_runs()
    for service in others:
        services.start(service)
    wait_for_plan()
    status()


def down() -> None:
    """End what `up` started, the last first."""
    for service in reversed(services.every_service()):
        print(f"{service.name:<10} {'ended' if services.stop(service) else 'was not up'}")


def in_turn(work: Callable[[], None]) -> None:
    """Do what starts or ends services; who comes meanwhile waits."""
    SERVICES.mkdir(exist_ok=True)
    with held(LOCK, "another make up or make down", partial(print, flush=True)):
        work()


def status() -> None:
    """What is up, what is scheduled, and what ran last. Raises LanduseError where something is not up.

    Of a store that is not ours to serve it is only asked whether it answers.
    """
    missing, complaint = [], ask_store() if services.is_elsewhere() else ""
    for service in services.services():
        well = services.is_up(service)
        missing += [] if well else [service.name]
        where = service.address if service.port else service.log
        print(f"{service.name:<10} {'up' if well else 'DOWN':<6} {where}", flush=True)
    if "prefect" not in missing:
        from pipelines.overview import overview

        print(overview(), flush=True)
    if missing:
        raise LanduseError(f"{', '.join(missing)} not up: make up starts what is missing")
    if complaint:
        raise Unavailable(complaint)


def ask_store() -> str:
    """Whether the store that `MLFLOW_TRACKING_URI` names answers, shown as a line; what is wrong with it."""
    from landuse import tracking

    complaint = ""
    try:
        with tracking.store():
            pass
    except LanduseError as error:
        complaint = str(error)
    print(f"{'mlflow':<10} {'DOWN' if complaint else 'up':<6} {without_login(services.store_address())}", flush=True)
    return complaint


def main() -> None:
    """Do what is asked; an error that people can mend becomes one line and its exit code."""
    verbs = {"up": partial(in_turn, up), "down": partial(in_turn, down), "status": status}
    parser = ArgumentParser("python -m pipelines")
    parser.add_argument("verb", choices=verbs)
    verb = parser.parse_args().verb
    own_environment()
    with in_one_line():
        try:
            os.environ.update(services.environment())
            recover_killed()
            verbs[verb]()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough, and the interpreter must not try once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
