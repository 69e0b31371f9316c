"""Register: the evaluated model becomes a version in the model registry, once, and the challenger."""

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
from landuse.core.files import read_record, read_table, write_whole
from landuse.core.paths import DATA, DATA_DVC, METRICS, MODEL, PREDICTIONS, REGISTRATION, SERVICES
from landuse.ml.classifier import Classifier
from landuse.params import RegisterParams
from landuse.project import lineage
from landuse.registry import CHALLENGER, FILES_TAG, copy_files, digest_of_files, set_alias, version_of_model
from landuse.registry.provenance import COMMIT_TAG, NEEDED, PACKAGE


def register(params: RegisterParams) -> ModelVersion:
    """Write `artifacts/registration.json` and return the version.

    The same model is never registered twice, whoever else does so at the same time: a version with its sha256 is used
    again, unless its code was never committed and now is. It becomes `challenger`.
    """
    sha256 = Classifier(MODEL).digest
    SERVICES.mkdir(mode=0o700, exist_ok=True)
    with FileLock(SERVICES / "register.lock"), tracking.continued_run() as run:
        client = MlflowClient()
        version = known_version(params.model, sha256, run) or add_version(client, params.model, sha256, run)
        set_alias(params.model, CHALLENGER, version.version)
        tracking.log_validation()
    registration = {"model": params.model, "version": str(version.version), tracking.MODEL_TAG: sha256}
    write_whole(REGISTRATION, json.dumps(registration, indent=2) + "\n")
    return version


def known_version(name: str, sha256: str, run: mlflow.ActiveRun) -> ModelVersion | None:
    """The version that holds this very model, if one does that can be traced as well as this run."""
    found = version_of_model(name, sha256)
    betters = found and found.tags.get(lineage.DIRTY) != "false" and run.data.tags.get(lineage.DIRTY) == "false"
    return None if betters else found


def add_version(client: MlflowClient, name: str, sha256: str, run: mlflow.ActiveRun) -> ModelVersion:
    """Log the model to its run, and make it the next version, with where it comes from and how good it is as tags."""
    metrics = read_record(METRICS)
    logged = log_model()
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    tags |= {f"{metrics['subset']}.{score}": f"{metrics[score]:.4f}" for score in ("accuracy", "macro_f1")}
    tags |= {tracking.MODEL_TAG: sha256, FILES_TAG: digest_of_logged(logged.model_id)}
    tags |= {COMMIT_TAG: lineage.git("rev-parse", "HEAD") or "none"}
    create_name(client, name)
    mine = client.create_model_version(name, logged.model_uri, run.info.run_id, tags=tags, model_id=logged.model_id)
    return withdrawn_for_older(client, mine, logged.model_id) or mine


def withdrawn_for_older(client: MlflowClient, mine: ModelVersion, model_id: str) -> ModelVersion | None:
    """Another version of the same model that somebody on another machine added meanwhile; mine is deleted then.

    Each is added before it looks, and numbered by the registry: the younger one always sees the older one.
    """
    found = version_of_model(mine.name, mine.tags[tracking.MODEL_TAG])
    if found is None or str(found.version) == str(mine.version):
        return None
    client.delete_model_version(mine.name, mine.version)
    client.delete_logged_model(model_id)
    return found


def log_model() -> ModelInfo:
    """Log the model in `artifacts/model/` to the run at hand, with the code that asks it, and no other files."""
    with TemporaryDirectory() as folder:
        model = copytree(MODEL, Path(folder, MODEL.name))  # DVC may have links there, which MLflow does not follow
        code = copytree(PACKAGE, Path(folder, PACKAGE.name), ignore=ignore_patterns("__pycache__", ".*", "*~"))
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "ml" / "pyfunc.py"),
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in NEEDED],
            input_example=example(),
        )


def digest_of_logged(model_id: str) -> str:
    """The digest of all files that came to the registry with a model."""
    with TemporaryDirectory() as folder:
        copy_files(MlflowClient().get_logged_model(model_id).artifact_location, Path(folder))
        return digest_of_files(Path(folder))


def create_name(client: MlflowClient, name: str) -> None:
    """Make sure that the registry knows the model's name."""
    try:
        client.create_registered_model(name, description="Scene classifier for overhead images")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def example() -> list[str]:
    """The first held-out image as base64 text, as the model is asked. Raises LanduseError where it is not there."""
    path = DATA / read_table(PREDICTIONS)["path"].iloc[0]
    if not path.exists():
        raise LanduseError(f"{path} is not here: dvc checkout {DATA_DVC}, or dvc pull {DATA_DVC}")
    return [base64.b64encode(path.read_bytes()).decode()]
