"""Reasons to retrain: new data, changed params or code, or an earlier run that did not finish."""

from pathlib import Path

from prefect import task

from landuse import registry, tracking
from landuse.core.files import read_record
from landuse.core.paths import REGISTRATION
from landuse.params import load_params
from landuse.registry import audit_log
from landuse.tracking.names import facts_of
from pipelines.steps.commands import CommandFailed, retry_while_busy, run

REASONS = {
    "new-data": "the images are new",
    "changed": "params or code changed, or an earlier run was stopped",
    "unregistered": "the registry lost the version that was registered last",
    "unjudged": "the last version was still to be judged or promoted",
    "forced": "it was asked for",
}


@task(task_run_name="what is new")
def find_reason(new_data: bool, force: bool) -> str | None:
    """Return the first key of REASONS that applies; None if there is nothing to do."""
    if new_data:
        return "new-data"
    if not succeeds("dvc", "status", "--quiet"):
        return "changed"
    if not is_registered():
        return "unregistered"
    if not is_judged():
        return "unjudged"
    return "forced" if force else None


def is_registered(folder: Path = Path()) -> bool:
    """Return True if the registry still holds the version that was registered last."""
    return succeeds("landuse", "info", folder=folder)


def succeeds(*command: str, folder: Path = Path()) -> bool:
    """Return True for exit code 0 and False for 1. Raises CommandFailed for any other."""
    try:
        retry_while_busy(lambda: run(*command, folder=folder))
    except CommandFailed as error:
        if error.exit_code != 1:
            raise
        return False
    return True


def is_judged() -> bool:
    """Return True if the gate has judged the version registered last, and it is not waiting for its promotion."""
    if not REGISTRATION.exists():
        return True
    registration = read_record(REGISTRATION)
    name, number = registration["model"], registration["version"]
    with tracking.store():
        verdict = facts_of(registry.get_version(name, number).tags).get("gate.verdict")
        was_champion = number in {entry.after for entry in audit_log.finished_entries(name)}
    waits = verdict == "passed" and load_params().promote.automatic and not was_champion
    return verdict is not None and not waits
