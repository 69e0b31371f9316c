"""Promotion: a version is judged against the champion and, if it deserves it, takes its place."""

from typing import Any

from prefect import flow, task
from prefect.states import Completed, State

from landuse.core.errors import Refused
from landuse.core.files import read_record
from landuse.core.paths import BLESSING
from pipelines.steps.artifacts import show_verdict, verdict_in_words
from pipelines.steps.commands import CommandFailed, alone, patient, run
from pipelines.steps.notifications import tell, tell_failure
from pipelines.steps.parameters import Text


@flow(flow_run_name="promote", on_failure=[tell_failure])
def promotion(
    version: Text | None = None, force: bool = False, reason: Text | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Promote a version, by default the challenger, if the gate lets it pass; returns its blessing.

    `force` promotes it anyway and needs a reason. With `dry_run` it is judged and nothing moves.
    """
    with alone():
        patient(judge)(version, force, reason, dry_run)
        blessing = read_record(BLESSING)
        show_verdict(blessing)
        tell_verdict(blessing)
        return blessing


@task(task_run_name="promote")
def judge(version: str | None, force: bool, reason: str | None, dry_run: bool) -> State:
    """Let the gate decide. A refusal is a result, not a failure."""
    forced = [*(["--force"] if force else []), *(["--reason", reason] if reason else [])]
    try:
        run("landuse", "promote", *filter(None, [version]), *forced, *(["--dry-run"] if dry_run else []))
    except CommandFailed as error:
        if error.exit_code != Refused.exit_code:
            raise
        return Completed(name="Refused", message=str(error))
    return Completed()


def tell_verdict(blessing: dict[str, Any]) -> None:
    """Tell of a promotion or a refusal."""
    if blessing["promoted"] or blessing["verdict"] == "refused":
        subject, _, why = verdict_in_words(blessing).partition(": ")
        tell(subject, why)
