"""The model registry: versions, their files, and the aliases that name the champion.

All functions run within `tracking.store()` or `existing_store()`.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from shutil import rmtree

from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from landuse import tracking
from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.core.files import read_record, sha256_of
from landuse.core.paths import SQLITE
from landuse.ml.classifier import CARD_FILE, Classifier, model_digest
from landuse.registry.location import location_of as location_of
from landuse.tracking import MODEL_TAG
from landuse.tracking.backend_store import FILES, connect, project_folder_of, transfer_errors
from landuse.tracking.backend_store import REREGISTER as REREGISTER
from landuse.tracking.names import facts_of, is_dirty

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"
MODEL_FOLDER = "artifacts/model"
DATA_SUFFIXES = frozenset({".tflite", ".keras", ".json", ".parquet"})  # the model's own files hold data, never code
FILES_TAG = "model.files.sha256"
MLFLOW_META_FILE = "registered_model_meta"  # MLflow leaves it in a folder that it loaded a model from
MAX_LISTED = 10
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def existing_store() -> Iterator[str]:
    """Open MLflow's store like `tracking.store()`, but raise LanduseError instead of creating a missing one."""
    with connect() as uri:
        refuse_missing_store(uri)
        with tracking.store():
            yield uri


def refuse_missing_store(uri: str) -> None:
    """Raise LanduseError if the store is an SQLite file that does not exist: MLflow would create it."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise LanduseError(
            f"there is no registry at {uri} yet: dvc repro makes it, and one that was lost is filled again by "
            f"{REREGISTER}"
        )


def aliases(name: str) -> dict[str, str]:
    """Map each alias of a model to its version number. Raises LanduseError if the registry has no such model."""
    try:
        by_alias = MlflowClient().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        raise LanduseError(
            f"the registry has no model {name}: dvc repro registers one (register.model), and one that was lost is "
            f"registered again by {REREGISTER}"
        ) from None
    return {alias: str(version) for alias, version in by_alias.items()}


def set_alias(name: str, alias: str, number: str | None) -> None:
    """Point an alias to a version, or remove the alias if the number is None."""
    if number is None:
        MlflowClient().delete_registered_model_alias(name, alias)
    else:
        MlflowClient().set_registered_model_alias(name, alias, number)


def get_version(name: str, number: str) -> ModelVersion:
    """Return a version by its number. Raises LanduseError if the registry does not have it."""
    version = find_version(name, number)
    if version is None:
        existing = sorted(version_numbers(name), key=int)[-MAX_LISTED:]
        has = f"it has {', '.join(existing)}" if existing else f"the models are {model_names()} (register.model)"
        raise LanduseError(f"{name} has no version {number} in the registry: {has}")
    return version


def find_version(name: str, number: str) -> ModelVersion | None:
    """Return a version by its number, or None if it was deleted or never existed."""
    try:
        return MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        return None


def version_numbers(name: str) -> set[str]:
    """Return the numbers of all existing versions of a model."""
    return {str(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'")}


def model_names() -> str:
    """List the names of the registered models, at most `MAX_LISTED` of them."""
    models = MlflowClient().search_registered_models(max_results=MAX_LISTED)
    return ", ".join(model.name for model in models) or "none yet"


def title(version: ModelVersion) -> str:
    """Format a version for messages."""
    return f"{version.name} version {version.version}"


def find_version_of_model(name: str, sha256: str) -> ModelVersion | None:
    """Return the version with this model digest, or None; of several, the first one from committed code."""
    versions = MlflowClient().search_model_versions(f"name = '{name}'")
    same = [version for version in versions if facts_of(version.tags).get(MODEL_TAG) == sha256]
    return min(same, key=lambda version: (is_dirty(version.tags), int(version.version)), default=None)


def fetch_model(version: ModelVersion, folder: Path) -> Classifier:
    """Copy all files of a version into a folder and open its exported model. No code of it is run or unpickled.

    Raises LanduseError if files are lost, damaged, changed since registration or outside the store's artifact root,
    and Unavailable if they exist but cannot be fetched now.
    """
    location = location_of(version)
    try:
        copy_files(location, folder)
        refuse_changed_files(version, folder)
        return Classifier(folder / MODEL_FOLDER)
    except transfer_errors():  # a failed transfer says nothing about the files
        raise
    except (MlflowException, LanduseError, OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error, 160)
        if isinstance(error, MlflowException) and get_artifact_repository(location).list_artifacts(MODEL_FOLDER):
            raise Unavailable(f"{title(version)} cannot be fetched, its files are there: {reason}") from None
        raise LanduseError(f"{title(version)} is damaged or lost: {reason}{moved_project_hint(version)}") from None


def refuse_changed_files(version: ModelVersion, folder: Path) -> None:
    """Raise LanduseError if the files of a version differ from the registered ones, or unexpected ones are there."""
    model, facts = folder / MODEL_FOLDER, facts_of(version.tags)
    if model_digest(model) != facts.get(MODEL_TAG):
        raise LanduseError(f"they are not those that were registered ({MODEL_TAG})")
    if facts.get(FILES_TAG, "") not in ("", digest_of_files(folder)):
        raise LanduseError(f"they are not those that were registered ({FILES_TAG})")
    for name, expected in read_record(model / CARD_FILE).get("files", {}).items():
        if Path(name).name != name or sha256_of(model / name) != expected:
            raise LanduseError(f"{name} is not the one that was registered")
    for path in model.rglob("*"):
        if path.suffix not in DATA_SUFFIXES:
            raise LanduseError(f"{MODEL_FOLDER}/{path.relative_to(model)} is no file of a model")


def digest_of_files(folder: Path) -> str:
    """Compute one sha256 over the names and contents of all files below a folder."""
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def copy_files(location: str, folder: Path) -> None:
    """Copy all files of an artifact location into a folder, without what loading them in place left there.

    MLflow neither follows links nor writes files that lead out of the location.
    """
    folder.mkdir(parents=True, exist_ok=True)
    get_artifact_repository(location).download_artifacts("", str(folder))  # type: ignore[no-untyped-call]  # untyped in MLflow
    (folder / MLFLOW_META_FILE).unlink(missing_ok=True)
    for cache in [*folder.rglob("__pycache__")]:  # Python would run the cached code instead of the source beside it
        rmtree(cache)


def moved_project_hint(version: ModelVersion) -> str:
    """Return the remedy if the project was moved (the store names files by absolute path), else an empty string."""
    location = MlflowClient().get_model_version_download_uri(version.name, version.version)
    before = project_folder_of(location)
    if not before or Path(before).exists() or not Path(FILES).is_dir():
        return ""
    return f'; the project was in {before}: ln -s "$PWD" {quote(before)}'
