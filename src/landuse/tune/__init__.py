"""Tune: better values for `train`, found by trying on what is cached; one MLflow run with a nested run per trial."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import optuna

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.paths import TUNE
from landuse.core.process import alone
from landuse.core.progress import track
from landuse.core.streams import tensorflow_starts
from landuse.params import ExtractParams, TrainParams, TuneParams
from landuse.tune.pictures import draw
from landuse.tune.study import (
    VALUES,
    attempt,
    came_to_an_end,
    ended,
    is_tried,
    open_study,
    outside,
    present,
    refuse_uncached,
    score_of,
)

RUN, FINISHED = "run", "finished"  # of a study: its MLflow run, and how many trials that holds the best of
BUSY = "another landuse tune is at work in this project: wait for it, or stop it"


def tune(train: TrainParams, params: TuneParams, extract: ExtractParams, tell: Callable[[str], None]) -> dict[str, Any]:
    """Go on with the study of this data, split and space until it has its trials; returns the best values.

    Stopped by Ctrl-C, the study and the MLflow run hold what there is. Raises LanduseError where features that are not
    cached would be needed, another `landuse tune` is at work, or no trial came to its end.
    """
    refuse_uncached(train, params, extract)
    with alone(TUNE / "lock", BUSY):
        study = open_study(train, params)
        done = ended(study)
        of = f" of {params.trials}" if done <= params.trials else ""
        tell(f"{done}{of} trials are done; what is trained begins at {train.unfreeze_from}")
        now = present(train, params.space)
        if unheld := outside(now, params.space):
            tell(f"the present values are not tried: tune.space.{unheld} does not hold {now[unheld]}")
        elif done >= params.trials and not is_tried(study, now):
            tell("the present values are not tried: raise tune.trials")
        due = done < params.trials or study.user_attrs.get(FINISHED) != done  # the command before may have been killed
        stopped = due and not finish(study, train, params, None if unheld else now)
    if stopped:
        tell(f"{ended(study)} of {params.trials} trials are kept: the same command goes on")
        raise KeyboardInterrupt
    if not came_to_an_end(study):
        raise LanduseError("no trial came to its end: lower tune.space.learning_rate, or give it more time")
    best = study.best_trial
    score = score_of(study, now)
    beside = "" if score is None else f", {score:.4f} with the present values"
    tell(f"trial {best.number} is the best: validation accuracy {best.value:.4f}{beside}")
    return best.user_attrs[VALUES]


def finish(study: optuna.Study, train: TrainParams, params: TuneParams, first: dict[str, Any] | None) -> bool:
    """Make the trials that are missing and log what came of all; false where Ctrl-C came before the end."""
    complete = True
    with tracking.tuning_run(study.user_attrs.get(RUN)) as parent:
        study.set_user_attr(RUN, parent)
        if ended(study) < params.trials:
            complete = make_trials(study, train, params, first, parent)
        if came_to_an_end(study):
            draw(study, TUNE)
            tracking.finish_tuning(study.best_trial.user_attrs[VALUES], study.best_value, TUNE)
    study.set_user_attr(FINISHED, ended(study))
    return complete


def make_trials(
    study: optuna.Study, train: TrainParams, params: TuneParams, first: dict[str, Any] | None, parent: str
) -> bool:
    """Make the trials that are missing, all below one MLflow run; false where Ctrl-C came before the end.

    The first one is of given values, unless these were tried.
    """
    with tensorflow_starts():
        from landuse.train.trainer import Bench
    done, bench = ended(study), Bench(train)
    if first is not None and not is_tried(study, first):
        study.enqueue_trial(first, user_attrs={VALUES: first})
    with suppress(KeyboardInterrupt):
        for _ in track(range(done, params.trials), params.trials - done, "tune"):
            attempt(study, bench, train, params, parent)
        return True
    return False
