"""Promotion flow: the gate judges a version, which becomes the champion if it passes."""

from typing import Any

from prefect import State, flow, task
from prefect.states import Completed

from landuse.core.errors import Refused
from landuse.core.files import read_record
from landuse.core.paths import BLESSING
from landuse.gate.blessing import Blessing
from pipelines.steps.artifacts import describe_verdict, show_verdict
from pipelines.steps.commands import CommandFailed, flow_lock, run, with_retries
from pipelines.steps.notifications import notify, notify_failure
from pipelines.steps.parameters import Text


@flow(flow_run_name="promote", on_failure=[notify_failure])
def promotion(
    version: Text | None = None, force: bool = False, reason: Text | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Promote a version, by default the challenger, if it passes the gate; return its blessing.

    `force` promotes it anyway and needs a reason. `dry_run` judges it without changing the registry.
    """
    with flow_lock():
        with_retries(promote)(version, force, reason, dry_run)
        blessing = read_record(BLESSING)
        show_verdict(blessing)
        notify_verdict(blessing)
        return blessing


@task(task_run_name="promote")
def promote(version: str | None, force: bool, reason: str | None, dry_run: bool) -> State[None]:
    """Run `landuse promote`. A refusal is a result, not a failure."""
    options = [*(["--force"] if force else []), *(["--reason", reason] if reason else [])]
    try:
        run("landuse", "promote", *filter(None, [version]), *options, *(["--dry-run"] if dry_run else []))
    except CommandFailed as error:
        if error.exit_code != Refused.exit_code:
            raise
        return Completed(name="Refused", message=str(error))
    return Completed()


def notify_verdict(blessing: dict[str, Any]) -> None:
    """Notify of a promotion or a refusal, and of how the data differs from the champion's."""
    if blessing["promoted"] or blessing["verdict"] == "refused":
        subject, _, why = describe_verdict(blessing).partition(": ")
        change = Blessing.from_dict(blessing).detail("shrinkage").get("change")
        notify(subject, f"{why}; data: {change}" if change and change not in why else why)
