"""Publish: write a version's report, log it to its MLflow run, and link it from the registry."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from landuse import registry
from landuse.core.paths import PICTURES, REPORT
from landuse.gate.blessing import Blessing
from landuse.params import EvaluateParams
from landuse.promote import report_data
from landuse.promote.report_page import render
from landuse.registry.version_record import VersionRecord, fetch_run_file, read_version_record
from landuse.report import charts
from landuse.report.style import save_png


def publish(version: ModelVersion, blessing: Blessing, params: EvaluateParams) -> None:
    """Write `artifacts/report.html`, log it and slices.png to the version's run, and link it from the version."""
    record = read_version_record(version)
    REPORT.write_text(render(record, blessing, params), encoding="utf-8")
    client, run_id = MlflowClient(), record.run.info.run_id
    client.log_artifact(run_id, str(REPORT))
    log_slices(run_id, blessing)
    client.set_model_version_tag(version.name, version.version, "report", f"runs:/{run_id}/{REPORT.name}")
    update_description(version, record, blessing)


def restore(version: ModelVersion) -> None:
    """Restore `artifacts/report.html` from the version's run, or remove it if the run has none."""
    REPORT.unlink(missing_ok=True)
    fetch_run_file(version, REPORT.name, REPORT.parent)


def log_slices(run_id: str, blessing: Blessing) -> None:
    """Log the chart of slices, which only the gate measures, beside the pictures of the evaluation."""
    slices = report_data.slice_table(blessing)
    if slices is not None:
        with TemporaryDirectory() as folder:
            picture = Path(folder, "slices.png")
            save_png(charts.slices(slices), picture)
            MlflowClient().log_artifact(run_id, str(picture), PICTURES.name)


def update_description(version: ModelVersion, record: VersionRecord, blessing: Blessing) -> None:
    """Put the verdict and a link to the report into the version's description, which the MLflow UI shows.

    A description edited by a person is kept. The link is relative to the UI, so it works at any address.
    """
    run = record.run.info
    link = f"[Report](#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{REPORT.name})"
    current = registry.get_version(version.name, str(version.version)).description
    if not current or re.fullmatch(rf"\d{{4}}-\d\d-\d\d: .* {re.escape(link)}", current):
        text = f"{blessing.moment[:10]}: {report_data.verdict(blessing)} {link}"
        MlflowClient().update_model_version(version.name, version.version, text)
