"""The model registry: versions, the aliases that say who is champion, and their files. Within `tracking.store()`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import mlflow
from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion

from landuse import tracking
from landuse.classifier import CARD_FILE, Classifier, digest
from landuse.errors import LanduseError, Unavailable, one_line
from landuse.files import sha256_of
from landuse.lineage import DIRTY
from landuse.paths import SQLITE
from landuse.tracking import MODEL_TAG
from landuse.tracking.place import AGAIN, FILES, folder_of, reach, transfer_errors

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"
MODEL_FOLDER = "artifacts/model"
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
    """The version that holds this very model, if there is one; of several, one whose code was committed."""
    found = MlflowClient().search_model_versions(f"name = '{name}' and tag.`{MODEL_TAG}` = '{sha256}'")
    return min(found, key=lambda version: version.tags.get(DIRTY) != "false", default=None)


def fetch_model(version: ModelVersion, folder: Path) -> Classifier:
    """The exported model of a version, copied into the folder as `artifacts/model`. Nothing of it is run or unpickled.

    Raises LanduseError where its files are lost, damaged, or not those that were registered, and Unavailable where they
    are there and cannot be had.
    """
    uri = f"models:/{version.name}/{version.version}/{MODEL_FOLDER}"
    try:
        mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        if digest(folder / MODEL_FOLDER) != version.tags.get(MODEL_TAG):
            raise LanduseError(f"they are not those that were registered ({MODEL_TAG})")
        classifier = Classifier(folder / MODEL_FOLDER)
        for name, expected in classifier.card.get("files", {}).items():
            if sha256_of(folder / MODEL_FOLDER / name) != expected:
                raise LanduseError(f"{name} is not the one that was registered")
        return classifier
    except transfer_errors():  # they say nothing of the files
        raise
    except (MlflowException, LanduseError, OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error, 160)
        if isinstance(error, MlflowException) and mlflow.artifacts.list_artifacts(artifact_uri=uri):
            raise Unavailable(f"{title(version)} cannot be fetched, its files are there: {reason}") from None
        raise LanduseError(f"{title(version)} is damaged or lost: {reason}{way_back(version)}") from None


def way_back(version: ModelVersion) -> str:
    """What to do where the project lies elsewhere than before: the store names its files by their absolute path."""
    location = MlflowClient().get_model_version_download_uri(version.name, version.version)
    before = folder_of(location)
    if not before or Path(before).exists() or not Path(FILES).is_dir():
        return ""
    return f'; the project was in {before}: ln -s "$PWD" {quote(before)}'


def fetch_card(version: ModelVersion, folder: Path) -> Path | None:
    """The card of a version's model, copied into the folder, or None where its files are lost."""
    uri = f"models:/{version.name}/{version.version}/{MODEL_FOLDER}/{CARD_FILE}"
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
    except (MlflowException, OSError):
        return None


def fetch_run_file(version: ModelVersion, path: str, folder: Path) -> Path | None:
    """A file of the run that made a version, copied into the folder, or None where that does not have it or is gone."""
    parent = path.rpartition("/")[0] or None
    try:
        there = {item.path for item in MlflowClient().list_artifacts(version.run_id, parent)}
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None
    if path not in there:
        return None
    return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path, dst_path=folder))
