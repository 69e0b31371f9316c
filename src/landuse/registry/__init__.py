"""The model registry: versions, the aliases that say who is champion, and their files. Within `tracking.store()`."""

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
from landuse.ml.classifier import CARD_FILE, Classifier, digest
from landuse.project.lineage import DIRTY
from landuse.registry.location import location_of
from landuse.tracking import MODEL_TAG
from landuse.tracking.backend_store import AGAIN, FILES, folder_of, reach, transfer_errors

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"
MODEL_FOLDER = "artifacts/model"
DATA_SUFFIXES = frozenset({".tflite", ".keras", ".json", ".parquet"})  # of the model's own files, which are no code
FILES_TAG = "model.files.sha256"
LEFT_BY_MLFLOW = "registered_model_meta"
SHOWN = 10
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def at_hand() -> Iterator[str]:
    """MLflow's store, as `tracking.store()`, for what finds nothing in a new one: raises LanduseError where none is."""
    with reach() as uri:
        refuse_missing(uri)
        with tracking.store():
            yield uri


def refuse_missing(uri: str) -> None:
    """Raise LanduseError where the store is a file that is not there: MLflow would make it."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise LanduseError(
            f"there is no registry at {uri} yet: dvc repro makes it, and one that was lost is filled again by {AGAIN}"
        )


def aliases(name: str) -> dict[str, str]:
    """The version behind each alias of a model. Raises LanduseError where the registry does not know the model."""
    try:
        held = MlflowClient().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        raise LanduseError(
            f"the registry has no model {name}: dvc repro registers one (register.model), and one that was lost is "
            f"registered again by {AGAIN}"
        ) from None
    return {alias: str(version) for alias, version in held.items()}


def set_alias(name: str, alias: str, number: str | None) -> None:
    """Let an alias stand for a version, or for none."""
    if number is None:
        MlflowClient().delete_registered_model_alias(name, alias)
    else:
        MlflowClient().set_registered_model_alias(name, alias, number)


def get_version(name: str, number: str) -> ModelVersion:
    """A version by its number. Raises LanduseError where the registry does not have it."""
    version = find_version(name, number)
    if version is None:
        there = sorted(numbers(name), key=int)
        has = f"it has {', '.join(there[-SHOWN:])}" if there else f"the models are {models()} (register.model)"
        raise LanduseError(f"{name} has no version {number} in the registry: {has}")
    return version


def find_version(name: str, number: str) -> ModelVersion | None:
    """A version by its number, or None where it was deleted or never was."""
    try:
        return MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None


def numbers(name: str) -> set[str]:
    """The numbers of all versions there are."""
    return {str(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'")}


def models() -> str:
    """The names of models there are, some of them where there are many."""
    return ", ".join(model.name for model in MlflowClient().search_registered_models(max_results=SHOWN)) or "none yet"


def title(version: ModelVersion) -> str:
    """A version in words."""
    return f"{version.name} version {version.version}"


def version_of_model(name: str, sha256: str) -> ModelVersion | None:
    """The version that holds this very model, if there is one; of several, the first whose code was committed."""
    found = MlflowClient().search_model_versions(f"name = '{name}' and tag.`{MODEL_TAG}` = '{sha256}'")
    return min(found, key=lambda version: (version.tags.get(DIRTY) != "false", int(version.version)), default=None)


def fetch_model(version: ModelVersion, folder: Path) -> Classifier:
    """The exported model of a version, whose files are all copied into the folder. Nothing of it is run or unpickled.

    Raises LanduseError where its files are lost, damaged, not those that were registered, or outside of the store, and
    Unavailable where they are there and cannot be had.
    """
    location = location_of(version)
    try:
        copy_files(location, folder)
        refuse_changed(version, folder)
        return Classifier(folder / MODEL_FOLDER)
    except transfer_errors():  # they say nothing of the files
        raise
    except (MlflowException, LanduseError, OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error, 160)
        if isinstance(error, MlflowException) and get_artifact_repository(location).list_artifacts(MODEL_FOLDER):
            raise Unavailable(f"{title(version)} cannot be fetched, its files are there: {reason}") from None
        raise LanduseError(f"{title(version)} is damaged or lost: {reason}{way_back(version)}") from None


def refuse_changed(version: ModelVersion, folder: Path) -> None:
    """Raise LanduseError where the files of a version are not those that were registered, or others hide among them."""
    model = folder / MODEL_FOLDER
    if digest(model) != version.tags.get(MODEL_TAG):
        raise LanduseError(f"they are not those that were registered ({MODEL_TAG})")
    if version.tags.get(FILES_TAG, "") not in ("", digest_of_files(folder)):
        raise LanduseError(f"they are not those that were registered ({FILES_TAG})")
    for name, expected in read_record(model / CARD_FILE).get("files", {}).items():
        if Path(name).name != name or sha256_of(model / name) != expected:
            raise LanduseError(f"{name} is not the one that was registered")
    for path in model.rglob("*"):
        if path.suffix not in DATA_SUFFIXES:
            raise LanduseError(f"{MODEL_FOLDER}/{path.relative_to(model)} is no file of a model")


def digest_of_files(folder: Path) -> str:
    """The sha256 of all files below a folder, by name and content."""
    found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def copy_files(location: str, folder: Path) -> None:
    """Copy all files of a location into a folder, but for what Python and MLflow leave where they loaded it in place.

    MLflow follows no link, and writes no file, that leads out of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    get_artifact_repository(location).download_artifacts("", str(folder))
    (folder / LEFT_BY_MLFLOW).unlink(missing_ok=True)
    for cache in [*folder.rglob("__pycache__")]:  # Python would run what is in it instead of the code beside it
        rmtree(cache)


def way_back(version: ModelVersion) -> str:
    """What to do where the project lies elsewhere than before: the store names its files by their absolute path."""
    location = MlflowClient().get_model_version_download_uri(version.name, version.version)
    before = folder_of(location)
    if not before or Path(before).exists() or not Path(FILES).is_dir():
        return ""
    return f'; the project was in {before}: ln -s "$PWD" {quote(before)}'
