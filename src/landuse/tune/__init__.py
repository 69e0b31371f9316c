"""Tune values of `train` by trials on cached features; one MLflow run with a nested run per trial."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import optuna

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.paths import TUNE
from landuse.core.process import exclusive_lock
from landuse.core.progress import track
from landuse.core.streams import quiet_tensorflow_import
from landuse.params import ExtractParams, TrainParams, TuneParams
from landuse.tune.plots import plot_study
from landuse.tune.study import (
    VALUES,
    count_ended,
    current_values,
    find_score,
    has_best_trial,
    is_tried,
    key_outside,
    open_study,
    refuse_uncached,
    run_trial,
)

RUN, FINISHED = "run", "finished"  # attributes of a study: its MLflow run, and the number of trials logged there
BUSY = "another landuse tune is at work in this project: wait for it, or stop it"


def tune(
    train: TrainParams, params: TuneParams, extract: ExtractParams, report: Callable[[str], None]
) -> dict[str, Any]:
    """Continue the study of this data, split and space until it has all its trials; return the best values.

    On Ctrl-C, the study and the MLflow run keep the trials so far. Raises LanduseError if features that are not cached
    would be needed, another `landuse tune` is running, or no trial completed.
    """
    refuse_uncached(train, params, extract)
    with exclusive_lock(TUNE / "lock", BUSY), open_study(train, params) as study:
        done = count_ended(study)
        of = f" of {params.trials}" if done <= params.trials else ""
        report(f"{done}{of} trials are done; training starts at {train.unfreeze_from}")
        current = current_values(train, params.space)
        if outside := key_outside(current, params.space):
            report(f"the current values cannot be tried: tune.space.{outside} does not contain {current[outside]}")
        elif done >= params.trials and not is_tried(study, current):
            report("the current values were not tried: raise tune.trials")
        pending = done < params.trials or study.user_attrs.get(FINISHED) != done  # killed before it logged the results
        if pending and not complete_study(study, train, params, None if outside else current):
            report(f"{count_ended(study)} of {params.trials} trials are kept: run the same command to continue")
            raise KeyboardInterrupt
        return best_values(study, current, report)


def best_values(study: optuna.Study, current: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Return the values of the best trial, and report its score beside that of the current values.

    Raises LanduseError if no trial completed.
    """
    if not has_best_trial(study):
        raise LanduseError("no trial was completed: lower tune.space.learning_rate, or raise tune.trials")
    best = study.best_trial
    score = find_score(study, current)
    comparison = "" if score is None else f", {score:.4f} with the current values"
    report(f"trial {best.number} is the best: validation accuracy {best.value:.4f}{comparison}")
    values: dict[str, Any] = best.user_attrs[VALUES]
    for key, value in values.items():
        report(f"  {key:<16} {value!s:<10} now {current[key]}")
    return values


def complete_study(study: optuna.Study, train: TrainParams, params: TuneParams, first: dict[str, Any] | None) -> bool:
    """Run the missing trials and log the results; return False if interrupted by Ctrl-C."""
    complete = True
    with tracking.tuning_run(study.user_attrs.get(RUN)) as parent:
        study.set_user_attr(RUN, parent)
        if count_ended(study) < params.trials:
            complete = run_trials(study, train, params, first, parent)
        if has_best_trial(study):
            plot_study(study, TUNE)
            tracking.finish_tuning(study.best_trial.user_attrs[VALUES], study.best_value, TUNE)
    study.set_user_attr(FINISHED, count_ended(study))
    return complete


def run_trials(
    study: optuna.Study, train: TrainParams, params: TuneParams, first: dict[str, Any] | None, parent: str
) -> bool:
    """Run the missing trials below one MLflow run; return False if interrupted by Ctrl-C.

    The values in `first` are tried first, unless they were tried already.
    """
    with quiet_tensorflow_import():
        from landuse.train.trainer import Trainer
    done, trainer = count_ended(study), Trainer(train)
    if first is not None and not is_tried(study, first):
        study.enqueue_trial(first, user_attrs={VALUES: first})
    with suppress(KeyboardInterrupt):
        for _ in track(range(done, params.trials), params.trials - done, "tune"):
            run_trial(study, trainer, train, params, parent)
        return True
    return False
