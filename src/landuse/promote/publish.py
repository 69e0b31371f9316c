"""Publish: the report of a version as a file, in its MLflow run, and linked from the version in the registry."""

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
from landuse.report.style import save


def publish(version: ModelVersion, blessing: Blessing, params: EvaluateParams) -> None:
    """Write `artifacts/report.html`, log it and slices.png to the version's run, and link the version to it."""
    record = read_version_record(version)
    REPORT.write_text(render(record, blessing, params), encoding="utf-8")
    client = MlflowClient()
    client.log_artifact(version.run_id, str(REPORT))
    log_slices(version.run_id, blessing)
    client.set_model_version_tag(version.name, version.version, "report", f"runs:/{version.run_id}/{REPORT.name}")
    describe(version, record, blessing)


def restore(version: ModelVersion) -> None:
    """Have `artifacts/report.html` again as the version's run keeps it, or none where that keeps none."""
    REPORT.unlink(missing_ok=True)
    fetch_run_file(version, REPORT.name, REPORT.parent)


def log_slices(run_id: str, blessing: Blessing) -> None:
    """Beside the pictures of the evaluation, the one that only the gate can draw."""
    found = report_data.slices(blessing)
    if found is not None:
        with TemporaryDirectory() as folder:
            picture = Path(folder, "slices.png")
            save(charts.slices(found), picture)
            MlflowClient().log_artifact(run_id, str(picture), PICTURES.name)


def describe(version: ModelVersion, record: VersionRecord, blessing: Blessing) -> None:
    """Say verdict and way to the report in the version's description, which the UI shows; what people wrote stays.

    The link is one within the UI, whatever its address.
    """
    run = record.run.info
    link = f"[Report](#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{REPORT.name})"
    written = registry.get_version(version.name, str(version.version)).description
    if not written or re.fullmatch(rf"\d{{4}}-\d\d-\d\d: .* {re.escape(link)}", written):
        text = f"{blessing.moment[:10]}: {report_data.verdict(blessing)} {link}"
        MlflowClient().update_model_version(version.name, version.version, text)
