"""Files that follow data/ when it is replaced: its record in data.dvc, and the results of the stage `validate`."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml

from landuse.core.errors import LanduseError
from landuse.core.files import write_whole
from landuse.core.paths import ARTIFACTS, DATA_DVC, VALIDATED
from landuse.ingest.swap import BEFORE, INCOMING, remove
from landuse.params import ValidateParams, load_params
from landuse.project.dvc_repo import commit_validation, is_validated
from landuse.project.lineage import read_data_dvc

CANDIDATE = INCOMING / "candidate"


def recorded() -> dict[str, Any]:
    """The version in data.dvc, and its `meta` unless that is of another version. Empty where there is no data.dvc."""
    if not DATA_DVC.exists():
        return {}
    content = read_data_dvc()
    version, meta = content["outs"][0]["md5"], content.get("meta") or {}
    return meta if meta.get("version") == version else {"version": version}


def digest_of(validate: ValidateParams) -> str:
    """A digest that tells two sets of requirements apart."""
    text = json.dumps(asdict(validate), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write_record(facts: dict[str, Any]) -> dict[str, Any]:
    """Put the facts and the version they belong to into the `meta` of data.dvc, which DVC keeps."""
    content = read_data_dvc()
    kept = {key: value for key, value in (content.get("meta") or {}).items() if key != "supersedes"}
    content["meta"] = {**kept, **facts, "version": content["outs"][0]["md5"]}
    write_whole(DATA_DVC, dumps_yaml(content))
    return content["meta"]


def keep_findings(repo: Repo) -> None:
    """Make what validation found in the candidate the results of the stage `validate`; it may be begun again."""
    ARTIFACTS.mkdir(exist_ok=True)
    for path in VALIDATED:
        if os.path.lexists(BEFORE / path.name):
            remove(path)
        elif os.path.lexists(path):
            shutil.move(path, BEFORE / path.name)
        copy(CANDIDATE / path.name, path)
    commit_validation(repo)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder: DVC takes away what it commits before it puts a link there, and may be killed between."""
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def complete(repo: Repo, facts: dict[str, Any]) -> None:
    """Let the files of DVC follow data/ where an ingest was killed before they did, unless somebody did so since.

    Results that cannot be recorded are those that `dvc repro` makes anew.
    """
    if recorded().keys() == {"version"}:
        write_record(facts)
    with suppress(DvcException, LanduseError, OSError):
        found = all((CANDIDATE / path.name).exists() for path in VALIDATED)
        if found and not is_validated(repo) and digest_of(load_params().validate) == facts["checks"]:
            keep_findings(repo)
