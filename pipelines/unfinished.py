"""What a retraining finds new, or left behind by a run that did not come to its end."""

from pathlib import Path

from landuse.files import read_record
from landuse.params import load_params
from landuse.paths import BLESSING, REGISTRATION
from pipelines.commands import CommandFailed, run

REASONS = {
    "new-data": "the images",
    "changed": "params or code, or an earlier run was stopped",
    "unregistered": "the registry, which lost the version that was registered last",
    "unjudged": "nothing, but the last version is still to be judged or promoted",
    "forced": "nothing, it was asked for",
}


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
        run(*command, folder=folder)
    except CommandFailed as error:
        if error.exit_code != 1:
            raise
        return False
    return True


def is_judged() -> bool:
    """Whether the gate has seen that version, and nothing is left to be done about it."""
    if not BLESSING.exists():
        return False
    blessing, registration = read_record(BLESSING), read_record(REGISTRATION)
    if any(blessing[key] != registration[key] for key in ("model", "version")):
        return False
    waits = blessing["verdict"] == "passed" and not blessing["promoted"]
    return not (waits and load_params().promote.automatic)
