"""Info: which data, code, run and model version this folder stands for."""

from typing import Any

from landuse import registry, tracking
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import read_record
from landuse.core.paths import DATA, DATA_DVC, METRICS, REGISTRATION, RUN
from landuse.params import load_params
from landuse.project import lineage
from landuse.project.dvc_repo import MODIFIED, data_status, repository
from landuse.project.listings import compare_versions
from landuse.tracking.names import facts_of

NOT_YET = "not there yet: run dvc repro"
MISSING = f"; data/ is missing: dvc pull {DATA_DVC} brings it from the DVC remote, landuse ingest from its source"
EDITED = "; data/ was edited since: dvc checkout --force data undoes that, dvc repro takes it for a new version"


def info() -> str:
    """Describe data, code, packages, run, scores and version, one line each.

    Raises LanduseError if the registry, or the version that was registered, no longer exists.
    """
    tags, change = lineage.tags(), describe_change_since_champion()
    facts = {
        "data": f"{tags['data.md5']} ({tags['data.kind']}, from {tags['data.source']}){describe_edit()}",
        "batches": describe_batches(lineage.data_record()),
        **({"changed": f"since the champion's data: {change}"} if change else {}),
        "code": lineage.describe_code(tags),
        "packages": ", ".join(f"{name} {version}" for name, version in lineage.versions().items()),
        "trained": describe_training(read_record(RUN)) if RUN.exists() else NOT_YET,
        "scored": describe_metrics(read_record(METRICS)) if METRICS.exists() else NOT_YET,
        "model": describe_version(read_record(REGISTRATION)) if REGISTRATION.exists() else NOT_YET,
    }
    return "\n".join(f"{name:<9} {line}" for name, line in facts.items())


def describe_edit() -> str:
    """Return what has happened to data/ since it was versioned; empty if nothing."""
    if not DATA.exists():
        return MISSING
    try:
        with repository() as repo:
            return EDITED if data_status(repo) == MODIFIED else ""
    except LanduseError:  # most likely another DVC command is running
        return "; DVC cannot tell now whether data/ was edited since"


def describe_batches(data: dict[str, Any]) -> str:
    """Return the number of batches that the data set is made of, and the last one; before they were recorded, one."""
    if not (batches := data.get("batches")):
        return f"1: {data.get('source', 'unknown')}"
    last = batches[-1]
    when = f" on {last['date'][:10]}" if "date" in last else ""
    which = ", the last one" if len(batches) > 1 else ""
    return f"{len(batches)}{which}: {last['source']}, {last['images']:+,} images{when}"


def describe_change_since_champion() -> str | None:
    """Return how the data set differs from the champion's, or why that is not known; None if there is no champion."""
    try:
        before = champions_data(load_params().register.model)
    except Unavailable as error:
        return f"not known now ({error})"
    except LanduseError:  # there is no registry, or no such model in it
        return None
    try:
        return str(compare_versions(before, lineage.data_record()["md5"])) if before else None
    except LanduseError as error:
        return f"not known ({error})"


def champions_data(model: str) -> str | None:
    """Return the md5 of the data set that the champion was trained on; None if there is none, or it is not known."""
    with registry.existing_store():
        number = registry.aliases(model).get(registry.CHAMPION)
        return facts_of(registry.get_version(model, number).tags).get("data.md5") if number else None


def describe_training(record: dict[str, Any]) -> str:
    """Return on which data, from which weights, on which device and with which code the model was trained."""
    tags = record["tags"]
    return f"on {tags['data.md5']}, weights {tags['weights']}, {tags['device']}, code {lineage.describe_code(tags)}"


def describe_metrics(metrics: dict[str, Any]) -> str:
    """Return the headline of the evaluation."""
    where = f"{metrics['images']} {metrics['subset']} images"
    return f"{metrics['accuracy']:.1%} of {where}, macro F1 {metrics['macro_f1']:.3f}"


def describe_version(registration: dict[str, str]) -> str:
    """Return version, aliases and run in the registry. Raises LanduseError if the version is not there."""
    name, number, sha256 = registration["model"], registration["version"], registration[tracking.MODEL_TAG]
    with registry.existing_store() as uri:
        version = registry.find_version(name, number)
        if version is None or facts_of(version.tags).get(tracking.MODEL_TAG) != sha256:
            where = f"version {number} of {name} is not in the registry at {uri}"
            raise LanduseError(f"{where}: register it again with {registry.REREGISTER}")
        own_aliases = sorted(alias for alias, held_by in registry.aliases(name).items() if held_by == number)
    return f"{name} version {number} ({', '.join(own_aliases) or 'no alias'}), run {version.run_id}, registry {uri}"
