"""Notifications, through the Prefect block that `pipelines.notify` names."""

import logging

from prefect.blocks.core import Block
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from landuse.core.addresses import without_addresses
from landuse.core.errors import LanduseError, one_line, printable
from landuse.params import load_params


def tell(subject: str, body: str) -> None:
    """Send a notification. Where that fails the flow goes on, and its log says so."""
    try:
        name = load_params().pipelines.notify
        if name:
            Block.load(name).notify(body, subject=subject)
    except LanduseError:  # the params are what is wrong, and the flow says so itself
        return
    except Exception as error:
        logger().warning("pipelines.notify = %s could not be told: %s", name, one_line(without_addresses(str(error))))


def tell_failure(flow, flow_run, state) -> None:
    """Hook of every flow: tell of its failure, once, not for the flows within it."""
    if flow_run.parent_task_run_id is None:
        tell(f"landuse: {flow.name} failed", f"{flow_run.name}: {printable(state.result(raise_on_failure=False))}")


def logger() -> logging.Logger | logging.LoggerAdapter:
    """The log of the run at hand; hooks have none."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
