"""Where a registry keeps the files of a version and of its run: below the artifact root of its store, or nowhere."""

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

FIRST = "/0"  # the experiment 0, which MLflow makes with a store, has its folder right in the artifact root
NOT_PLAIN = re.compile(r"%|\\|(^|/)\.\.(/|$)")  # may lead elsewhere than it reads


def location_of(version: ModelVersion) -> str:
    """The folder of a version's files. Raises LanduseError where it lies outside of the store's artifact root."""
    location = MlflowClient().get_model_version_download_uri(version.name, version.version)
    return within_root(location, f"{version.name} version {version.version}")


def location_of_run(version: ModelVersion) -> str:
    """The folder of the files of the run that made a version. Raises LanduseError as `location_of` does."""
    location = MlflowClient().get_run(version.run_id).info.artifact_uri
    return within_root(location, f"{version.name} version {version.version}: run {version.run_id}")


def within_root(location: str, what: str) -> str:
    """The location. Raises LanduseError where it is in no root of the store."""
    found = [*roots()]
    if any(lies_within(location, root) for root in found):
        return location
    raise LanduseError(
        f"{what} has its files in {location}, outside of the artifact root {' or '.join(found)}: "
        "none of them is read; have it registered by landuse register"
    )


def roots() -> Iterator[str]:
    """Where the store keeps files: its artifact root, and a location that the experiment of this project was given."""
    client = MlflowClient()
    with suppress(MlflowException):  # gone for good, by `mlflow gc`
        first = client.get_experiment(FIRST.strip("/")).artifact_location
        if first.endswith(FIRST):
            yield first.removesuffix(FIRST)
    if (own := client.get_experiment_by_name(EXPERIMENT)) is not None:
        yield own.artifact_location


def lies_within(location: str, root: str) -> bool:
    """Whether a location, once all links are followed where it is on this disk, is a folder below a root."""
    inner, outer = local_path(location), local_path(root)
    if inner or outer:
        return bool(inner and outer) and outer in inner.parents
    asked, known = urlsplit(location), urlsplit(root)
    same = (asked.scheme, asked.netloc) == (known.scheme, known.netloc)
    plain = not (asked.query or asked.fragment or NOT_PLAIN.search(asked.path))
    return same and plain and asked.path.startswith(f"{known.path.rstrip('/')}/")


def local_path(location: str) -> Path | None:
    """The path of a location on this disk, None of one elsewhere."""
    if location.startswith("/") or location.startswith("file:///"):
        return Path(local_file_uri_to_path(location)).resolve()
    return None
