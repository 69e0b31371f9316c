"""A trial: values, a training with them, and its score."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from landuse.core.errors import LanduseError
from landuse.core.streams import quiet_tensorflow_import
from landuse.params import TrainParams, TuneParams
from landuse.params.types import Choices, Range
from landuse.tune import runs
from landuse.tune.search import Search
from landuse.tune.study import VALUES, count_ended

if TYPE_CHECKING:
    from landuse.train.trainer import Trainer

REPORT_EPOCHS = 4  # epochs between pruning checks: each check reads all trials from the storage
DIGITS = 3
WAIT_SECONDS = 0.5  # between looks at the last trials, when other processes run them


def run_trials(
    search: Search, train: TrainParams, params: TuneParams, first: dict[str, Any] | None, parent: str
) -> Generator[None]:
    """Run trials below an MLflow run until enough have ended, in whatever process; yield after each, and in waiting.

    The values in `first` are tried first, unless they were tried already.
    """
    with quiet_tensorflow_import():
        from landuse.train.trainer import Trainer
    trainer = Trainer(train)
    while count_ended(search.study) < params.trials:
        if trial := search.ask(params.trials, first, train.seed):
            run_trial(search, trial, trainer, train, params, parent)
        else:
            sleep(WAIT_SECONDS)
        yield


def run_trial(
    search: Search, trial: optuna.Trial, trainer: "Trainer", train: TrainParams, params: TuneParams, parent: str
) -> None:
    """Run a trial and log it below the parent run. One that diverges counts as pruned.

    Enqueued values are used with all their digits. If another process failed the trial meanwhile, it leaves no run.
    """
    callback, state = PruningCallback(trial), TrialState.COMPLETE
    with suppress(UpdateFinishedTrialError), search.working_on(trial):
        suggested = suggest(trial, params.space)
        values = trial.user_attrs.get(VALUES, suggested)
        trial.set_user_attr(VALUES, values)
        try:
            trainer.fit(replace(train, **values), callback)
        except (optuna.TrialPruned, LanduseError):
            state = TrialState.PRUNED
        score = callback.score if callback.rows else None
        with runs.trial_run(parent, trial.number, values, callback.rows, score, state.name.lower()):
            search.tell(trial, state, score if state == TrialState.COMPLETE else None)


class PruningCallback:
    """Records the epochs of a trial, scores its best one, and prunes the trial if it lags behind the others."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.rows: list[dict[str, float]] = []

    def on_batches_end(self, *_: object) -> None:
        """Do nothing: pruning is decided between epochs."""

    def on_epoch_end(self, row: dict[str, float], *_: object) -> None:
        """Record an epoch. Raises TrialPruned if the trial is not worth continuing."""
        self.rows.append(row)
        if row["epoch"] % REPORT_EPOCHS:
            return
        self.trial.report(self.score, int(row["epoch"]))
        if self.trial.should_prune():
            raise optuna.TrialPruned

    @property
    def score(self) -> float:
        """The validation accuracy of the epoch with the lowest validation loss, the one that `train` would keep."""
        return min(self.rows, key=lambda row: row["validation_loss"])["validation_accuracy"]


def suggest(trial: optuna.Trial, space: dict[str, Choices]) -> dict[str, Any]:
    """Suggest values to try, rounded to three significant digits but still inside their ranges."""
    values: dict[str, Any] = {}
    for key, choices in space.items():
        if isinstance(choices, Range):
            sampled = trial.suggest_float(key, choices.low, choices.high, log=choices.log)
            values[key] = min(max(float(f"{sampled:.{DIGITS}g}"), choices.low), choices.high)
        else:
            values[key] = trial.suggest_categorical(key, choices)
    return values
