"""The study of a search: its name, the values that are tried, and how its trials did."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState

from landuse.core.errors import LanduseError
from landuse.core.files import require
from landuse.core.paths import SPLITS
from landuse.ml import features
from landuse.params import ExtractParams, TrainParams, TuneParams
from landuse.params.types import Choices, Range
from landuse.project import lineage, stage_guard

VALUES = "values"  # attribute of a trial: its values, rounded to three significant digits


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


def study_name(train: TrainParams, params: TuneParams) -> str:
    """Return a digest of everything that a trial's score depends on, except the values in the search space.

    This includes `tta_views`: in end-to-end training, views are averaged during training too. The path of the weights
    is left out, since it may differ between machines: their content counts.
    """
    left_out = {*params.space, "target_selective_accuracy"}
    fixed = {key: value for key, value in asdict(train).items() if key not in left_out}
    data, code = lineage.data_record()["md5"], [stage_guard.code_digest("train"), lineage.versions()]
    metadata = features.metadata()
    made = metadata | {"params": metadata["params"] | {"weights": None}}
    basis = [data, code, made, require(SPLITS).read_text("utf-8"), fixed, asdict(params)["space"]]
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
    """Return True if a trial of these values has ended, is at work or is waiting."""
    trials = study.get_trials(deepcopy=False)
    return any(trial.user_attrs.get(VALUES) == values for trial in trials if trial.state != TrialState.FAIL)
