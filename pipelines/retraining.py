"""Retraining flow: ingest new images, train on them, judge the new version and promote it if it passes the gate."""

from prefect import State, flow
from prefect.states import Completed

from landuse.core.errors import LanduseError
from landuse.core.files import read_record
from landuse.core.paths import REGISTRATION
from landuse.params import load_params
from pipelines.ingestion import data_version, ingestion
from pipelines.promotion import promotion
from pipelines.steps.artifacts import rename_run, show_summary
from pipelines.steps.commands import flow_lock, with_retries
from pipelines.steps.notifications import notify_failure
from pipelines.steps.parameters import Text
from pipelines.steps.pending import find_reason
from pipelines.training import training


def initial_name() -> str:
    """Return the name of a run until its reason is known; the run itself reports an invalid data.dvc."""
    try:
        return f"retrain-{short_data_version()}"
    except LanduseError:
        return "retrain"


def short_data_version() -> str:
    """Return the first characters of the data version."""
    return (data_version() or "no-data")[:6]


@flow(flow_run_name=initial_name, on_failure=[notify_failure])
def retraining(source: Text | None = None, force: bool = False) -> State[str]:
    """Ingest, then train and judge if anything is new; promote if `promote.automatic` is set.

    The version judged is the one that this project registered last, whatever the challenger in the registry.
    `source` replaces the newest arrival in inbox/ and `data.source`. `force` trains even if nothing is new.
    """
    with flow_lock():
        earlier = read_record(REGISTRATION) if REGISTRATION.exists() else None
        reason = with_retries(find_reason)(ingestion(source), force)
        rename_run(f"retrain-{short_data_version()}-{reason or 'nothing-new'}")
        if reason is None:
            return Completed(name="NothingNew", message="Nothing new to learn from")
        outcomes = training()
        blessing = promotion(version=read_record(REGISTRATION)["version"], dry_run=not load_params().promote.automatic)
        return Completed(message=with_retries(show_summary)(reason, earlier, outcomes, blessing))
