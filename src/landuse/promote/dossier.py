"""The dossier: what is on record of a version, in the registry, with its run and beside its model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow import MlflowClient, MlflowException
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from landuse import registry
from landuse.errors import LanduseError
from landuse.files import read_table
from landuse.gate.evidence import MANIFEST_FILE, SPLITS_FILE

HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


@dataclass(frozen=True)
class Dossier:
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
    def drawn(self) -> bool:
        """Are the images drawn by `landuse.sample`."""
        return self.run.data.tags.get("data.kind") == "sample"


def open_dossier(version: ModelVersion) -> Dossier:
    """Gather what there is of a version."""
    with TemporaryDirectory() as name:
        folder = Path(name)

        def file(path: str) -> Path | None:
            return registry.fetch_run_file(version, path, folder)

        return Dossier(
            version=version,
            run=run_of(version),
            card=record(registry.fetch_card(version, folder)),
            metrics=record(file("metrics.json")),
            versions=record(file("versions.json")),
            validation=record(file("validation/validation.json")),
            history=table(file("history.csv"), HISTORY_COLUMNS),
            predictions=table(file("predictions.csv"), ("path", "actual", "predicted", "confidence")),
            per_class=table(file("per_class.csv"), ("class", "recall")),
            splits=table(file(SPLITS_FILE), ("path", "label", "group", "subset")),
            manifest=table(file(MANIFEST_FILE), ("path", "sha256")),
        )


def run_of(version: ModelVersion) -> Run:
    """The run that made a version. Raises LanduseError where it is gone."""
    try:
        return MlflowClient().get_run(version.run_id)
    except MlflowException as error:
        if error.error_code not in registry.NOT_THERE:
            raise
        lost = f"its run {version.run_id} is gone, and what its report is made of"
        raise LanduseError(f"{registry.title(version)}: {lost}") from None


def record(path: Path | None) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def table(path: Path | None, columns: Sequence[str]) -> pd.DataFrame | None:
    """A table with at least these columns and a row, or None where there is none."""
    if path is None:
        return None
    try:
        rows = read_table(path)
    except LanduseError:
        return None
    return rows if len(rows) and {*columns} <= {*rows.columns} else None
