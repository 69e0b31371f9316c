"""Keep DVC's files in step when data/ is replaced: its metadata in data.dvc, and the outputs of stage `validate`."""

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
from landuse.core.files import write_atomically
from landuse.core.paths import ARTIFACTS, DATA_DVC, INCOMING, VALIDATE_OUTPUTS
from landuse.ingest.swap import BACKUP, remove
from landuse.params import ValidateParams, load_params
from landuse.project.dvc_repo import commit_validation, is_validated
from landuse.project.lineage import read_data_dvc

CANDIDATE = INCOMING / "candidate"


def read_metadata() -> dict[str, Any]:
    """Return the `meta` of data.dvc if it describes the current version, else the version alone.

    Returns an empty dict if there is no data.dvc.
    """
    if not DATA_DVC.exists():
        return {}
    content = read_data_dvc()
    version, meta = content["outs"][0]["md5"], content.get("meta") or {}
    return meta if meta.get("version") == version else {"version": version}


def params_digest(validate: ValidateParams) -> str:
    """Return a digest that identifies the requirements of a validation."""
    text = json.dumps(asdict(validate), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Merge the metadata and the current version into the `meta` of data.dvc, which DVC preserves; return it.

    The same data set from the same source, restored, keeps the batches on record.
    """
    content = read_data_dvc()
    version = content["outs"][0]["md5"]
    previous = {key: value for key, value in (content.get("meta") or {}).items() if key != "supersedes"}
    if {"version": version, "digest": metadata.get("digest")}.items() <= previous.items():
        metadata = {key: value for key, value in metadata.items() if key != "batches"}
    merged = {**previous, **metadata, "version": version}
    content["meta"] = merged
    write_atomically(DATA_DVC, dumps_yaml(content))
    return merged


def adopt_validation(repo: Repo) -> None:
    """Make the candidate's validation results the outputs of stage `validate`. Safe to repeat after an interruption."""
    ARTIFACTS.mkdir(exist_ok=True)
    for path in VALIDATE_OUTPUTS:
        if os.path.lexists(BACKUP / path.name):
            remove(path)
        elif os.path.lexists(path):
            shutil.move(path, BACKUP / path.name)
        copy(CANDIDATE / path.name, path)
    commit_validation(repo)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder.

    The original must stay: DVC removes what it commits before it links it from the cache, and may be killed in between.
    """
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def complete_swap(repo: Repo, metadata: dict[str, Any]) -> None:
    """Update DVC's files for data/ if an ingest was killed before it did, unless they were updated since.

    Validation results that cannot be recorded are left for `dvc repro` to regenerate.
    """
    if read_metadata().keys() == {"version"}:
        write_metadata(metadata)
    with suppress(DvcException, LanduseError, OSError):
        is_complete = all((CANDIDATE / path.name).exists() for path in VALIDATE_OUTPUTS)
        if is_complete and not is_validated(repo) and params_digest(load_params().validate) == metadata["checks"]:
            adopt_validation(repo)
