"""A flow run here and now: on the Prefect server of `make up` where it is up, without a server where it is not."""

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import yaml

from landuse.errors import LanduseError
from landuse.paths import SERVICES
from pipelines import services


def run_once(name: str, settings: list[str]) -> Any:
    """Run a flow with settings such as `force=true`; those with a dot, `train.epochs=3`, are other params.

    Raises LanduseError where the flow has no such parameter, or fails.
    """
    prepare()
    flow = getattr(import_module(f"pipelines.{name}"), name)
    return flow(**parameters(flow.fn, settings))


def prepare() -> None:
    """Point Prefect to the server of the project, or to none; before Prefect is imported."""
    SERVICES.mkdir(exist_ok=True)
    own = services.environment()
    if not services.is_up(services.prefect_server()):
        del own["PREFECT_API_URL"]
        os.environ.pop("PREFECT_API_URL", None)
        own["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
    if not services.is_up(services.mlflow_server()) and not services.is_elsewhere():
        del own["MLFLOW_TRACKING_URI"]
    os.environ.update(own)


def parameters(function: Callable, settings: list[str]) -> dict[str, Any]:
    """`key=value` pairs, the values as YAML, as parameters of a flow."""
    allowed = list(inspect.signature(function).parameters)
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        value = yaml.safe_load(text)
        if "." in key and "overrides" in allowed:
            found.setdefault("overrides", {})[key] = value
        elif equals and key in allowed:
            found[key] = value
        else:
            raise LanduseError(f"{setting}: no parameter of this flow; give <key>=<value>, keys: {', '.join(allowed)}")
    return found
