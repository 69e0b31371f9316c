"""Artifact locations of versions and runs; only those below the store's artifact root are accepted."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.file_utils import local_file_uri_to_path

from landuse.core.errors import LanduseError
from landuse.tracking.backend_store import EXPERIMENT

DEFAULT_EXPERIMENT = "/0"  # MLflow creates experiment 0 with a store; its folder lies directly in the artifact root
NOT_PLAIN = re.compile(r"%|\\|(^|/)\.\.(/|$)")  # such a path may lead elsewhere than it reads


def location_of(version: ModelVersion) -> str:
    """Return the artifact location of a version. Raises LanduseError if it is outside the store's artifact root."""
    location = MlflowClient().get_model_version_download_uri(version.name, version.version)
    return require_within_root(location, f"{version.name} version {version.version}")


def location_of_run(version: ModelVersion) -> str:
    """Return the artifact location of the run that made a version. Raises LanduseError as `location_of` does."""
    location = MlflowClient().get_run(version.run_id or "").info.artifact_uri
    return require_within_root(location, f"{version.name} version {version.version}: run {version.run_id}")


def require_within_root(location: str, subject: str) -> str:
    """Return the location. Raises LanduseError, naming the subject, if it is below no artifact root of the store."""
    roots = [*artifact_roots()]
    if any(is_within(location, root) for root in roots):
        return location
    raise LanduseError(
        f"{subject} has its files in {location}, outside of the artifact root {' or '.join(roots)}: "
        "none of them is read; have it registered by landuse register"
    )


def artifact_roots() -> Iterator[str]:
    """Yield the store's artifact root, and the location of this project's experiment, which may be set apart."""
    client = MlflowClient()
    with suppress(MlflowException):  # removed for good by `mlflow gc`
        default = client.get_experiment(DEFAULT_EXPERIMENT.strip("/")).artifact_location
        if default.endswith(DEFAULT_EXPERIMENT):
            yield default.removesuffix(DEFAULT_EXPERIMENT)
    if (experiment := client.get_experiment_by_name(EXPERIMENT)) is not None:
        yield experiment.artifact_location


def is_within(location: str, root: str) -> bool:
    """Return whether a location is a folder below a root; on the local disk, links are resolved first."""
    path, root_path = local_path(location), local_path(root)
    if path is not None or root_path is not None:
        return path is not None and root_path is not None and root_path in path.parents
    url, root_url = urlsplit(location), urlsplit(root)
    same_host = (url.scheme, url.netloc) == (root_url.scheme, root_url.netloc)
    plain = not (url.query or url.fragment or NOT_PLAIN.search(url.path))
    return same_host and plain and url.path.startswith(f"{root_url.path.rstrip('/')}/")


def local_path(location: str) -> Path | None:
    """Return the resolved path of a location on the local disk, or None for any other location."""
    if location.startswith("/") or location.startswith("file:///"):
        return Path(local_file_uri_to_path(location)).resolve()  # type: ignore[no-untyped-call]  # untyped in MLflow
    return None
