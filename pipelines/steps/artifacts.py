"""What Prefect's UI shows of a run: its name, progress, tables, and one page that answers what people ask."""

import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from httpx import HTTPError
from mlflow import MlflowClient
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
from landuse.info import scored
from landuse.project.lineage import data_record
from landuse.registry.version_record import fetch_run_file
from pipelines.steps.pending import REASONS

PROGRESS = re.compile(r"^(extract|evaluate|epoch)\s+(\d+)/(\d+)")


def rename_run(name: str) -> None:
    """Give the flow run at hand another name."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)


class Meter:
    """Shows the progress that the lines of a stage tell of, and knows whether DVC ran it.

    Where the server does not take it, nothing is shown: that is no reason to stop a stage.
    """

    def __init__(self) -> None:
        self.artifact: UUID | None = None
        self.ran = False

    def __call__(self, line: str) -> None:
        self.ran |= line.startswith("Running stage ")
        told = PROGRESS.match(line)
        if not told:
            return
        share = 100 * int(told[2]) / int(told[3])
        with suppress(HTTPError):
            if self.artifact is None:
                self.artifact = create_progress_artifact(share, description=f"{told[1]}, of {told[3]}")
            else:
                update_progress_artifact(self.artifact, share)

    def finish(self) -> None:
        """Whatever there was to do is done, though fewer epochs than allowed may have been enough."""
        if self.artifact is not None:
            with suppress(HTTPError):
                update_progress_artifact(self.artifact, 100)


def show_validation(folder: Path) -> None:
    """A table of what Great Expectations found, one row per expectation."""
    verdict = read_record(folder / VALIDATION)
    show_expectations(verdict, f"{verdict['images']} images, {verdict['warnings']} warnings")


def show_refused_images(complaint: str) -> None:
    """The same table for images that were not let in, from their report in quarantine/, if they came that far."""
    page = re.search(rf"\S+{re.escape(VALIDATION_PAGE.name)}", complaint)
    if page:
        show_expectations(read_record(Path(page[0]).with_name(VALIDATION.name)), complaint)


def show_expectations(verdict: dict[str, Any], description: str) -> None:
    """One row per expectation, the failed ones first."""
    rows = [
        {
            "verdict": "passed" if found["success"] else found["severity"],
            "expectation": found["words"],
            "found": found["observed"],
            "not as expected": found["unexpected"],
        }
        for found in sorted(verdict["expectations"], key=lambda found: found["success"])
    ]
    create_table_artifact(rows, key="validation", description=description)


def show_classes(folder: Path) -> None:
    """A table of the held-out scores, one row per class, the lowest recall first."""
    rows = read_table(folder / PER_CLASS).sort_values("recall").round(3).to_dict("records")
    create_table_artifact(rows, key="classes", description=scored(read_record(folder / METRICS)))


def show_verdict(blessing: dict[str, Any]) -> None:
    """A table of the checks of the gate."""
    rows = [
        {
            "check": check["name"],
            "verdict": "passed" if check["passed"] else "failed",
            "value": check["value"],
            "threshold": check["threshold"],
            "why": check["sentence"],
        }
        for check in blessing["checks"]
    ]
    create_table_artifact(rows, key="gate", description=verdict_in_words(blessing))


def verdict_in_words(blessing: dict[str, Any]) -> str:
    """What became of the version and why, in one line."""
    failed = [check.why for check in Blessing.of(blessing).failures()]
    why = "; ".join(failed) or f"all {len(blessing['checks'])} checks passed"
    name = f"{blessing['model']} version {blessing['version']}"
    if blessing["promoted"]:
        forced = f"forced because {blessing['reason']}; " if blessing["forced"] else ""
        return f"{name} is the champion: {forced}{why}"
    return f"{name} stays challenger: {why}"


@task(task_run_name="sum up")
def show_summary(reason: str, before: str | None, outcomes: dict[str, str], blessing: dict[str, Any]) -> str:
    """The page of a retraining: what data, what changed, how good, promoted or not, why, where to look."""
    data, verdict = data_record(), verdict_in_words(blessing)
    how_good, pages = on_record(blessing["model"], blessing["version"])
    ran = [name for name, state in outcomes.items() if state != "Cached"]
    cached = [name for name, state in outcomes.items() if state == "Cached"]
    source = f"{data.get('images', '?')} images in {data.get('classes', '?')} classes, from {data.get('source', '?')}"
    answers = {
        "What data": f"`{data['md5']}`: {source}",
        "What changed": f"{REASONS[reason]}; the data set was {'`' + before + '`' if before else 'none'} before",
        "What ran": f"{', '.join(ran) or 'nothing'}; unchanged: {', '.join(cached) or 'nothing'}",
        "How good": how_good,
        "Promoted": "yes" if blessing["promoted"] else "no",
        "Where to look": ", ".join(pages),
    }
    rows = "\n".join(f"| **{question}** | {cell(answer)} |" for question, answer in answers.items())
    what, _, why = verdict.partition(": ")  # the latter below the table, whose cells do not break lines
    page = f"# {what}\n\n| | |\n|---|---|\n{rows}\n\n**Why**: {cell(why)}\n"
    create_markdown_artifact(page, key="retraining", description=verdict)
    return verdict


def cell(text: str) -> str:
    """A text that stays within one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")


def on_record(name: str, number: str) -> tuple[str, list[str]]:
    """Of a version: how good it is, and links to run, model and pages in MLflow's UI.

    Where the store is no server, the id of the run in place of links.
    """
    with tracking.store() as uri, TemporaryDirectory() as folder:
        version = registry.get_version(name, number)
        metrics = fetch_run_file(version, METRICS.name, Path(folder))
        how_good = scored(read_record(metrics)) if metrics else "not recorded"
        if not uri.startswith("http"):
            return how_good, [f"MLflow run `{version.run_id}` at {uri}, shown by `make ui`"]
        page = f"{uri}/#/experiments/{MlflowClient().get_run(version.run_id).info.experiment_id}/runs/{version.run_id}"
    return how_good, [
        f"[MLflow run]({page})",
        f"[model version]({uri}/#/models/{name}/versions/{number})",
        f"[report]({page}/artifacts/{REPORT.name})",
        f"[validation]({page}/artifacts/validation/{VALIDATION_PAGE.name})",
    ]
