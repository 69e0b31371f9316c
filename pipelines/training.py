"""Training: the stages of dvc.yaml as tasks. DVC decides what is to be done; what is unchanged shows as Cached."""

from pathlib import Path

import yaml
from prefect import flow, task
from prefect.states import Completed, State

from landuse.core.paths import DVC_YAML
from pipelines.steps.artifacts import Meter, show_classes, show_validation
from pipelines.steps.commands import alone, patient, run, when_free
from pipelines.steps.lockfile import kept_whole
from pipelines.steps.notifications import tell_failure
from pipelines.steps.parameters import Overrides
from pipelines.steps.pending import is_registered
from pipelines.steps.workspace import workspace


@flow(flow_run_name="train", on_failure=[tell_failure])
def training(overrides: Overrides | None = None) -> dict[str, str]:
    """Run the stages that changed, in order; returns what became of each.

    With overrides such as {"train.learning_rate": 0.001} a copy of the project is worked in: params.yaml, dvc.lock and
    artifacts/ stay as they are, and the model is registered like any other.
    """
    with alone(), workspace(overrides) as folder:
        outcomes = {name: run_stage(name, folder) for name in stage_names()}
        patient(make_sure_of_registration)(folder)
        show_validation(folder)
        show_classes(folder)
        return outcomes


def stage_names() -> list[str]:
    """The stages of dvc.yaml, which lists them in the order they depend on each other."""
    return list(yaml.safe_load(DVC_YAML.read_text(encoding="utf-8"))["stages"])


def run_stage(name: str, folder: Path) -> str:
    """Run a stage as a task of its name; returns the name of the task's state."""
    state = patient(stage).with_options(name=name, task_run_name=name)(name, folder, return_state=True)
    state.result()
    return state.name


@task(task_run_name="make sure of registration")
def make_sure_of_registration(folder: Path) -> None:
    """Register the model again where the registry lost it."""
    if not is_registered(folder):
        when_free(lambda: run("dvc", "repro", "--single-item", "--force", "register", folder=folder))


@task
def stage(name: str, folder: Path) -> State:
    """Let DVC run a stage if it changed. It waits while another DVC command is at work in the project."""
    meter = Meter()

    def reproduce() -> None:
        with kept_whole(folder):
            run("dvc", "repro", "--single-item", name, folder=folder, watch=meter)

    when_free(reproduce)
    meter.finish()
    return Completed() if meter.ran else Completed(name="Cached", message="Nothing it depends on has changed")
