"""Artifacts in the UI of Prefect: progress, tables, the verdict and a summary page."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pandas as pd
import pytest
import tiny
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

from landuse import tracking
from landuse.core.paths import METRICS, REGISTRATION, VALIDATION
from landuse.core.progress import EpochBars, track
from landuse.gate.blessing import Blessing, Check
from landuse.info import describe_metrics
from landuse.params import RegisterParams
from landuse.register import register
from pipelines.steps import artifacts, notifications
from pipelines.steps.artifacts import StageMonitor, describe_verdict, show_summary
from pipelines.steps.commands import CommandFailed
from pipelines.training import training

OUTCOMES = {"validate": "Completed", "extract": "Completed", "split": "Cached", "train": "Completed"}
Created = dict[str, tuple[Any, str | None]]


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> Created:
    """Content and description of every created artifact, by its key."""
    artifacts_by_key: Created = {}

    def create(content: Any, key: str, description: str | None = None) -> UUID:
        json.dumps(content)
        artifacts_by_key[key] = (content, description)
        return uuid4()

    monkeypatch.setattr(artifacts, "create_table_artifact", create)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", create)
    return artifacts_by_key


@pytest.fixture
def progress_updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Successive values of the one progress artifact; the first entry has its description."""
    updates, identifier = [], uuid4()

    def create(progress: float, description: str) -> UUID:
        updates.append((description, progress))
        return identifier

    def update(artifact: UUID, progress: float) -> None:
        assert artifact == identifier
        updates.append(("", progress))

    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    return updates


def blessing(failed: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """Return a blessing in which the given checks failed."""
    names = ("accuracy", "latency_ms", "size_mb")
    checks = tuple(Check(name, 0.5, 0.8, name not in failed, f"{name} has its reason") for name in names)
    facts = {"model": "landuse", "version": "4", "champion": "3", "verdict": "refused" if failed else "passed"}
    facts |= {"promoted": not failed, "forced": False, "reason": None, "moment": "2026-01-02T03:04:05+00:00"}
    return Blessing(**facts | {"data": tiny.DATA_MD5, "compared_on": 60, "checks": checks} | changes).to_dict()


# Progress


def test_progress_is_parsed_from_the_output_of_stages_without_a_terminal(
    progress_updates: list[tuple[str, float]], capfd: pytest.CaptureFixture
) -> None:
    list(track(range(40), 40, "extract"))
    monitor = StageMonitor()
    for line in capfd.readouterr().out.splitlines():
        monitor(line.rstrip())
    assert progress_updates == [("extract, of 40", 10), *(("", tenth) for tenth in range(20, 100, 10))]
    monitor.finish()
    assert progress_updates[-1] == ("", 100)


def test_early_stopping_sets_the_progress_to_100_percent(
    progress_updates: list[tuple[str, float]], capfd: pytest.CaptureFixture
) -> None:
    bars = EpochBars(train=10, validation=4)
    for epoch in (1, 2):
        bars.print_line(f"epoch {epoch:>3}/8  train loss 0.100")
    monitor = StageMonitor()
    for line in capfd.readouterr().out.splitlines():
        monitor(line)
    monitor.finish()
    assert progress_updates == [("epoch, of 8", 12.5), ("", 25), ("", 100)]


def test_a_stage_without_progress_lines_shows_no_progress(progress_updates: list[tuple[str, float]]) -> None:
    monitor = StageMonitor()
    for line in ("Running stage 'split':", "> landuse split", "240 train, 80 validation, 80 test", "re-extract 3/4"):
        monitor(line)
    monitor.finish()
    assert progress_updates == [] and monitor.ran


def test_a_stage_continues_if_the_server_rejects_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> UUID:
        raise httpx.ReadTimeout("")

    monitor = StageMonitor()
    monkeypatch.setattr(artifacts, "create_progress_artifact", fail)
    monitor("extract 3/4")
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", fail)
    for line in ("Running stage 'extract':", "extract 3/4", "extract 4/4"):
        monitor(line)
    monitor.finish()
    assert monitor.ran


def test_the_monitor_knows_whether_dvc_ran_or_skipped_the_stage() -> None:
    ran, cached = StageMonitor(), StageMonitor()
    for line in ("Running stage 'train':", "> landuse train", *("nothing of note" for _ in range(1000))):
        ran(line)
    cached("Stage 'train' didn't change, skipping")
    assert ran.ran and not cached.ran


# Words


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (blessing(), "landuse version 4 is the champion: 3 of 3 checks passed"),
        (blessing(promoted=False), "landuse version 4 stays challenger: 3 of 3 checks passed"),
        (
            blessing(("accuracy", "size_mb")),
            "landuse version 4 stays challenger: accuracy has its reason (promote.min_accuracy); "
            "size_mb has its reason (promote.max_size_mb)",
        ),
        (
            blessing(("accuracy",), promoted=True, forced=True, reason="the old one is biased"),
            "landuse version 4 is the champion: forced because the old one is biased; "
            "accuracy has its reason (promote.min_accuracy)",
        ),
    ],
)
def test_the_verdict_tells_whether_the_version_was_promoted_and_why(verdict: dict, words: str) -> None:
    assert describe_verdict(verdict) == words


# Tables


def test_failed_expectations_come_first_in_the_table(trained_copy: Path, created: Created) -> None:
    verdict = json.loads(VALIDATION.read_text())
    verdict["expectations"][-1] |= {"success": False, "severity": "critical", "unexpected": 7}
    VALIDATION.write_text(json.dumps(verdict))
    artifacts.show_validation(Path())
    rows, description = created["validation"]
    assert len(rows) == len(verdict["expectations"]) and description.startswith(f"{verdict['images']} images, ")
    failed = sum(not expectation["success"] for expectation in verdict["expectations"])
    assert "passed" not in [row["verdict"] for row in rows[:failed]]
    assert {row["verdict"] for row in rows[failed:]} == {"passed"}
    assert ("critical", 7) in [(row["verdict"], row["not as expected"]) for row in rows[:failed]]


def test_refused_images_are_shown_from_their_report_in_quarantine(trained_copy: Path, created: Created) -> None:
    folder = Path("quarantine/20260101T000000.000000Z-0a1b2c3d")
    folder.mkdir(parents=True)
    (folder / "validation.json").write_bytes(VALIDATION.read_bytes())
    VALIDATION.unlink()
    complaint = f"set.zip is not let in: swamp is no class; see {folder}/validation.html."
    artifacts.show_refused_images(complaint)
    assert created["validation"][1] == complaint


def test_refused_images_without_a_report_show_no_table(work_dir: Path, created: Created) -> None:
    artifacts.show_refused_images("set.zip is damaged: fetch or pack it again")
    assert created == {}


def test_the_class_with_the_lowest_recall_comes_first(trained_copy: Path, created: Created) -> None:
    table = pd.DataFrame({"class": ["field", "forest", "water"], "recall": [0.9, 1 / 3, 1.0]})
    table.to_csv("artifacts/per_class.csv", index=False)
    artifacts.show_classes(Path())
    rows, description = created["classes"]
    assert [(row["class"], row["recall"]) for row in rows] == [("forest", 0.333), ("field", 0.9), ("water", 1.0)]
    assert description == describe_metrics(json.loads(METRICS.read_text()))


def test_the_gate_table_has_a_row_for_every_check(created: Created) -> None:
    artifacts.show_verdict(verdict := blessing(("latency_ms",)))
    rows, description = created["gate"]
    assert [row["verdict"] for row in rows] == ["passed", "failed", "passed"]
    assert rows[1] == {
        "check": "latency_ms", "verdict": "failed", "value": 0.5, "threshold": 0.8, "why": "latency_ms has its reason",
    }  # fmt: skip
    assert description == describe_verdict(verdict)


# The page


@pytest.fixture
def version(trained_copy: Path) -> ModelVersion:
    """The registered version of the trained model."""
    return register(RegisterParams(model="landuse"))


@pytest.fixture
def page(version: ModelVersion, created: Created) -> Callable[..., str]:
    """Function that turns a blessing into the summary page of a retraining."""

    def content(verdict: dict[str, Any], earlier: str | None = "1") -> str:
        verdict |= {"version": str(version.version)}
        registration = earlier and {"model": "landuse", "version": earlier}
        summary = show_summary.fn("new-data", registration, OUTCOMES, verdict)
        what, _, why = describe_verdict(verdict).partition(": ")
        assert summary.startswith(f"{what}: ") and summary.endswith(f"; {why}")
        assert created["retraining"][1] == summary
        return created["retraining"][0]

    return content


def test_the_page_summarizes_data_changes_metrics_and_verdict(page: Callable[..., str], version: ModelVersion) -> None:
    lines = page(blessing(("accuracy",)), earlier=str(version.version)).splitlines()
    assert lines[0] == f"# landuse version {version.version} stays challenger"
    assert lines[2] == "**What changed**: no images changed; still 36 images in 3 classes, 12 each"
    answers = dict(line.strip("| ").split(" | ") for line in lines if line.startswith("| **"))
    assert answers["**What data**"] == "36 images in 3 classes, 12 each, from tiny.zip"
    assert answers["**Why it ran**"] == "the images are new"
    assert answers["**What ran**"] == "validate, extract, train; unchanged: split"
    assert answers["**How good**"] == describe_metrics(json.loads(METRICS.read_text()))
    assert answers["**Promoted**"] == "no"
    assert version.run_id in answers["**Where to look**"] and "make ui" in answers["**Where to look**"]
    assert lines[-1] == "**Why**: accuracy has its reason (promote.min_accuracy)"
    first, *others = [name for name, answer in answers.items() if tiny.DATA_MD5 in answer]
    assert first == [*answers][-1] == "**Data version**" and not others


def test_the_page_describes_the_judged_version_even_after_another_training(
    page: Callable[..., str], version: ModelVersion
) -> None:
    good = describe_metrics(json.loads(METRICS.read_text()))
    METRICS.write_text(METRICS.read_text().replace('"images": ', '"images": 9'))
    REGISTRATION.write_text("{}")
    assert good in (content := page(blessing())) and version.run_id in content


def test_the_page_works_for_the_first_champion_of_a_project(page: Callable[..., str], version: ModelVersion) -> None:
    content = page(blessing(champion=None), earlier=None)
    assert f"# landuse version {version.version} is the champion\n" in content
    assert "**What changed**: the first data set; 36 images in 3 classes, 12 each\n" in content
    assert "| **Promoted** | yes |" in content


def test_the_page_works_if_the_registry_has_lost_the_version_before(page: Callable[..., str]) -> None:
    assert "**What changed**: the data set before is not known any more; " in page(blessing(), earlier="99")


def test_special_characters_do_not_break_the_table_of_the_page(page: Callable[..., str]) -> None:
    content = page(blessing(("accuracy",), promoted=True, forced=True, reason="a | b\nc"))
    assert all(line.count("|") == 3 for line in content.splitlines() if line.startswith("| **"))
    assert "forced because a / b c;" in content


def test_the_page_links_to_mlflow_if_the_store_is_a_server(
    page: Callable[..., str], version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def server():
        yield "http://127.0.0.1:5000"

    monkeypatch.setattr(tracking, "store", server)
    content = page(blessing())
    experiment = MlflowClient().get_run(version.run_id).info.experiment_id
    link = f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{version.run_id}"
    assert f"[MLflow run]({link})" in content and f"[report]({link}/artifacts/report.html)" in content
    assert f"[model version](http://127.0.0.1:5000/#/models/landuse/versions/{version.version})" in content


# Notifications


def test_without_a_block_or_valid_params_no_notification_is_sent(
    work_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.write_params(work_dir, {})
    notifications.notify("a subject", "a body")
    Path("params.yaml").write_text("train: [")
    notifications.notify("a subject", "a body")
    assert caplog.messages == []


@pytest.mark.parametrize("is_subflow", [False, True])
def test_a_failure_is_notified_once_by_the_outer_flow(monkeypatch: pytest.MonkeyPatch, is_subflow: bool) -> None:
    notified: list[tuple[str, str]] = []
    monkeypatch.setattr(notifications, "notify", lambda *message: notified.append(message))
    run = FlowRun(flow_id=uuid4(), name="train", parent_task_run_id=uuid4() if is_subflow else None)
    notifications.notify_failure(training, run, Failed(data=CommandFailed("no room", 1)))
    assert notified == ([] if is_subflow else [("landuse: training failed", "train: no room")])
