"""The ledger, an audit log of champion changes: one MLflow run per change, in the tracking store, never rewritten.

An open entry (RUNNING) is the lock on the aliases of its model. FINISHED entries are the history; FAILED ones were
undone or never changed anything.
"""

import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep, time
from typing import Any, Self

import mlflow
import psutil
from mlflow import MlflowClient, MlflowException
from mlflow.entities import LifecycleStage, Run

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.process import identity, is_gone

EXPERIMENT = "landuse-ledger"
OPEN, DONE, UNDONE = "RUNNING", "FINISHED", "FAILED"
CREATED_TAG = "model.created"
BLESSING_FILE = "blessing.json"
WAIT_SECONDS = 60
ORPHAN_SECONDS = 3600


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
    def when(self) -> str:
        return datetime.fromtimestamp(self.opened, UTC).isoformat(timespec="seconds")

    def is_orphan(self) -> bool:
        """Return whether the entry is more than an hour old, or its process on this host is dead."""
        return time() - self.opened > ORPHAN_SECONDS or is_gone(self.tags)


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
    return sorted(finished, key=lambda entry: int(entry.tags.get("number", 0)))


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
    tags = {"model": name, "action": action, "who": who, "why": why, CREATED_TAG: model_created(name)} | identity()
    run = MlflowClient().create_run(ensure_experiment(), int(time() * 1000), tags, f"{action} {name}")
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


def wait_for_turn(mine: Entry) -> list[Entry]:
    """Wait until no other live entry of the model is open; return the remaining orphans, oldest first.

    If two entries see each other, the older one waits and the younger one fails. Each is written before its owner
    searches for others, so at least one of them sees the other. Raises Unavailable if `mine` has to give way.
    """
    end = time() + WAIT_SECONDS
    while True:
        others = [entry for entry in entries(mine.tags["model"], OPEN) if entry.id != mine.id]
        orphans = [entry for entry in others if entry.is_orphan()]
        alive = [entry for entry in others if entry not in orphans]
        if not alive:
            return orphans
        first = alive[0]
        if (first.opened, first.id) < (mine.opened, mine.id) or time() > end:
            raise busy_error(first)
        sleep(0.2)


def refuse_if_busy(name: str) -> None:
    """Raise Unavailable if a live entry of the model is open."""
    for entry in entries(name, OPEN):
        if not entry.is_orphan():
            raise busy_error(entry)


def busy_error(entry: Entry) -> Unavailable:
    """Build the error that names the command which holds the lock."""
    return Unavailable(
        f"another {entry.action} of {entry.tags['model']} is under way, by {entry.tags['who']} "
        f"since {entry.when}: try again when it is over"
    )
