"""Notifications, through the Prefect block that `pipelines.notify` names."""

import logging
from typing import Any

from prefect import Flow, State
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from landuse.core.addresses import without_addresses
from landuse.core.errors import LanduseError, one_line, printable
from landuse.params import load_params


def notify(subject: str, body: str) -> None:
    """Send a notification. If that fails, log a warning; the flow continues."""
    try:
        name = load_params().pipelines.notify
        if name:
            block: Any = Block.load(name)
            block.notify(body, subject=subject)
    except LanduseError:  # invalid params, which the flow reports itself
        return
    except Exception as error:
        run_logger().warning(
            "pipelines.notify = %s: notification failed: %s", name, one_line(without_addresses(str(error)))
        )


def notify_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of every flow: notify of its failure, but not of failed subflows."""
    if flow_run.parent_task_run_id is None:
        notify(f"landuse: {flow.name} failed", f"{flow_run.name}: {printable(state.result(raise_on_failure=False))}")


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the logger of the current run; hooks have none and log to this module's."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
