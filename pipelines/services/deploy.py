"""Setup of the Prefect server: the work pool, the deployments of prefect.yaml, and two automations.

Prefect reads its settings on import, hence the imports within functions.
"""

import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from landuse.core.errors import LanduseError
from landuse.params import load_params
from pipelines.services import team_server
from pipelines.services.processes import HEARTBEAT_SECONDS, POOL, environment

if TYPE_CHECKING:
    from prefect.automations import Automation

LOST = "landuse: end runs whose process is lost"
CRASHED = "landuse: tell of crashes"
JOB_TEMPLATE = Path(__file__).with_name("work_pool.json")  # no variables: a run cannot set its command or environment


def deploy() -> None:
    """Create or update the work pool, deployments and automations. Idempotent.

    Raises LanduseError if a team's server has those of another project, which works on them now.
    """
    run_prefect(
        "work-pool", "create", POOL, "--type", "process", "--base-job-template", str(JOB_TEMPLATE), "--overwrite"
    )
    if team_server.is_named():
        team_server.refuse_other_workers(POOL)
    run_prefect("--no-prompt", "deploy", "--all")
    block = load_params().pipelines.notify
    automations = [lost_runs_automation(), *([crash_automation(block_id(block))] if block else [])]
    for name in (LOST, CRASHED):
        delete_automation(name)
    for automation in automations:
        automation.create()


def run_prefect(*arguments: str) -> None:
    """Run a Prefect command. Raises LanduseError with the last line of its output if it fails."""
    result = subprocess.run(("prefect", *arguments), env=environment(), capture_output=True, text=True)
    if result.returncode:
        lines = (result.stderr + result.stdout).strip().splitlines() or ["no reason given"]
        raise LanduseError(f"prefect {' '.join(arguments)} failed: {lines[-1]}")


def lost_runs_automation() -> "Automation":
    """Crash runs that send no heartbeat and have not ended, so that they do not occupy their slot for ever.

    Any flow run event counts as a sign of life, since flows end in states of many names.
    """
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    any_event, message = "prefect.flow-run.*", "No sign of life: its process or machine is gone"
    trigger = EventTrigger(
        match={"prefect.resource.id": any_event},
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={any_event},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
    )
    action = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    return Automation(name=LOST, trigger=trigger, actions=[action])


def crash_automation(block: UUID) -> "Automation":
    """Notify of crashes from the server: a crash leaves no process that could."""
    from prefect.automations import Automation
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    trigger = EventTrigger(expect={"prefect.flow-run.Crashed"}, posture=Posture.Reactive, threshold=1)
    body = "{{ flow_run.name }}: {{ flow_run.state.message }}"
    notification = SendNotification(block_document_id=block, subject="landuse: {{ flow.name }} crashed", body=body)
    return Automation(name=CRASHED, trigger=trigger, actions=[notification])


def block_id(name: str) -> UUID:
    """Return the ID of a notification block. Raises LanduseError if the server has no such block."""
    from prefect.blocks.core import Block

    try:
        block: Any = Block.load(name)
    except ValueError:
        raise LanduseError(
            f"pipelines.notify = {name}: the Prefect server has no such block; make it on its page Blocks, or set null"
        ) from None
    identifier: UUID = block._block_document_id
    return identifier


def delete_automation(name: str) -> None:
    """Delete the automation of this name, if there is one."""
    from prefect.automations import Automation

    with suppress(ValueError):
        automation: Any = Automation.read(name=name)
        automation.delete()
