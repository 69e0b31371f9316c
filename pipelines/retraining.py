"""Retraining: what keeps the model fresh. New images are taken in, learned from, judged and, if better, promoted."""

from prefect import flow
from prefect.states import Completed, State

from landuse.core.errors import LanduseError
from landuse.core.files import read_record
from landuse.core.paths import REGISTRATION
from landuse.params import load_params
from pipelines.ingestion import ingestion, version
from pipelines.promotion import promotion
from pipelines.steps.artifacts import rename_run, show_summary
from pipelines.steps.commands import alone, patient
from pipelines.steps.notifications import tell_failure
from pipelines.steps.parameters import Text
from pipelines.steps.pending import what_is_new
from pipelines.training import training


def first_name() -> str:
    """The name of a run until it knows what is new; what is wrong with data.dvc the run itself will say."""
    try:
        return f"retrain-{(version() or 'no-data')[:6]}"
    except LanduseError:
        return "retrain"


@flow(flow_run_name=first_name, on_failure=[tell_failure])
def retraining(source: Text | None = None, force: bool = False) -> State:
    """Ingest, and where that or anything else is new, train and judge; promote if `promote.automatic` says so.

    Judged is the version that this project registered last, whatever else challenges in the registry.
    `source` is taken in instead of the newest arrival in inbox/ or `data.source`. `force` goes on where nothing is new.
    """
    with alone():
        before = version()
        reason = patient(what_is_new)(ingestion(source), force)
        rename_run(f"retrain-{version()[:6]}-{reason or 'nothing-new'}")
        if reason is None:
            return Completed(name="NothingNew", message="Nothing new to learn from")
        outcomes = training()
        blessing = promotion(version=read_record(REGISTRATION)["version"], dry_run=not load_params().promote.automatic)
        return Completed(message=patient(show_summary)(reason, before, outcomes, blessing))
