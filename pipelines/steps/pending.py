"""What a retraining finds new, or left behind by a run that did not come to its end."""

from pathlib import Path

from prefect import task

from landuse import registry, tracking
from landuse.core.files import read_record
from landuse.core.paths import REGISTRATION
from landuse.params import load_params
from landuse.registry import audit_log
from pipelines.steps.commands import CommandFailed, run, when_free

REASONS = {
    "new-data": "the images",
    "changed": "params or code, or an earlier run was stopped",
    "unregistered": "the registry, which lost the version that was registered last",
    "unjudged": "nothing, but the last version is still to be judged or promoted",
    "forced": "nothing, it was asked for",
}


@task(task_run_name="what is new")
def what_is_new(new_data: bool, force: bool) -> str | None:
    """The key of REASONS for what there is to do, None where there is nothing."""
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
    """Whether the registry holds the version that was registered last."""
    return succeeds("landuse", "info", folder=folder)


def succeeds(*command: str, folder: Path = Path()) -> bool:
    """Whether a command says yes. Raises CommandFailed where it cannot tell."""
    try:
        when_free(lambda: run(*command, folder=folder))
    except CommandFailed as error:
        if error.exit_code != 1:
            raise
        return False
    return True


def is_judged() -> bool:
    """Whether the gate has seen the version that was registered last, and nothing is left to be done about it."""
    if not REGISTRATION.exists():
        return True
    registration = read_record(REGISTRATION)
    name, number = registration["model"], registration["version"]
    with tracking.store():
        verdict = registry.get_version(name, number).tags.get("gate.verdict")
        was_champion = number in {entry.after for entry in audit_log.done(name)}
    waits = verdict == "passed" and load_params().promote.automatic and not was_champion
    return verdict is not None and not waits
