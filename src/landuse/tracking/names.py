"""Names in MLflow: of runs, tags and metrics, so that a person sees first what matters.

People read `PEOPLES_TAGS`. The other tags of a training start with `landuse.`, and a version keeps them in one of them.
Metrics are named `folder/name`. Earlier runs and versions have plain names, which are still read.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from landuse.core.addresses import hide_folder, public
from landuse.project.lineage import DIRTY, describe_code

PREFIX, MLFLOW_PREFIX = "landuse.", "mlflow."
RECORD = "landuse.record"
PEOPLES_TAGS = ("accuracy", "commit", "data", "gate")
OF_THE_FILE = ("size_mb", "latency_ms", "dead_kernels", "silent_", "int8_", "multiply_adds")  # beginnings of metrics
RECIPE = ("extract.", "split.", "train.")  # sections of params.yaml that tell one training from another
SHORT = {"learning_rate": "lr"}
MAX_CHANGES, MAX_VALUE = 3, 24


def tags_for_people(facts: Mapping[str, str]) -> dict[str, str]:
    """Return what a person should know of a training: its data and its commit."""
    source = hide_folder(public(facts["data.source"]))
    return {"data": f"{facts['data.md5'][:6]} from {source}", "commit": describe_code(facts)}


def machine_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts as tags of a run, each with the prefix."""
    return {f"{PREFIX}{name}": value for name, value in facts.items()}


def record_tag(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts as the single tag of a version."""
    return {RECORD: json.dumps(facts, sort_keys=True)}


def facts_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the facts in the tags of a run or a version by their plain names; a damaged record counts as empty."""
    ours = {name: value for name, value in tags.items() if not name.startswith(MLFLOW_PREFIX) and name != RECORD}
    earlier = {name: value for name, value in ours.items() if not name.startswith(PREFIX) and name not in PEOPLES_TAGS}
    prefixed = {name.removeprefix(PREFIX): value for name, value in ours.items() if name.startswith(PREFIX)}
    return earlier | prefixed | parse_record(tags.get(RECORD, ""))


def is_dirty(tags: Mapping[str, str]) -> bool:
    """Return whether the code of a run or a version was, or may have been, in no commit."""
    return facts_of(tags).get(DIRTY) != "false"


def parse_record(text: str) -> dict[str, str]:
    """Return the texts in a version's record; nothing if it is no JSON object, whoever wrote it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    facts = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in facts if isinstance(value, str)}


def epoch_metric(name: str) -> str:
    """Name the metric of a column of history.csv, such as `train/loss` or `train/validation_loss`."""
    return f"train/{name.removeprefix('train_')}"


def evaluation_metric(name: str, subset: str) -> str:
    """Name the metric of an entry of metrics.json, such as `test/accuracy`; the file itself has `tflite/size_mb`."""
    return f"tflite/{name}" if name.startswith(OF_THE_FILE) else f"{subset}/{name}"


def run_name(facts: Mapping[str, str], params: Mapping[str, Any], before: Mapping[str, str]) -> str:
    """Name a run after data, first trained layer and changes since the training before, as `a1b2c3-block_14 lr=0.01`.

    `before` holds the params of that training as MLflow has them, as text; empty if there was none.
    """
    recipe = {key: value for key, value in params.items() if key.startswith(RECIPE) and key != "train.unfreeze_from"}
    changed = [
        f"{short_key(key)}={short_value(value)}"
        for key, value in recipe.items()
        if before.get(key, str(value)) != str(value)
    ]
    more = [f"and {len(changed) - MAX_CHANGES} more"] if len(changed) > MAX_CHANGES else []
    return " ".join([f"{facts['data.md5'][:6]}-{params['train.unfreeze_from']}", *changed[:MAX_CHANGES], *more])


def short_key(key: str) -> str:
    """Shorten a key of params.yaml; those of `train` go without their section."""
    section, _, name = key.partition(".")
    return SHORT.get(name, name) if section == "train" else key


def short_value(value: object) -> str:
    """Shorten a value: of a path, the last part."""
    return PurePath(str(value)).name[:MAX_VALUE]
