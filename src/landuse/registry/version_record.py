"""The record: what is on record of a version, in the registry, with its run and beside its model."""

import json
from collections.abc import Sequence
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
from landuse.core.files import read_table
from landuse.ml.perceptual_hash import PLAIN, TURNED
from landuse.registry import AGAIN, CARD_FILE, MODEL_FOLDER, NOT_THERE, title
from landuse.registry.location import location_of, location_of_run

SPLITS_FILE, MANIFEST_FILE = "splits.csv", "validation/manifest.parquet"
CONTENT = ("sha256", PLAIN, TURNED)
HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


@dataclass(frozen=True)
class VersionRecord:
    """Files of the run that made a version, and the card of its model.

    What was not recorded, or in another form than today's, is an empty record or None for a table.
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
        """Are the images drawn by `landuse.sample`."""
        return self.run.data.tags.get("data.kind") == "sample"


def read_version_record(version: ModelVersion) -> VersionRecord:
    """Gather what there is of a version."""
    with TemporaryDirectory() as name:
        folder = Path(name)

        def file(path: str) -> Path | None:
            return fetch_run_file(version, path, folder)

        return VersionRecord(
            version=version,
            run=run_of(version),
            card=json_object(fetch_card(version, folder)),
            metrics=json_object(file("metrics.json")),
            versions=json_object(file("versions.json")),
            validation=json_object(file("validation/validation.json")),
            history=optional_table(file("history.csv"), HISTORY_COLUMNS),
            predictions=optional_table(file("predictions.csv"), ("path", "actual", "predicted", "confidence")),
            per_class=optional_table(file("per_class.csv"), ("class", "recall")),
            splits=optional_table(file(SPLITS_FILE), ("path", "label", "group", "subset")),
            manifest=optional_table(file(MANIFEST_FILE), ("path", "sha256")),
        )


def run_of(version: ModelVersion) -> Run:
    """The run that made a version. Raises LanduseError where it is gone."""
    try:
        return MlflowClient().get_run(version.run_id)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        lost = f"its run {version.run_id} is gone, and what its report is made of"
        raise LanduseError(f"{title(version)}: {lost}") from None


def json_object(path: Path | None) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def optional_table(path: Path | None, columns: Sequence[str]) -> pd.DataFrame | None:
    """A table with at least these columns and a row, or None where there is none."""
    if path is None:
        return None
    try:
        rows = read_table(path)
    except LanduseError:
        return None
    return rows if len(rows) and {*columns} <= {*rows.columns} else None


def splits_of(version: ModelVersion) -> pd.DataFrame:
    """The split that a version was trained with: path, label, group, subset; sha256 and hashes where its run tells.

    Raises LanduseError where its run does not have it any more.
    """
    with TemporaryDirectory() as name:
        path, manifest = (fetch_run_file(version, file, Path(name)) for file in (SPLITS_FILE, MANIFEST_FILE))
        if path is None:
            raise LanduseError(
                f"{title(version)}: its run {version.run_id} has no {SPLITS_FILE}, so nobody knows "
                f"which images it never saw; register it again with {AGAIN}"
            )
        splits, told = read_table(path), manifest and read_table(manifest)
    if told is None:
        return splits.assign(**dict.fromkeys(CONTENT))
    told = told if TURNED in told else told.assign(**{TURNED: told[PLAIN]})  # a run of before there was such a hash
    return splits.merge(told[["path", *CONTENT]], on="path", how="left")


def fetch_card(version: ModelVersion, folder: Path) -> Path | None:
    """The card of a version's model, copied into the folder, or None where its files are lost."""
    uri = f"{location_of(version)}/{MODEL_FOLDER}/{CARD_FILE}"
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
    except (MlflowException, OSError):
        return None


def fetch_run_file(version: ModelVersion, path: str, folder: Path) -> Path | None:
    """A file of the run that made a version, copied into the folder, or None where that does not have it or is gone.

    Raises LanduseError where the run has its files outside of the store.
    """
    try:
        files = get_artifact_repository(location_of_run(version))
        there = {item.path for item in files.list_artifacts(path.rpartition("/")[0] or None)}
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None
    if path not in there:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(files.download_artifacts(path, str(folder)))
