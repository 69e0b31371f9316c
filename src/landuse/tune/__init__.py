"""Tune values of `train` by trials on cached features; one MLflow run with a nested run per trial.

Any number of processes, on any number of machines, may work on the same search at once.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import Any

import optuna

from landuse.core.errors import LanduseError
from landuse.core.progress import track
from landuse.params import ExtractParams, TrainParams, TuneParams
from landuse.tune import runs
from landuse.tune.search import Search, open_search
from landuse.tune.study import (
    VALUES,
    count_ended,
    current_values,
    find_score,
    has_best_trial,
    is_tried,
    key_outside,
    refuse_uncached,
    study_name,
)
from landuse.tune.trial import run_trials
from landuse.tune.workers import run_workers


def tune(
    train: TrainParams, params: TuneParams, extract: ExtractParams, report: Callable[[str], None], workers: int = 1
) -> dict[str, Any]:
    """Join the search of this data, split and space until it has all its trials; return the best values.

    With more than one worker, so many processes run the trials. On Ctrl-C, the search and its MLflow run keep the
    trials so far. Raises LanduseError if features that are not cached would be needed, or no trial completed, and
    Unavailable if the storage does not answer.
    """
    refuse_uncached(train, params, extract)
    with open_search(study_name(train, params), params.storage) as search:
        study = search.study
        done = count_ended(study)
        of = f" of {params.trials}" if done <= params.trials else ""
        report(f"{done}{of} trials are done; training starts at {train.unfreeze_from}")
        current = current_values(train, params.space)
        if outside := key_outside(current, params.space):
            report(f"the current values cannot be tried: tune.space.{outside} does not contain {current[outside]}")
        elif done >= params.trials and not is_tried(study, current):
            report("the current values were not tried: raise tune.trials")
        first = None if outside else current
        pending = done < params.trials or study.user_attrs.get(runs.FINISHED) != done  # killed before it logged them
        if pending and not complete_search(search, train, params, first, workers, report):
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


def complete_search(
    search: Search,
    train: TrainParams,
    params: TuneParams,
    first: dict[str, Any] | None,
    workers: int,
    report: Callable[[str], None],
) -> bool:
    """Run the missing trials and log the results; return False if interrupted by Ctrl-C."""
    with runs.search_run(search) as parent:
        work = (search, train, params, first, parent)
        steps = run_trials(*work) if workers == 1 else run_workers(workers, *work, report)
        return show_progress(search.study, params.trials, steps)


def show_progress(study: optuna.Study, trials: int, steps: Generator[None]) -> bool:
    """Show how many trials have ended while the steps of the work are done; return False if interrupted by Ctrl-C."""
    if (missing := trials - count_ended(study)) <= 0:
        return True
    with suppress(KeyboardInterrupt), closing(steps):
        for _ in track(ended_trials(study, trials, steps), missing, "tune"):
            pass
        return True
    return False


def ended_trials(study: optuna.Study, trials: int, steps: Iterator[None]) -> Iterator[int]:
    """Yield the count of ended trials for each one that ends, in whatever process, while steps of the work are done."""
    done = count_ended(study)
    for _ in steps:
        now = min(count_ended(study), trials)
        yield from range(done + 1, now + 1)
        done = max(done, now)
