"""Register the evaluated model in the model registry, once, and make it the challenger."""

import base64
import json
from importlib import metadata
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

import mlflow
from filelock import FileLock
from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion
from mlflow.models.model import ModelInfo

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.core.files import read_record, read_table, write_atomically
from landuse.core.paths import DATA, DATA_DVC, METRICS, MODEL, PREDICTIONS, REGISTRATION, SERVICES
from landuse.ml.classifier import Classifier
from landuse.params import RegisterParams
from landuse.project import lineage
from landuse.registry import CHALLENGER, FILES_TAG, copy_files, digest_of_files, find_version_of_model, set_alias
from landuse.registry.provenance import COMMIT_TAG, PACKAGE, REQUIRED_PACKAGES
from landuse.tracking import names


def register(params: RegisterParams) -> ModelVersion:
    """Register the model in `artifacts/model/` as challenger, write `artifacts/registration.json`, return the version.

    Safe against concurrent registrations of the same model: a version with its sha256 is reused, unless that one's code
    was never committed and this run's is.
    """
    sha256 = Classifier(MODEL).digest
    SERVICES.mkdir(mode=0o700, exist_ok=True)
    with FileLock(SERVICES / "register.lock"), tracking.continued_run() as run:
        client = MlflowClient()
        version = reusable_version(params.model, sha256, run) or add_version(client, params.model, sha256, run)
        set_alias(params.model, CHALLENGER, version.version)
        tracking.log_validation()
    registration = {"model": params.model, "version": str(version.version), tracking.MODEL_TAG: sha256}
    write_atomically(REGISTRATION, json.dumps(registration, indent=2) + "\n")
    return version


def reusable_version(name: str, sha256: str, run: mlflow.ActiveRun) -> ModelVersion | None:
    """Return the version with this model digest, or None if there is none or this run is better traceable."""
    version = find_version_of_model(name, sha256)
    if version and names.is_dirty(version.tags) and not names.is_dirty(run.data.tags):
        return None
    return version


def add_version(client: MlflowClient, name: str, sha256: str, run: mlflow.ActiveRun) -> ModelVersion:
    """Log the model to its run and create the next version, with lineage and headline metrics as tags."""
    metrics = read_record(METRICS)
    logged = log_model()
    facts = {key: value for key, value in names.facts_of(run.data.tags).items() if not key.startswith("process.")}
    facts |= {tracking.MODEL_TAG: sha256, FILES_TAG: digest_of_logged(logged.model_id)}
    facts |= {COMMIT_TAG: lineage.git("rev-parse", "HEAD") or "none"}
    facts |= {f"{metrics['subset']}.{score}": f"{metrics[score]:.4f}" for score in ("accuracy", "macro_f1")}
    tags = {"accuracy": f"{metrics['accuracy']:.4f}", "gate": "not judged yet"}
    tags |= names.tags_for_people(facts) | names.record_tag(facts)
    create_name(client, name)
    mine = client.create_model_version(name, logged.model_uri, run.info.run_id, tags=tags, model_id=logged.model_id)
    return withdraw_for_older(client, mine, logged.model_id) or mine


def withdraw_for_older(client: MlflowClient, mine: ModelVersion, model_id: str) -> ModelVersion | None:
    """Return another version of the same model that another machine added meanwhile, after deleting mine; else None.

    Each machine adds its version before it searches, and the registry numbers them: the younger always sees the older.
    """
    older = find_version_of_model(mine.name, names.facts_of(mine.tags)[tracking.MODEL_TAG])
    if older is None or str(older.version) == str(mine.version):
        return None
    client.delete_model_version(mine.name, mine.version)
    if older.source != mine.source:  # as after a request that was sent again, since its answer was lost
        client.delete_logged_model(model_id)
    return older


def log_model() -> ModelInfo:
    """Log the model in `artifacts/model/` to the active run, with the package's code and no other files."""
    with TemporaryDirectory() as folder:
        model = copytree(MODEL, Path(folder, MODEL.name))  # DVC may have placed links, which MLflow does not follow
        code = copytree(PACKAGE, Path(folder, PACKAGE.name), ignore=ignore_patterns("__pycache__", ".*", "*~"))
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "ml" / "pyfunc.py"),
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in REQUIRED_PACKAGES],
            input_example=example(),
        )
        return logged


def digest_of_logged(model_id: str) -> str:
    """Compute the digest of all files of a logged model as the store holds them."""
    with TemporaryDirectory() as folder:
        copy_files(MlflowClient().get_logged_model(model_id).artifact_location, Path(folder))
        return digest_of_files(Path(folder))


def create_name(client: MlflowClient, name: str) -> None:
    """Create the registered model if the registry does not have it."""
    try:
        client.create_registered_model(name, description="Scene classifier for overhead images")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def example() -> list[str]:
    """Return the first held-out image as base64 text, the model's input. Raises LanduseError if it is missing."""
    path = DATA / read_table(PREDICTIONS)["path"].iloc[0]
    if not path.exists():
        raise LanduseError(f"{path} is not here: dvc checkout {DATA_DVC}, or dvc pull {DATA_DVC}")
    return [base64.b64encode(path.read_bytes()).decode()]
