"""A search that several processes work on at once: each trial belongs to one of them, and a given number end."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from landuse.core import process
from landuse.core.errors import Unavailable
from landuse.tune.storage import BEAT_SECONDS, exclusive, open_storage
from landuse.tune.study import VALUES, count_ended, is_tried

STARTUP_TRIALS = 10
PROCESS = "process"  # attribute of a trial: the identity of the process that runs it


@dataclass(frozen=True)
class Search:
    """A study and the storage that it is in."""

    study: optuna.Study
    storage: RDBStorage

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock under which trials begin and end, whatever process or machine they are on."""
        return exclusive(self.storage.engine)

    def ask(self, trials: int, first: dict[str, Any] | None, seed: int) -> optuna.Trial | None:
        """Begin a trial; return None if as many as there may be have ended or are at work.

        The values in `first` are tried before others, and again if their trial was lost.
        """
        with self.exclusive(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's heartbeats are experimental
            self.fail_lost_trials()
            if count_ended(self.study) + len(self.running_trials()) >= trials:
                return None
            if first is not None and not is_tried(self.study, first):
                self.study.enqueue_trial(first, user_attrs={VALUES: first})
            trial = self.study.ask()
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(PROCESS, process.identity())
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + trial.number)  # each samples other values
        return trial

    def running_trials(self) -> list[FrozenTrial]:
        """Return the trials that are at work, in this process or others."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def trials_elsewhere(self) -> list[FrozenTrial]:
        """Return the trials that are at work in other processes, as far as is known here."""
        mine = process.identity()
        workers = ((trial, trial.user_attrs.get(PROCESS)) for trial in self.running_trials())
        return [trial for trial, worker in workers if worker != mine and not is_lost(worker)]

    def fail_lost_trials(self) -> None:
        """Fail the trials whose process on this machine is gone, and those elsewhere that nobody confirms any more."""
        for trial in self.running_trials():
            if is_lost(trial.user_attrs.get(PROCESS)):
                self.study.tell(trial.number, state=TrialState.FAIL)
        fail_stale_trials(self.study)

    def tell(self, trial: optuna.Trial, state: TrialState, score: float | None = None) -> None:
        """End a trial. Raises UpdateFinishedTrialError if another process took this one for dead and failed it."""
        with self.exclusive():
            if self.study.tell(trial, score, state, skip_if_finished=True).state != state:
                raise UpdateFinishedTrialError(f"trial {trial.number} was failed meanwhile")

    @contextmanager
    def working_on(self, trial: optuna.Trial) -> Iterator[None]:
        """Confirm again and again that a trial is at work; an exception fails it, so that another takes its place."""
        stop = Event()
        thread = Thread(target=self.confirm, args=(trial, stop), daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with suppress(UpdateFinishedTrialError, Unavailable):
                self.tell(trial, TrialState.FAIL)
            raise
        finally:
            stop.set()
            thread.join()

    def confirm(self, trial: optuna.Trial, stop: Event) -> None:
        """Record now and then that a trial is at work. An error is left to the trial, which meets the same."""
        while not stop.wait(BEAT_SECONDS):
            with suppress(SQLAlchemyError, StorageInternalError):
                self.storage.record_heartbeat(trial._trial_id)
        self.storage.remove_session()


def is_lost(worker: dict[str, str] | None) -> bool:
    """Return True if the process of a trial is known to be gone: before it could say who it is, or since."""
    return worker is None or worker[process.BOOT] == process.boot_id() and process.is_gone(worker)


@contextmanager
def open_search(name: str, address: str | None) -> Iterator[Search]:
    """Begin or join the search of this name. Raises as `open_storage` does."""
    with open_storage(address) as storage:
        with exclusive(storage.engine):
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                load_if_exists=True,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS),
            )
        yield Search(study, storage)
