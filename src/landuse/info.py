"""Info: which data, code, run and model version this folder stands for."""

from typing import Any

from landuse import registry, tracking
from landuse.core.errors import LanduseError
from landuse.core.files import read_record
from landuse.core.paths import DATA, DATA_DVC, METRICS, REGISTRATION, RUN
from landuse.project import lineage
from landuse.project.dvc_repo import MODIFIED, repository, status_of_data

NOT_YET = "not there yet: run dvc repro"
MISSING = f"; data/ is missing: dvc pull {DATA_DVC} brings it from the DVC remote, landuse ingest from its source"
EDITED = "; data/ was edited since: dvc checkout --force data undoes that, dvc repro takes it for a new version"


def info() -> str:
    """One line per fact. Raises LanduseError where the registry is lost, or the version that was registered."""
    tags = lineage.tags()
    facts = {
        "data": f"{tags['data.md5']} ({tags['data.kind']}, from {tags['data.source']}){since()}",
        "code": code(tags),
        "packages": ", ".join(f"{name} {version}" for name, version in lineage.versions().items()),
        "trained": trained(read_record(RUN)) if RUN.exists() else NOT_YET,
        "scored": scored(read_record(METRICS)) if METRICS.exists() else NOT_YET,
        "model": registered(read_record(REGISTRATION)) if REGISTRATION.exists() else NOT_YET,
    }
    return "\n".join(f"{name:<9} {line}" for name, line in facts.items())


def code(tags: dict[str, str]) -> str:
    """The commit, and whether the code differed from it."""
    if tags["git.commit"] == "none":
        return "in no commit"
    return tags["git.commit"][:12] + (" with changes" if tags[lineage.DIRTY] == "true" else "")


def since() -> str:
    """What became of data/ since that version, if anything did."""
    if not DATA.exists():
        return MISSING
    try:
        with repository() as repo:
            return EDITED if status_of_data(repo) == MODIFIED else ""
    except LanduseError:  # most likely it is at work
        return "; DVC cannot tell now whether data/ was edited since"


def trained(record: dict[str, Any]) -> str:
    """On which data and from which weights the model was trained, and where."""
    tags = record["tags"]
    return f"on {tags['data.md5']}, weights {tags['weights']}, {tags['device']}, code {code(tags)}"


def scored(metrics: dict[str, Any]) -> str:
    """The headline of the evaluation."""
    where = f"{metrics['images']} {metrics['subset']} images"
    return f"{metrics['accuracy']:.1%} of {where}, macro F1 {metrics['macro_f1']:.3f}"


def registered(registration: dict[str, str]) -> str:
    """Version, aliases and run in the registry, or LanduseError where that version is not there."""
    name, number, sha256 = registration["model"], registration["version"], registration[tracking.MODEL_TAG]
    with registry.at_hand() as uri:
        version = registry.find_version(name, number)
        if version is None or version.tags.get(tracking.MODEL_TAG) != sha256:
            raise LanduseError(
                f"version {number} of {name} is not in the registry at {uri}: register it again with {registry.AGAIN}"
            )
        held = [alias for alias, held_by in registry.aliases(name).items() if held_by == number]
    return f"{name} version {number} ({', '.join(sorted(held)) or 'no alias'}), run {version.run_id}, registry {uri}"
