"""Artifacts in the UI of Prefect: the name of a run, its progress, tables, and a summary page."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from landuse import registry, tracking
from landuse.core.files import read_record, read_table
from landuse.core.paths import METRICS, PER_CLASS, REPORT, VALIDATION, VALIDATION_PAGE
from landuse.gate.blessing import Blessing
from landuse.info import describe_metrics
from landuse.project.lineage import data_record
from landuse.registry.version_record import get_run, read_metrics
from pipelines.steps.data_change import compare_contents, describe_data_change, read_data_set, read_earlier
from pipelines.steps.pending import REASONS

PROGRESS = re.compile(r"^(extract|evaluate|epoch)\s+(\d+)/(\d+)")


def rename_run(name: str) -> None:
    """Rename the current flow run."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)


class StageMonitor:
    """Reads the output of a stage: shows its progress, and records in `ran` whether DVC ran it.

    Progress that the server does not accept is dropped, since a stage must not fail for it.
    """

    def __init__(self) -> None:
        self.artifact: UUID | None = None
        self.ran = False

    def __call__(self, line: str) -> None:
        self.ran |= line.startswith("Running stage ")
        progress = PROGRESS.match(line)
        if not progress:
            return
        percent = 100 * int(progress[2]) / int(progress[3])
        with suppress(HTTPError):
            if self.artifact is None:
                description = f"{progress[1]}, of {progress[3]}"
                self.artifact = create_progress_artifact(percent, description=description)  # type: ignore[assignment]  # a UUID here
            else:
                update_progress_artifact(self.artifact, percent)

    def finish(self) -> None:
        """Set the progress to 100 %: a training may stop early."""
        if self.artifact is not None:
            with suppress(HTTPError):
                update_progress_artifact(self.artifact, 100)


def show_validation(folder: Path) -> None:
    """Create a table of the validation results, one row per expectation."""
    verdict = read_record(folder / VALIDATION)
    warnings = f"{verdict['warnings']} warning{'s' * (verdict['warnings'] != 1)}"
    show_expectations(verdict, f"{verdict['images']} images, {warnings}")


def show_refused_images(complaint: str) -> None:
    """Create the same table for refused images from their report in quarantine/, if there is one."""
    page = re.search(rf"\S+{re.escape(VALIDATION_PAGE.name)}", complaint)
    if page:
        show_expectations(read_record(Path(page[0]).with_name(VALIDATION.name)), complaint)


def show_expectations(verdict: dict[str, Any], description: str) -> None:
    """Create a table with one row per expectation, failed ones first."""
    rows = [
        {
            "verdict": "passed" if expectation["success"] else expectation["severity"],
            "expectation": expectation["words"],
            "found": expectation["observed"],
            "not as expected": expectation["unexpected"],
        }
        for expectation in sorted(verdict["expectations"], key=lambda expectation: expectation["success"])
    ]
    create_table_artifact(rows, key="validation", description=description)


def show_classes(folder: Path) -> None:
    """Create a table of the held-out metrics, one row per class, lowest recall first."""
    table = read_table(folder / PER_CLASS).sort_values("recall").round(3)
    rows = [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]
    create_table_artifact(rows, key="classes", description=describe_metrics(read_record(folder / METRICS)))


def show_verdict(blessing: dict[str, Any]) -> None:
    """Create a table of the gate's checks, one row per check."""
    rows = [
        {
            "check": check.name,
            "verdict": check.outcome,
            "value": check.value,
            "threshold": check.threshold,
            "why": check.sentence,
        }
        for check in Blessing.from_dict(blessing).checks
    ]
    create_table_artifact(rows, key="gate", description=describe_verdict(blessing))


def describe_verdict(blessing: dict[str, Any]) -> str:
    """Describe in one line whether the version was promoted, how it stands beside the champion before, and why."""
    judged = Blessing.from_dict(blessing)
    standing = f"{judged.standing} before; " if judged.standing and not judged.failures() else ""
    why = "; ".join(check.explanation for check in judged.failures()) or f"{standing}{judged.count_passed()}"
    name = f"{judged.model} version {judged.version}"
    if judged.promoted:
        forced = f"forced because {judged.reason}; " if judged.forced else ""
        return f"{name} is the champion: {forced}{why}"
    return f"{name} stays challenger: {why}"


@task(task_run_name="sum up")
def show_summary(
    reason: str, earlier: dict[str, Any] | None, outcomes: dict[str, str], blessing: dict[str, Any]
) -> str:
    """Create the summary page of a retraining: what changed, how good it is, the verdict, links; hashes come last.

    Returns the page in one line. `earlier` is the registration of the training before, or None if there was none.
    """
    with tracking.store():
        now = read_data_set(blessing["model"], blessing["version"])
        before = read_earlier(earlier) if earlier else None
    contents = compare_contents(now, before)
    change, details = describe_data_change(now, before, earlier is None, contents)
    how_good, pages = metrics_and_links(blessing["model"], blessing["version"])
    ran = [name for name, state in outcomes.items() if state != "Cached"]
    cached = [name for name, state in outcomes.items() if state == "Cached"]
    answers = {
        "What data": f"{now.size}, from {data_record().get('source', '?')}",
        "Why it ran": REASONS[reason],
        "What ran": f"{', '.join(ran) or 'nothing'}; unchanged: {', '.join(cached) or 'nothing'}",
        "How good": how_good,
        "Promoted": "yes" if blessing["promoted"] else "no",
        "Where to look": ", ".join(pages),
        "Data version": f"`{now.md5}`" + (f", before `{before.md5}`" if before else ""),
    }
    rows = "\n".join(f"| **{question}** | {cell(answer)} |" for question, answer in answers.items())
    what, _, why = describe_verdict(blessing).partition(": ")
    changed = f"{change}; {details}" if details else change  # outside of the table, whose cells are narrow
    page = f"# {what}\n\n**What changed**: {cell(changed)}\n\n| | |\n|---|---|\n{rows}\n\n**Why**: {cell(why)}\n"
    summary = f"{what}: {change}; {why}"
    create_markdown_artifact(page, key="retraining", description=summary)
    return summary


def cell(text: str) -> str:
    """Escape a text for one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")


def metrics_and_links(name: str, number: str) -> tuple[str, list[str]]:
    """Return the metrics of a version in words, and links to its run, model and reports in MLflow's UI.

    If the store is not a server, the run ID replaces the links.
    """
    with tracking.store() as uri:
        version = registry.get_version(name, number)
        metrics = read_metrics(version)
        how_good = "not recorded" if metrics is None else describe_metrics(metrics)
        if not uri.startswith("http"):
            return how_good, [f"MLflow run `{version.run_id}` at {uri}, shown by `make ui`"]
        page = f"{uri}/#/experiments/{get_run(version).info.experiment_id}/runs/{version.run_id}"
    return how_good, [
        f"[MLflow run]({page})",
        f"[model version]({uri}/#/models/{name}/versions/{number})",
        f"[report]({page}/artifacts/{REPORT.name})",
        f"[validation]({page}/artifacts/validation/{VALIDATION_PAGE.name})",
    ]
