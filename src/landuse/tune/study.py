"""The study: an SQLite file with all trials and their scores, so that a search can be continued."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.files import require
from landuse.core.paths import SPLITS, SQLITE, TUNE
from landuse.ml import features
from landuse.params import ExtractParams, TrainParams, TuneParams
from landuse.params.types import Choices, Range
from landuse.project import lineage, stage_guard

if TYPE_CHECKING:
    from landuse.train.trainer import Trainer

STARTUP_TRIALS = 10
REPORT_EPOCHS = 4  # epochs between pruning checks: each check reads all trials from the file
DIGITS = 3
DISK_ERRORS = "disk is full|disk I/O|readonly"  # SQLite messages about the disk rather than the file
VALUES = "values"  # attribute of a trial: its values, rounded to `DIGITS`


def refuse_uncached(train: TrainParams, params: TuneParams, extract: ExtractParams) -> None:
    """Raise LanduseError if the cached features were made by other params, or cut at another block."""
    metadata = features.metadata()
    cut, current = metadata["cut"], asdict(extract)
    for key, cached in metadata["params"].items():
        if cached != current[key]:
            raise LanduseError(
                f"extract.{key} = {current[key]}: the cached features were made with {cached}; dvc repro split first"
            )
    if train.unfreeze_from != cut:
        raise LanduseError(
            f"train.unfreeze_from = {train.unfreeze_from}: the cached features were cut at {cut}; dvc repro split first"
        )
    blocks = params.space.get("unfreeze_from", ())
    for block in () if isinstance(blocks, Range) else blocks:
        if block != cut:
            raise LanduseError(
                f"unfreeze_from = {block} would force a new extraction: the cached features were cut at {cut}; leave "
                f"it out of tune.space, or set train.unfreeze_from to {block} and run dvc repro split first"
            )


@contextmanager
def open_study(train: TrainParams, params: TuneParams) -> Iterator[optuna.Study]:
    """Create or continue the study of these features, split, search space and fixed params; close its file at the end.

    Raises LanduseError if its file is damaged or not writable.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, name = TUNE / "study.db", study_name(train, params)
    try:
        storage = optuna.storages.RDBStorage(f"{SQLITE}{file}")
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS),
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        is_disk_error = re.search(DISK_ERRORS, reason)
        remedy = "free some space, and make it writable" if is_disk_error else "remove it to start a new search"
        raise LanduseError(f"{file} cannot be used ({reason}): {remedy}") from None
    study.sampler = optuna.samplers.TPESampler(seed=train.seed + len(study.trials))  # or it would repeat its samples
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # its command was killed
    try:
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def study_name(train: TrainParams, params: TuneParams) -> str:
    """Return a digest of everything that a trial's score depends on, except the values in the search space.

    This includes `tta_views`: in end-to-end training, views are averaged during training too.
    """
    left_out = {*params.space, "target_selective_accuracy"}
    fixed = {key: value for key, value in asdict(train).items() if key not in left_out}
    data, code = lineage.data_record()["md5"], [stage_guard.code_digest("train"), lineage.versions()]
    basis = [data, code, features.metadata(), require(SPLITS).read_text("utf-8"), fixed, asdict(params)["space"]]
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


def count_ended(study: optuna.Study) -> int:
    """Count the trials that were completed, or pruned because others did better."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def has_best_trial(study: optuna.Study) -> bool:
    """Return True if a trial was completed."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def current_values(train: TrainParams, space: dict[str, Choices]) -> dict[str, Any]:
    """Return the values of `train` for the keys of the search space."""
    return {key: getattr(train, key) for key in space}


def key_outside(values: dict[str, Any], space: dict[str, Choices]) -> str | None:
    """Return the first key whose value is not in the search space, and so cannot be tried; None if all are."""
    for key, choices in space.items():
        inside = choices.low <= values[key] <= choices.high if isinstance(choices, Range) else values[key] in choices
        if not inside:
            return key
    return None


def find_score(study: optuna.Study, values: dict[str, Any]) -> float | None:
    """Return the score of the completed trial of these values, or None."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial.value for trial in completed if trial.user_attrs[VALUES] == values), None)


def is_tried(study: optuna.Study, values: dict[str, Any]) -> bool:
    """Return True if a trial of these values has ended or is waiting."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING)
    return any(trial.user_attrs.get(VALUES) == values for trial in study.get_trials(deepcopy=False, states=states))


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


def run_trial(study: optuna.Study, trainer: "Trainer", train: TrainParams, params: TuneParams, parent: str) -> None:
    """Run one trial and log it below the parent run. A trial that diverges counts as pruned.

    Enqueued values are used with all their digits.
    """
    trial = study.ask()
    suggested, callback, state = suggest(trial, params.space), PruningCallback(trial), TrialState.FAIL
    values = trial.user_attrs.get(VALUES, suggested)
    trial.set_user_attr(VALUES, values)
    try:
        trainer.fit(replace(train, **values), callback)
        state = TrialState.COMPLETE
    except (optuna.TrialPruned, LanduseError):
        state = TrialState.PRUNED
    finally:
        if state == TrialState.FAIL:
            study.tell(trial, state=state)
    score = callback.score if callback.rows else None
    tracking.log_trial(parent, f"trial-{trial.number:03}", values, callback.rows, score, state.name.lower())
    study.tell(trial, score if state == TrialState.COMPLETE else None, state)  # last, so that an ended trial has a run


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
