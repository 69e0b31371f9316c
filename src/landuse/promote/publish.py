"""Publish: write a version's report, log it to its MLflow run, and link it from the registry."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from landuse import registry
from landuse.core.errors import LanduseError
from landuse.core.paths import PICTURES, REPORT, VALIDATION_PAGE
from landuse.gate.blessing import Blessing
from landuse.params import EvaluateParams
from landuse.project.listings import DataChange, compare_versions
from landuse.promote import report_data
from landuse.promote.held_out import compare_held_out
from landuse.promote.report_page import render
from landuse.registry.version_record import VersionRecord, fetch_run_file, read_version_record
from landuse.report import charts
from landuse.report.style import save_png


def publish(version: ModelVersion, blessing: Blessing, params: EvaluateParams) -> None:
    """Write `artifacts/report.html`, log it and slices.png to the version's run, and describe both in the MLflow UI."""
    record = read_version_record(version)
    champion = read_champion(blessing)
    change = find_data_change(champion, record)
    held_out = compare_held_out(champion, record) if champion else None
    REPORT.write_text(render(record, blessing, params, change, held_out), encoding="utf-8")
    client, run_id = MlflowClient(), record.run.info.run_id
    client.log_artifact(run_id, str(REPORT))
    log_slices(run_id, blessing)
    describe(version, record, blessing, change)


def read_champion(blessing: Blessing) -> VersionRecord | None:
    """Read what is recorded of the champion that a version was judged beside; None if there was none, or it is gone."""
    champion = blessing.champion and registry.find_version(blessing.model, blessing.champion)
    try:
        return read_version_record(champion) if champion else None
    except LanduseError:
        return None


def find_data_change(champion: VersionRecord | None, record: VersionRecord) -> DataChange | None:
    """Compare the data of a version with that of the champion; None if one of the two is not known."""
    before, after = champion.facts.get("data.md5") if champion else None, record.facts.get("data.md5")
    try:
        return compare_versions(before, after) if before and after else None
    except LanduseError:
        return None


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


def describe(version: ModelVersion, record: VersionRecord, blessing: Blessing, change: DataChange | None) -> None:
    """Put verdict, scores, data and links into the descriptions of the version and its run, which the MLflow UI shows.

    A description edited by a person is kept. The links are relative to the UI, so they work at any address.
    """
    client, run = MlflowClient(), record.run.info
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    links = f"[Version](#/models/{version.name}/versions/{version.version}) · [Run]({page}) · "
    links += f"[Validation]({page}/artifacts/validation/{VALIDATION_PAGE.name}) ·"
    report = f"[Report]({page}/artifacts/{REPORT.name})"
    since = f" ({change} since the champion's)" if change else ""
    facts = f"{report_data.headline(record, blessing)}; {report_data.origin(record, since)}."
    text = f"{blessing.moment[:10]}: {report_data.verdict(blessing)} {facts} {links} {report}"
    if is_ours(registry.get_version(version.name, str(version.version)).description, report):
        client.update_model_version(version.name, version.version, text)
    if is_ours(client.get_run(run.run_id).data.tags.get(MLFLOW_RUN_NOTE), report):
        client.set_tag(run.run_id, MLFLOW_RUN_NOTE, text)


def is_ours(description: str | None, report: str) -> bool:
    """Return whether a description is empty, or one that `describe` wrote, which ends with the link to the report."""
    return not description or bool(re.fullmatch(rf"\d{{4}}-\d\d-\d\d: .* {re.escape(report)}", description))
