"""Runs of a flow in this process, on the server of the team or of `make up` if it is up, else on a temporary one."""

import errno
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import TypeAdapter, ValidationError

from landuse.core.errors import LanduseError, Refused, Unavailable
from landuse.core.paths import SERVICES
from landuse.core.process import DEATH_SECONDS, identity, is_gone, termination_signals
from landuse.params.errors import yaml_reason
from pipelines.services import processes, team_server
from pipelines.steps.parameters import refuse_address

OVERRIDES = "overrides"
OWNER = "LANDUSE_FLOW"  # environment variable: identity of the flow's process, inherited by its children
EPHEMERAL = "PREFECT__SERVER_EPHEMERAL"  # environment variable by which Prefect marks a temporary server
STARTUP_TIMEOUT = "Timed out while attempting to connect to ephemeral"  # Prefect's message for one
DISTINCT_EXIT_CODES = frozenset({Refused.exit_code, Unavailable.exit_code})


def run_once(name: str, settings: list[str]) -> Any:
    """Run a flow with settings such as `force=true`; those with a dot, `train.epochs=3`, override params.

    Raises LanduseError if the flow has no such parameter or fails, or the server stops answering.
    """
    prepare_environment()
    with in_prefect_home():
        import prefect.context  # noqa: F401
    from pipelines.services.client import http_errors_as_unavailable
    from pipelines.steps.commands import CommandFailed

    flow = getattr(import_module(f"pipelines.{name}"), name)
    parameters = parse_settings(flow.fn, settings)
    try:
        with exit_on_signals(), http_errors_as_unavailable():
            start_temporary_server()
            return flow(**parameters)
    except CommandFailed as error:
        if error.exit_code in DISTINCT_EXIT_CODES:
            raise
        raise LanduseError(str(error)) from None
    except RuntimeError as error:
        if STARTUP_TIMEOUT not in str(error):
            raise
        late = f"Prefect's temporary server did not start within {processes.START_SECONDS} s"
        raise Unavailable(f"{late}: try again, or start one that stays with make up") from None


def prepare_environment() -> None:
    """Point Prefect to the team's or the project's server, or to none. Must run before Prefect is imported.

    Raises LanduseError or Unavailable if the team's server cannot be used.
    """
    if team_server.is_named():
        team_server.check()
    SERVICES.mkdir(exist_ok=True)
    refuse_unwritable()
    kill_orphaned_servers()
    os.environ[OWNER] = json.dumps(identity())
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):
        os.environ.pop(name, None)
    environment = processes.environment(with_server=processes.is_up(processes.prefect_server()))
    if not processes.is_up(processes.mlflow_server()) and not processes.is_store_external():
        del environment["MLFLOW_TRACKING_URI"]
    os.environ.update(environment)


@contextmanager
def in_prefect_home() -> Iterator[None]:
    """Work in Prefect's own folder while it starts, so that it reads no `.env` of the current one."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with chdir(home):
        yield


def start_temporary_server() -> None:
    """Start Prefect's temporary server if no other is up; it ends with this process."""
    if "PREFECT_API_URL" not in os.environ:
        with in_prefect_home():
            from prefect.server.api.server import SubprocessASGIServer

            SubprocessASGIServer().start()


def refuse_unwritable() -> None:
    """Raise PermissionError if Prefect's folder belongs to another user: its server would fail later, in 900 lines."""
    home = SERVICES / "prefect"
    for path in (home, *home.glob("*.db*")):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def kill_orphaned_servers() -> None:
    """Kill the temporary servers of killed flows, which would run for ever."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, KeyError, AttributeError):  # it has exited, or is not ours
            environment = process.environ()
            if {EPHEMERAL, OWNER} <= environment.keys() and is_gone(json.loads(environment[OWNER])):
                process.kill()
                process.wait(DEATH_SECONDS)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Exit cleanly, with Prefect's temporary server, on Ctrl-C, SIGTERM and a closed terminal.

    A terminal sends Ctrl-C to that server too, so a stopped flow may raise any error on its way out.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, *termination_signals()):
        signal.signal(number, stop)
    try:
        yield
    except BaseException:
        if received:
            sys.exit(128 + received[0])
        raise


def parse_settings(function: Callable[..., Any], settings: list[str]) -> dict[str, Any]:
    """Convert `key=value` pairs to parameters of a flow; values of params are YAML, as in params.yaml.

    Raises LanduseError if a key or value does not fit.
    """
    allowed = inspect.signature(function).parameters
    parameters: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        refuse_address(key, text)
        try:
            if equals and "." in key and OVERRIDES in allowed:
                parameters.setdefault(OVERRIDES, {})[key] = yaml.safe_load(text)
            elif equals and key in allowed and key != OVERRIDES:
                parameters[key] = TypeAdapter(allowed[key].annotation).validate_strings(text)
            else:
                raise LanduseError(f"{setting}: no parameter of this flow; give {describe_settings(allowed)}")
        except ValidationError as error:
            raise LanduseError(f"{setting}: {error.errors()[0]['msg']}") from None
        except yaml.YAMLError as error:
            raise LanduseError(f"{setting}: not valid YAML: {yaml_reason(error)}") from None
    return parameters


def describe_settings(allowed: Iterable[str]) -> str:
    """List the settings of a flow as they are written on the command line."""
    return ", ".join(f"{'<section>.<key>' if name == OVERRIDES else name}=<value>" for name in allowed)
