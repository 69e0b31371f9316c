"""The ledger, an audit log of champion changes: one MLflow run per change, in the tracking store, never rewritten.

An open entry (RUNNING) is the lock on the aliases of its model, see `lock`. FINISHED entries are the history; FAILED
ones were undone or never changed anything. Times are those of whoever wrote them: they are shown, and decide nothing.
"""

import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Any, Self

import mlflow
import psutil
from mlflow import MlflowClient, MlflowException
from mlflow.entities import LifecycleStage, Run

from landuse.core.errors import LanduseError
from landuse.core.process import BOOT, UNKNOWN, boot_id, identity, is_gone

EXPERIMENT = "landuse-ledger"
OPEN, DONE, UNDONE = "RUNNING", "FINISHED", "FAILED"
CREATED_TAG = "model.created"
BLESSING_FILE = "blessing.json"
COUNT, GIVEN_UP = "count", "given_up"  # tags of an open entry: a sign of life, and that others saw none


@dataclass(frozen=True)
class Entry:
    """One ledger entry: `action` is promote, force, rollback or repair; `before` and `after` are versions, or None."""

    id: str
    status: str
    opened: float
    tags: dict[str, str]

    @classmethod
    def from_run(cls, run: Run) -> Self:
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        return cls(run.info.run_id, run.info.status, run.info.start_time / 1000, tags)

    @property
    def action(self) -> str:
        return self.tags["action"]

    @property
    def before(self) -> str | None:
        return self.tags.get("from")

    @property
    def after(self) -> str | None:
        return self.tags.get("to")

    @property
    def number(self) -> int:
        return int(self.tags.get("number", 0))

    @property
    def when(self) -> str:
        return datetime.fromtimestamp(self.opened, UTC).isoformat(timespec="seconds")

    def is_orphan(self) -> bool:
        """Return whether the entry was given up, or its process is known to be dead: of this boot of this machine.

        The name of the machine does not tell it from a colleague's.
        """
        return GIVEN_UP in self.tags or (self.tags.get(BOOT) == boot_id() != UNKNOWN and is_gone(self.tags))


def ensure_experiment() -> str:
    """Return the id of the ledger's experiment, creating it if needed.

    Raises LanduseError if it was deleted: the history of champions would seem empty.
    """
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if (experiment := client.get_experiment_by_name(EXPERIMENT)) is None:
                raise
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        remedy = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise LanduseError(f"the experiment {EXPERIMENT}, which is the ledger, was deleted in MLflow: {remedy}")
    return experiment.experiment_id


def entries(name: str, status: str | None = None) -> list[Entry]:
    """Return the entries of a model, of one status or of all, oldest first."""
    condition = f"tags.model = '{name}'" + (f" and attributes.status = '{status}'" if status else "")
    collected: list[Entry] = []
    token = None
    while True:
        runs = MlflowClient().search_runs([ensure_experiment()], condition, page_token=token)
        collected += map(Entry.from_run, runs)
        token = runs.token
        if not token:
            return sorted(collected, key=lambda entry: (entry.opened, entry.id))


def finished_entries(name: str) -> list[Entry]:
    """Return the finished entries of a model in the order in which they moved the aliases, whatever the clocks said.

    Entries of a deleted model of the same name are left out: their version numbers mean other versions.
    """
    accepted = (model_created(name), None)
    finished = (entry for entry in entries(name, DONE) if entry.tags.get(CREATED_TAG) in accepted)
    return sorted(finished, key=lambda entry: entry.number)


def model_created(name: str) -> str:
    """Return the creation time of a registered model, which tells it from an earlier one of the same name."""
    models = MlflowClient().search_registered_models(filter_string=f"name = '{name}'")
    return str(models[0].creation_timestamp) if models else "never"


def champions(finished: list[Entry]) -> list[str]:
    """Replay finished entries into a stack of champions: the current one last, before it the one to roll back to."""
    stack: list[str] = []
    for entry in finished:
        if entry.after is None:
            continue
        if entry.before is not None and stack[-1:] != [entry.before]:
            stack.append(entry.before)
        while entry.action == "rollback" and stack and stack[-1] != entry.after:
            stack.pop()
        if stack[-1:] != [entry.after]:
            stack.append(entry.after)
    return stack


def open_entry(name: str, action: str, why: str) -> Entry:
    """Create an open entry owned by this process."""
    who = f"{psutil.Process().username()}@{socket.gethostname()}"
    tags = {"model": name, "action": action, "who": who, "why": why, CREATED_TAG: model_created(name), COUNT: "0"}
    run = MlflowClient().create_run(ensure_experiment(), int(time() * 1000), tags | identity(), f"{action} {name}")
    return Entry.from_run(run)


def add_tags(entry: Entry, tags: dict[str, str | None]) -> Entry:
    """Add tags to an open entry, leaving out those that are None; return the new entry."""
    added = {key: value for key, value in tags.items() if value is not None}
    for key, value in added.items():
        MlflowClient().set_tag(entry.id, key, value)
    return Entry(entry.id, entry.status, entry.opened, entry.tags | added)


def attach_blessing(entry: Entry, blessing: dict[str, Any]) -> None:
    """Store the blessing as a file of the entry."""
    MlflowClient().log_text(entry.id, json.dumps(blessing, indent=2) + "\n", BLESSING_FILE)


def load_blessing(entry: Entry) -> dict[str, Any] | None:
    """Return the blessing that was stored with an entry, or None."""
    client = MlflowClient()
    if BLESSING_FILE not in {item.path for item in client.list_artifacts(entry.id)}:
        return None
    return mlflow.artifacts.load_dict(f"runs:/{entry.id}/{BLESSING_FILE}")


def close_entry(entry: Entry, status: str, note: str = "") -> None:
    """End an entry, optionally with a note on the outcome."""
    if note:
        MlflowClient().set_tag(entry.id, "note", note)
    MlflowClient().set_terminated(entry.id, status)
