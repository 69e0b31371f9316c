"""The ledger: one MLflow run for every move of a champion, kept in the tracking store; entries are only ever added.

An entry that is open (RUNNING) holds the right to move the aliases of its model. FINISHED entries tell the history,
FAILED ones were undone or never moved anything.
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
CREATED = "model.created"
BLESSING_FILE = "blessing.json"
PATIENCE = 60
HOUR = 3600


@dataclass(frozen=True)
class Entry:
    """One entry: `action` is promote, force, rollback or repair; `before` and `after` are versions, or None."""

    id: str
    status: str
    opened: float
    tags: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> Self:
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

    def orphaned(self) -> bool:
        """Is it an hour old, or its process dead, as far as can be told from this host."""
        return time() - self.opened > HOUR or is_gone(self.tags)


def experiment_id() -> str:
    """The experiment that holds the ledger, made where it is not there yet.

    Raises LanduseError where it was deleted: who is champion, and since when, would look as if nothing was known of it.
    """
    client = MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
    if found.lifecycle_stage == LifecycleStage.DELETED:
        back = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise LanduseError(f"the experiment {EXPERIMENT}, which is the ledger, was deleted in MLflow: {back}")
    return found.experiment_id


def entries(name: str, status: str | None = None) -> list[Entry]:
    """The entries of a model, of one status or of all, the oldest first."""
    wanted = f"tags.model = '{name}'" + (f" and attributes.status = '{status}'" if status else "")
    found, token = [], None
    while True:
        runs = MlflowClient().search_runs([experiment_id()], wanted, page_token=token)
        found += map(Entry.of, runs)
        token = runs.token
        if not token:
            return sorted(found, key=lambda entry: (entry.opened, entry.id))


def done(name: str) -> list[Entry]:
    """The finished entries of a model in the order in which they moved the aliases, whatever the clocks said.

    Those of another model of this name, which was deleted, are left out: they tell of other versions.
    """
    own = (created(name), None)
    found = (entry for entry in entries(name, DONE) if entry.tags.get(CREATED) in own)
    return sorted(found, key=lambda entry: int(entry.tags.get("number", 0)))


def created(name: str) -> str:
    """What tells a registered model from an earlier one of its name: the moment it was made."""
    found = MlflowClient().search_registered_models(filter_string=f"name = '{name}'")
    return str(found[0].creation_timestamp) if found else "never"


def champions(finished: list[Entry]) -> list[str]:
    """The champions that the finished entries leave behind: the present one last, before it the one to go back to."""
    stack: list[str] = []
    for entry in (entry for entry in finished if entry.after is not None):
        if entry.before is not None and stack[-1:] != [entry.before]:
            stack.append(entry.before)
        while entry.action == "rollback" and stack and stack[-1] != entry.after:
            stack.pop()
        if stack[-1:] != [entry.after]:
            stack.append(entry.after)
    return stack


def open_entry(name: str, action: str, why: str) -> Entry:
    """A new open entry of this process."""
    who = f"{psutil.Process().username()}@{socket.gethostname()}"
    tags = {"model": name, "action": action, "who": who, "why": why, CREATED: created(name)} | identity()
    run = MlflowClient().create_run(experiment_id(), int(time() * 1000), tags, f"{action} {name}")
    return Entry.of(run)


def write(entry: Entry, tags: dict[str, str | None]) -> Entry:
    """Add tags to an open entry; what is None is left out."""
    added = {key: value for key, value in tags.items() if value is not None}
    for key, value in added.items():
        MlflowClient().set_tag(entry.id, key, value)
    return Entry(entry.id, entry.status, entry.opened, entry.tags | added)


def attach(entry: Entry, blessing: dict[str, Any]) -> None:
    """Keep the blessing with the entry."""
    MlflowClient().log_text(entry.id, json.dumps(blessing, indent=2) + "\n", BLESSING_FILE)


def blessing(entry: Entry) -> dict[str, Any] | None:
    """The blessing that was kept with an entry, if one was."""
    client = MlflowClient()
    if BLESSING_FILE not in {item.path for item in client.list_artifacts(entry.id)}:
        return None
    return mlflow.artifacts.load_dict(f"runs:/{entry.id}/{BLESSING_FILE}")


def close(entry: Entry, status: str, note: str = "") -> None:
    """End an entry, with a note on how."""
    if note:
        MlflowClient().set_tag(entry.id, "note", note)
    MlflowClient().set_terminated(entry.id, status)


def wait_for_turn(mine: Entry) -> list[Entry]:
    """Return once no other live entry of the model is open; the orphans that are left, oldest first.

    Of two entries that see each other the older one waits and the younger one gives way. As each is written before it
    looks, at least one of them sees the other. Raises Unavailable where this one has to give way.
    """
    end = time() + PATIENCE
    while True:
        others = [entry for entry in entries(mine.tags["model"], OPEN) if entry.id != mine.id]
        orphans = [entry for entry in others if entry.orphaned()]
        alive = [entry for entry in others if entry not in orphans]
        if not alive:
            return orphans
        first = alive[0]
        if (first.opened, first.id) < (mine.opened, mine.id) or time() > end:
            raise under_way(first)
        sleep(0.2)


def give_way(name: str) -> None:
    """Raise Unavailable where a live entry of the model is open."""
    for entry in entries(name, OPEN):
        if not entry.orphaned():
            raise under_way(entry)


def under_way(entry: Entry) -> Unavailable:
    """What those are told who come second."""
    return Unavailable(
        f"another {entry.action} of {entry.tags['model']} is under way, by {entry.tags['who']} "
        f"since {entry.when}: try again when it is over"
    )
