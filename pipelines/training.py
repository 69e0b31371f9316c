"""Training flow: the stages of dvc.yaml as tasks. DVC decides what to run; unchanged stages show as Cached."""

from pathlib import Path

import yaml
from prefect import State, flow, task
from prefect.states import Completed

from landuse.core.paths import DVC_YAML
from pipelines.steps.artifacts import StageMonitor, show_classes, show_validation
from pipelines.steps.commands import flow_lock, retry_while_busy, run, with_retries
from pipelines.steps.lockfile import protect_lockfile
from pipelines.steps.notifications import notify_failure
from pipelines.steps.parameters import Overrides
from pipelines.steps.pending import is_registered
from pipelines.steps.workspace import workspace


@flow(flow_run_name="train", on_failure=[notify_failure])
def training(overrides: Overrides | None = None) -> dict[str, str]:
    """Run the stages that changed, in order; return the outcome of each stage by name.

    With overrides such as {"train.learning_rate": 0.001} it works in a copy of the project: params.yaml, dvc.lock and
    artifacts/ stay as they are, and the model is registered like any other.
    """
    with flow_lock(), workspace(overrides) as folder:
        outcomes = {name: run_stage(name, folder) for name in stage_names()}
        with_retries(ensure_registration)(folder)
        show_validation(folder)
        show_classes(folder)
        return outcomes


def stage_names() -> list[str]:
    """Return the stages of dvc.yaml, which lists them in topological order."""
    return list(yaml.safe_load(DVC_YAML.read_text(encoding="utf-8"))["stages"])


def run_stage(name: str, folder: Path) -> str:
    """Run a stage as a task of its name; return the name of the task's final state."""
    state = with_retries(stage).with_options(name=name, task_run_name=name)(name, folder, return_state=True)
    state.result()
    return state.name or state.type.value


@task(task_run_name="make sure of registration")
def ensure_registration(folder: Path) -> None:
    """Register the model again if the registry has lost it."""
    if not is_registered(folder):
        retry_while_busy(lambda: run("dvc", "repro", "--single-item", "--force", "register", folder=folder))


@task
def stage(name: str, folder: Path) -> State[None]:
    """Let DVC run a stage if it changed, waiting for other DVC commands in the project."""
    monitor = StageMonitor()

    def reproduce() -> None:
        with protect_lockfile(folder):
            run("dvc", "repro", "--single-item", name, folder=folder, on_line=monitor)

    retry_while_busy(reproduce)
    monitor.finish()
    return Completed() if monitor.ran else Completed(name="Cached", message="Nothing it depends on has changed")
