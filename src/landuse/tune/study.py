"""The study: which values were tried and what came of them, in a file that outlives the command."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.files import made
from landuse.core.paths import SPLITS, SQLITE, TUNE
from landuse.ml import features
from landuse.params import ExtractParams, Range, TrainParams, TuneParams
from landuse.project import lineage, stage_guard

if TYPE_CHECKING:
    from landuse.train.loop import Outcome
    from landuse.train.trainer import Bench

STARTUP_TRIALS = 10
EPOCHS_BETWEEN_LOOKS = 4  # to compare a trial with the others means to read them all from the file
DIGITS = 3
DISK = "disk is full|disk I/O|readonly"  # in what SQLite says of a disk rather than of the file
VALUES = "values"  # of a trial, with the digits that count


def refuse_uncached(train: TrainParams, params: TuneParams, extract: ExtractParams) -> None:
    """Raise LanduseError where training would begin elsewhere than the cached features were cut, or they are others."""
    facts = features.facts()
    cut, now = facts["cut"], asdict(extract)
    for key, was in facts["params"].items():
        if was != now[key]:
            raise LanduseError(f"extract.{key} = {now[key]}: what is cached was made with {was}; dvc repro split first")
    if train.unfreeze_from != cut:
        raise LanduseError(
            f"train.unfreeze_from = {train.unfreeze_from}: what is cached was cut at {cut}; dvc repro split first"
        )
    for block in params.space.get("unfreeze_from", ()):
        if block != cut:
            raise LanduseError(
                f"unfreeze_from = {block} would force a new extraction: what is cached was cut at {cut}; leave it out "
                f"of tune.space, or set train.unfreeze_from to {block} and run dvc repro split first"
            )


def open_study(train: TrainParams, params: TuneParams) -> optuna.Study:
    """The study of these features, split, space and all that is not in the space: begun, or gone on with.

    Raises LanduseError where its file is damaged or cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, name = TUNE / "study.db", study_name(train, params)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=f"{SQLITE}{file}",
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS),
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        begin_anew = "remove it, and the search begins anew"
        remedy = "free some space, and let this user write it" if re.search(DISK, reason) else begin_anew
        raise LanduseError(f"{file} cannot be used ({reason}): {remedy}") from None
    study.sampler = optuna.samplers.TPESampler(seed=train.seed + len(study.trials))  # else it tried the same again
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # the command that ran it was killed
    return study


def study_name(train: TrainParams, params: TuneParams) -> str:
    """A digest of everything that a trial's score depends on, but for the values that are tried.

    Of what no trial may try, `averaged_views` is part of it: where all is trained, views are averaged in training too.
    """
    fixed = {key: value for key, value in asdict(train).items() if key not in {*params.space, "sure_accuracy"}}
    data, code = lineage.data_record()["md5"], [stage_guard.code_of("train"), lineage.versions()]
    basis = [data, code, features.facts(), made(SPLITS).read_text("utf-8"), fixed, asdict(params)["space"]]
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


def ended(study: optuna.Study) -> int:
    """How many trials came to an end: completed, or stopped early because others did better."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def came_to_an_end(study: optuna.Study) -> bool:
    """Whether there is a best trial: one that was not ended early."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def present(train: TrainParams, space: dict[str, Range | tuple]) -> dict[str, Any]:
    """What `train` says of the keys of the space."""
    return {key: getattr(train, key) for key in space}


def outside(values: dict[str, Any], space: dict[str, Range | tuple]) -> str | None:
    """The first key of which the space does not hold the value, so that it cannot be tried; None if there is none."""
    for key, choices in space.items():
        held = choices.low <= values[key] <= choices.high if isinstance(choices, Range) else values[key] in choices
        if not held:
            return key
    return None


def score_of(study: optuna.Study, values: dict[str, Any]) -> float | None:
    """The score of the trial of these values that came to its end, if there is one."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial.value for trial in done if trial.user_attrs[VALUES] == values), None)


def is_tried(study: optuna.Study, values: dict[str, Any]) -> bool:
    """Whether a trial of these values came to an end, or waits for its turn."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING)
    return any(trial.user_attrs.get(VALUES) == values for trial in study.get_trials(deepcopy=False, states=states))


class Judge:
    """Watches a trial: keeps the score of the epoch that `train` would keep, and ends what lags behind the others."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.rows = trial, []

    def moved(self, *_: object) -> None:
        """Nothing is shown within a trial."""

    def ended(self, row: dict[str, float], *_: "Outcome") -> None:
        """An epoch is over. Raises TrialPruned where the trial is not worth more of them."""
        self.rows.append(row)
        if row["epoch"] % EPOCHS_BETWEEN_LOOKS:
            return
        self.trial.report(self.score, int(row["epoch"]))
        if self.trial.should_prune():
            raise optuna.TrialPruned

    @property
    def score(self) -> float:
        """Validation accuracy of the epoch with the least validation loss."""
        return min(self.rows, key=lambda row: row["validation_loss"])["validation_accuracy"]


def attempt(study: optuna.Study, bench: "Bench", train: TrainParams, params: TuneParams, parent: str) -> None:
    """One trial, told to the study and logged as a run below the parent. One that diverges counts as ended early.

    Values that were given are tried as they are.
    """
    trial = study.ask()
    drawn, judge, state = suggest(trial, params.space), Judge(trial), TrialState.FAIL
    values = trial.user_attrs.get(VALUES, drawn)
    trial.set_user_attr(VALUES, values)
    try:
        bench.fit(replace(train, **values), judge)
        state = TrialState.COMPLETE
    except (optuna.TrialPruned, LanduseError):
        state = TrialState.PRUNED
    finally:
        if state == TrialState.FAIL:
            study.tell(trial, state=state)
    score = judge.score if judge.rows else None
    tracking.log_trial(parent, f"trial-{trial.number:03}", values, judge.rows, score, state.name.lower())
    study.tell(trial, score if state == TrialState.COMPLETE else None, state)  # last: what counts has a run


def suggest(trial: optuna.Trial, space: dict[str, Range | tuple]) -> dict[str, Any]:
    """Values to try, with three digits, as a person would write them."""
    values = {}
    for key, choices in space.items():
        if isinstance(choices, Range):
            drawn = trial.suggest_float(key, choices.low, choices.high, log=choices.log)
            values[key] = min(max(float(f"{drawn:.{DIGITS}g}"), choices.low), choices.high)
        else:
            values[key] = trial.suggest_categorical(key, choices)
    return values
