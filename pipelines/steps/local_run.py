"""A flow run here and now: on the Prefect server of `make up` where it is up, without a server where it is not."""

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
from landuse.core.process import DEATH_SECONDS, ending_signals, identity, is_gone
from landuse.params.errors import yaml_reason
from pipelines.services import processes
from pipelines.steps.parameters import refuse_address

OVERRIDES = "overrides"
OWNER = "LANDUSE_FLOW"  # environment variable: the process that runs the flow, in what it starts
EPHEMERAL = "PREFECT__SERVER_EPHEMERAL"  # Prefect's mark of a temporary server
TOO_LATE = "Timed out while attempting to connect to ephemeral"  # so says Prefect of one
TOLD_APART = frozenset({Refused.exit_code, Unavailable.exit_code})


def run_once(name: str, settings: list[str]) -> Any:
    """Run a flow with settings such as `force=true`; those with a dot, `train.epochs=3`, are other params.

    Raises LanduseError where the flow has no such parameter, or fails, or the server does not answer any more.
    """
    prepare()
    with apart():
        import prefect.context  # noqa: F401
    from pipelines.services.client import answering
    from pipelines.steps.commands import CommandFailed

    flow = getattr(import_module(f"pipelines.{name}"), name)
    given = parameters(flow.fn, settings)
    try:
        with stoppable(), answering():
            start_temporary_server()
            return flow(**given)
    except CommandFailed as error:
        if error.exit_code in TOLD_APART:
            raise
        raise LanduseError(str(error)) from None
    except RuntimeError as error:
        if TOO_LATE not in str(error):
            raise
        late = f"Prefect's temporary server did not start within {processes.START_SECONDS} s"
        raise Unavailable(f"{late}: try again, or start one that stays with make up") from None


def prepare() -> None:
    """Point Prefect to the server of the project, or to none; before Prefect is imported."""
    SERVICES.mkdir(exist_ok=True)
    refuse_unwritable()
    end_orphans()
    os.environ[OWNER] = json.dumps(identity())
    own = processes.environment()
    if not processes.is_up(processes.prefect_server()):
        del own["PREFECT_API_URL"]
        os.environ.pop("PREFECT_API_URL", None)
        own["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = str(processes.START_SECONDS)
        own["PREFECT_CLIENT_MAX_RETRIES"] = "1"  # Ctrl-C ends the temporary server too: it is not waited for
    if not processes.is_up(processes.mlflow_server()) and not processes.is_elsewhere():
        del own["MLFLOW_TRACKING_URI"]
    os.environ.update(own)


@contextmanager
def apart() -> Iterator[None]:
    """Where Prefect starts, in its own folder: it would read the settings of a `.env` in this one."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with chdir(home):
        yield


def start_temporary_server() -> None:
    """Start Prefect's temporary server, where no other is up; it ends with this process."""
    if "PREFECT_API_URL" not in os.environ:
        with apart():
            from prefect.server.api.server import SubprocessASGIServer

            SubprocessASGIServer().start()


def refuse_unwritable() -> None:
    """Raise PermissionError where another user made Prefect's folder: its server would say so on 900 lines, later."""
    home = SERVICES / "prefect"
    for path in (home, *home.glob("*.db*")):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def end_orphans() -> None:
    """End the temporary servers of flows that were killed, which nobody else does."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, KeyError, AttributeError):  # ended meanwhile, or somebody else's
            environment = process.environ()
            if {EPHEMERAL, OWNER} <= environment.keys() and is_gone(json.loads(environment[OWNER])):
                process.kill()
                process.wait(DEATH_SECONDS)


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end this process as they should, and Prefect's temporary server with it.

    A terminal sends Ctrl-C to that server too, so that a flow may fail on the way out for want of it.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, *ending_signals()):
        signal.signal(number, stop)
    try:
        yield
    except BaseException:
        if received:
            sys.exit(128 + received[0])
        raise


def parameters(function: Callable, settings: list[str]) -> dict[str, Any]:
    """`key=value` pairs as parameters of a flow; the values of params are YAML, as in their file."""
    allowed = inspect.signature(function).parameters
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        refuse_address(key, text)
        try:
            if equals and "." in key and OVERRIDES in allowed:
                found.setdefault(OVERRIDES, {})[key] = yaml.safe_load(text)
            elif equals and key in allowed and key != OVERRIDES:
                found[key] = TypeAdapter(allowed[key].annotation).validate_strings(text)
            else:
                raise LanduseError(f"{setting}: no parameter of this flow; give {forms(allowed)}")
        except ValidationError as error:
            raise LanduseError(f"{setting}: {error.errors()[0]['msg']}") from None
        except yaml.YAMLError as error:
            raise LanduseError(f"{setting}: not valid YAML: {yaml_reason(error)}") from None
    return found


def forms(allowed: Iterable[str]) -> str:
    """What can be set, in words."""
    return ", ".join(f"{'<section>.<key>' if name == OVERRIDES else name}=<value>" for name in allowed)
