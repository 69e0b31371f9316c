"""What the Prefect server is told once: the pool, the deployments of prefect.yaml, and two automations."""

import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from landuse.core.errors import LanduseError
from landuse.params import load_params
from pipelines.services.processes import HEARTBEAT_SECONDS, POOL, environment

LOST = "landuse: end runs whose process is lost"
CRASHED = "landuse: tell of crashes"
JOB_TEMPLATE = Path(__file__).with_name("work_pool.json")  # has no variables: no run brings a command or environment


def deploy() -> None:
    """Make or renew the work pool, deployments and automations. Doing it twice is harmless."""
    prefect("work-pool", "create", POOL, "--type", "process", "--base-job-template", str(JOB_TEMPLATE), "--overwrite")
    prefect("--no-prompt", "deploy", "--all")
    name = load_params().pipelines.notify
    wanted = [lost_runs(), *([crashes(block_id(name))] if name else [])]
    for old in (LOST, CRASHED):
        remove(old)
    for automation in wanted:
        automation.create()


def prefect(*arguments: str) -> None:
    """Run a command of Prefect. Raises LanduseError with its last line where it fails."""
    done = subprocess.run(("prefect", *arguments), env=environment(), capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no reason given"]
        raise LanduseError(f"prefect {' '.join(arguments)} failed: {lines[-1]}")


def lost_runs():
    """A run that sends no heartbeat and has not ended has lost its process: it must not hold its place for ever.

    Whatever becomes of it is expected by any name, as flows name their ends as they like.
    """
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    every, message = "prefect.flow-run.*", "No sign of life: its process or machine is gone"
    trigger = EventTrigger(
        match={"prefect.resource.id": every},
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={every},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
    )
    return Automation(
        name=LOST, trigger=trigger, actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)]
    )


def crashes(block):
    """A crash leaves no process to tell of it, so the server does."""
    from prefect.automations import Automation
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    trigger = EventTrigger(expect={"prefect.flow-run.Crashed"}, posture=Posture.Reactive, threshold=1)
    body = "{{ flow_run.name }}: {{ flow_run.state.message }}"
    told = SendNotification(block_document_id=block, subject="landuse: {{ flow.name }} crashed", body=body)
    return Automation(name=CRASHED, trigger=trigger, actions=[told])


def block_id(name: str):
    """The id of the notification block. Raises LanduseError where the server has no such block."""
    from prefect.blocks.core import Block

    try:
        return Block.load(name)._block_document_id
    except ValueError:
        raise LanduseError(
            f"pipelines.notify = {name}: the Prefect server has no such block; make it on its page Blocks, or set null"
        ) from None


def remove(name: str) -> None:
    """Remove the automation of this name, if there is one."""
    from prefect.automations import Automation

    with suppress(ValueError):
        Automation.read(name=name).delete()
