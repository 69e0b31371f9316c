"""The record of a version: the one reader of its run, the files that its run logged, and the card of its model.

Two views: `VersionRecord` for the report, where missing or outdated content is empty, and `RunRecord` for
`landuse verify`, which needs every file and raises LanduseError if one is damaged.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient, MlflowException
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from landuse.core.errors import LanduseError
from landuse.core.files import read_record, read_table
from landuse.core.paths import HISTORY, METRICS, PARAMS, PER_CLASS, PREDICTIONS, SPLITS
from landuse.ml.classifier import CARD_FILE
from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED
from landuse.registry import MODEL_FOLDER, NOT_FOUND_CODES, REREGISTER, title
from landuse.registry.location import location_of, location_of_run
from landuse.tracking.names import evaluation_metric, facts_of

VERSIONS_FILE = "versions.json"
VALIDATION_FILE, MANIFEST_FILE = "validation/validation.json", "validation/manifest.parquet"
RUN_FILES = (PARAMS.name, VERSIONS_FILE, SPLITS.name, METRICS.name, PREDICTIONS.name)  # those of a `RunRecord`
HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
CONTENT_COLUMNS = ("sha256", PHASH, PHASH_TURNED)


@dataclass(frozen=True)
class VersionRecord:
    """Run of a version, the content of its files, and the card of its model.

    Content that was not recorded, or in an older form, is an empty dict, or None for a table.
    """

    version: ModelVersion
    run: Run
    card: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    validation: dict[str, Any]
    history: pd.DataFrame | None
    predictions: pd.DataFrame | None
    per_class: pd.DataFrame | None
    splits: pd.DataFrame | None
    manifest: pd.DataFrame | None

    @property
    def is_sample(self) -> bool:
        """Return whether the images were drawn by `landuse.sample`."""
        return self.facts.get("data.kind") == "sample"

    @property
    def facts(self) -> dict[str, str]:
        """Return what its run recorded as tags, by their plain names."""
        return facts_of(self.run.data.tags)


@dataclass(frozen=True)
class RunRecord:
    """Tags of a version, metrics of its run, and the folder that the run's files were copied to.

    Reading a missing or damaged file raises LanduseError.
    """

    tags: Mapping[str, str]
    run_metrics: Mapping[str, float]
    folder: Path

    def run_metric(self, name: str, subset: str) -> float | None:
        """Return a metric of the evaluation on a subset as the run has it; an earlier run has it by its plain name."""
        return self.run_metrics.get(evaluation_metric(name, subset), self.run_metrics.get(name))

    @property
    def params_file(self) -> Path:
        return self.folder / PARAMS.name

    @property
    def versions(self) -> dict[str, str]:
        return read_record(self.folder / VERSIONS_FILE)

    @property
    def metrics(self) -> dict[str, Any]:
        return read_record(self.folder / METRICS.name)

    @property
    def splits(self) -> pd.DataFrame:
        return read_table(self.folder / SPLITS.name)

    @property
    def predictions(self) -> pd.DataFrame:
        return read_table(self.folder / PREDICTIONS.name)


def read_version_record(version: ModelVersion) -> VersionRecord:
    """Read everything that is recorded of a version. Raises LanduseError if its run is gone."""
    with TemporaryDirectory() as name:
        folder = Path(name)

        def file(path: str) -> Path | None:
            return fetch_run_file(version, path, folder)

        return VersionRecord(
            version=version,
            run=get_run(version),
            card=json_object(fetch_card(version, folder)),
            metrics=json_object(file(METRICS.name)),
            versions=json_object(file(VERSIONS_FILE)),
            validation=json_object(file(VALIDATION_FILE)),
            history=optional_table(file(HISTORY.name), HISTORY_COLUMNS),
            predictions=optional_table(file(PREDICTIONS.name), ("path", "actual", "predicted", "confidence")),
            per_class=optional_table(file(PER_CLASS.name), ("class", "recall")),
            splits=optional_table(file(SPLITS.name), ("path", "label", "group", "subset")),
            manifest=optional_table(file(MANIFEST_FILE), ("path", "sha256")),
        )


def fetch_run_record(version: ModelVersion, tags: Sequence[str], folder: Path) -> RunRecord:
    """Copy `RUN_FILES` into a folder. Raises LanduseError if one of them, or one of these tags, was not recorded."""
    location_of(version)  # refuses a version with files outside the store
    facts = facts_of(version.tags)
    missing = [f"the tag {tag}" for tag in tags if tag not in facts]
    missing += [path for path in RUN_FILES if fetch_run_file(version, path, folder) is None]
    if missing:
        raise LanduseError(
            f"{', '.join(missing)} of its run {version.run_id} is missing; a version trained anew has it"
        )
    return RunRecord(facts, get_run(version).data.metrics, folder)


def get_run(version: ModelVersion) -> Run:
    """Return the run that made a version. Raises LanduseError if it is gone."""
    try:
        return MlflowClient().get_run(version.run_id or "")
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        lost = f"its run {version.run_id} is gone, and what its report is made of"
        raise LanduseError(f"{title(version)}: {lost}") from None


def json_object(path: Path | None) -> dict[str, Any]:
    """Read a JSON object; return an empty one if there is no file or it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def optional_table(path: Path | None, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a table; return None if there is no file, it is damaged, empty, or lacks one of the columns."""
    if path is None:
        return None
    try:
        rows = read_table(path)
    except LanduseError:
        return None
    return rows if len(rows) and {*columns} <= {*rows.columns} else None


def read_metrics(version: ModelVersion) -> dict[str, Any] | None:
    """Read the metrics of the held-out subset, or None if its run has none. Raises LanduseError if damaged."""
    with TemporaryDirectory() as folder:
        path = fetch_run_file(version, METRICS.name, Path(folder))
        return None if path is None else read_record(path)


def read_splits(version: ModelVersion) -> pd.DataFrame:
    """Read the split that a version was trained with: path, label, group, subset, sha256 and perceptual hashes.

    The latter three come from the manifest, and are None if the run has none. Raises LanduseError if the run no longer
    has the split.
    """
    with TemporaryDirectory() as folder:
        splits_file, manifest_file = (
            fetch_run_file(version, path, Path(folder)) for path in (SPLITS.name, MANIFEST_FILE)
        )
        if splits_file is None:
            raise LanduseError(
                f"{title(version)}: its run {version.run_id} has no {SPLITS.name}, so nobody knows "
                f"which images it never saw; register it again with {REREGISTER}"
            )
        splits = read_table(splits_file)
        if manifest_file is None:
            return splits.assign(**dict.fromkeys(CONTENT_COLUMNS))
        manifest = read_table(manifest_file)
    if PHASH_TURNED not in manifest:  # an older run has one hash per image
        manifest = manifest.assign(**{PHASH_TURNED: manifest[PHASH]})
    return splits.merge(manifest[["path", *CONTENT_COLUMNS]], on="path", how="left")


def fetch_card(version: ModelVersion, folder: Path) -> Path | None:
    """Copy the card of a version's model into a folder, or return None if its files are lost."""
    uri = f"{location_of(version)}/{MODEL_FOLDER}/{CARD_FILE}"
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except (MlflowException, OSError):
        return None


def fetch_run_file(version: ModelVersion, path: str, folder: Path) -> Path | None:
    """Copy a file of the run that made a version into a folder, or return None if file or run is missing.

    Raises LanduseError if the run has its files outside the store's artifact root.
    """
    try:
        files = get_artifact_repository(location_of_run(version))
        logged = {item.path for item in files.list_artifacts(path.rpartition("/")[0] or None)}
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        return None
    if path not in logged:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(files.download_artifacts(path, str(folder)))  # type: ignore[no-untyped-call]  # untyped in MLflow
