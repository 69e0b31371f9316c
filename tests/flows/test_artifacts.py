"""What people see of a run: progress, tables, a verdict in words, and one page that answers what they ask."""

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

from landuse import tracking
from landuse.core.paths import METRICS, REGISTRATION, VALIDATION
from landuse.core.progress import EpochBars, track
from landuse.gate.blessing import Blessing, Check
from landuse.info import scored
from landuse.params import RegisterParams
from landuse.register import register
from pipelines.steps import artifacts, notifications
from pipelines.steps.artifacts import Meter, show_summary, verdict_in_words

OUTCOMES = {"validate": "Completed", "extract": "Completed", "split": "Cached", "train": "Completed"}
Shown = dict[str, tuple[Any, str | None]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The content and the description of every artifact, by its key."""
    kept: Shown = {}

    def create(content: Any, key: str, description: str | None = None) -> UUID:
        json.dumps(content)
        kept[key] = (content, description)
        return uuid4()

    monkeypatch.setattr(artifacts, "create_table_artifact", create)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", create)
    return kept


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What the one progress artifact said, one after the other; the first entry has its description."""
    said, made = [], uuid4()

    def create(progress: float, description: str) -> UUID:
        said.append((description, progress))
        return made

    def update(artifact: UUID, progress: float) -> None:
        assert artifact == made
        said.append(("", progress))

    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    return said


def blessing(failed: tuple[str, ...] = (), **what: Any) -> dict[str, Any]:
    """What the gate found, with some checks failed."""
    names = ("accuracy", "latency_ms", "size_mb")
    checks = tuple(Check(name, 0.5, 0.8, name not in failed, f"{name} is so and so") for name in names)
    facts = {"model": "landuse", "version": "4", "champion": "3", "verdict": "refused" if failed else "passed"}
    facts |= {"promoted": not failed, "forced": False, "reason": None, "moment": "2026-01-02T03:04:05+00:00"}
    return Blessing(**facts | {"data": tiny.DATA_MD5, "compared_on": 60, "checks": checks} | what).as_dict()


# Progress


def test_progress_is_read_from_the_lines_that_stages_print_without_a_terminal(
    meter: list[tuple[str, float]], capfd: pytest.CaptureFixture
) -> None:
    list(track(range(40), 40, "extract"))
    show = Meter()
    for line in capfd.readouterr().out.splitlines():
        show(line.rstrip())
    assert meter == [("extract, of 40", 10), *(("", tenth) for tenth in range(20, 100, 10))]
    show.finish()
    assert meter[-1] == ("", 100)


def test_a_training_that_stops_early_is_done_all_the_same(
    meter: list[tuple[str, float]], capfd: pytest.CaptureFixture
) -> None:
    bars = EpochBars(train=10, validation=4)
    for epoch in (1, 2):
        bars.line(f"epoch {epoch:>3}/8  train loss 0.100")
    show = Meter()
    for line in capfd.readouterr().out.splitlines():
        show(line)
    show.finish()
    assert meter == [("epoch, of 8", 12.5), ("", 25), ("", 100)]


def test_a_stage_that_counts_nothing_shows_no_progress(meter: list[tuple[str, float]]) -> None:
    show = Meter()
    for line in ("Running stage 'split':", "> landuse split", "240 train, 80 validation, 80 test", "re-extract 3/4"):
        show(line)
    show.finish()
    assert meter == [] and show.ran


def test_a_server_that_does_not_take_the_progress_is_no_reason_to_stop_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> UUID:
        raise httpx.ReadTimeout("")

    show = Meter()
    monkeypatch.setattr(artifacts, "create_progress_artifact", fail)
    show("extract 3/4")
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", fail)
    for line in ("Running stage 'extract':", "extract 3/4", "extract 4/4"):
        show(line)
    show.finish()
    assert show.ran


def test_a_stage_ran_however_much_it_said_afterwards_and_one_that_did_not_change_did_not() -> None:
    ran, cached = Meter(), Meter()
    for line in ("Running stage 'train':", "> landuse train", *("nothing of note" for _ in range(1000))):
        ran(line)
    cached("Stage 'train' didn't change, skipping")
    assert ran.ran and not cached.ran


# Words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (blessing(), "landuse version 4 is the champion: all 3 checks passed"),
        (blessing(promoted=False), "landuse version 4 stays challenger: all 3 checks passed"),
        (
            blessing(("accuracy", "size_mb")),
            "landuse version 4 stays challenger: accuracy is so and so (promote.accuracy); "
            "size_mb is so and so (promote.size_mb)",
        ),
        (
            blessing(("accuracy",), promoted=True, forced=True, reason="the old one is biased"),
            "landuse version 4 is the champion: forced because the old one is biased; "
            "accuracy is so and so (promote.accuracy)",
        ),
    ],
)
def test_the_verdict_says_what_became_of_the_version_and_why(found: dict, words: str) -> None:
    assert verdict_in_words(found) == words


# Tables


def test_what_failed_stands_first_in_the_table_of_expectations(trained_copy: Path, shown: Shown) -> None:
    verdict = json.loads(VALIDATION.read_text())
    verdict["expectations"][-1] |= {"success": False, "severity": "critical", "unexpected": 7}
    VALIDATION.write_text(json.dumps(verdict))
    artifacts.show_validation(Path())
    rows, description = shown["validation"]
    assert len(rows) == len(verdict["expectations"]) and description.startswith(f"{verdict['images']} images, ")
    failed = sum(not found["success"] for found in verdict["expectations"])
    assert "passed" not in [row["verdict"] for row in rows[:failed]]
    assert {row["verdict"] for row in rows[failed:]} == {"passed"}
    assert ("critical", 7) in [(row["verdict"], row["not as expected"]) for row in rows[:failed]]


def test_refused_images_are_shown_from_their_own_report(trained_copy: Path, shown: Shown) -> None:
    folder = Path("quarantine/20260101T000000.000000Z-0a1b2c3d")
    folder.mkdir(parents=True)
    (folder / "validation.json").write_bytes(VALIDATION.read_bytes())
    VALIDATION.unlink()
    complaint = f"set.zip is not let in: swamp is no class; see {folder}/validation.html."
    artifacts.show_refused_images(complaint)
    assert shown["validation"][1] == complaint


def test_images_that_never_came_as_far_as_a_report_show_no_table(place: Path, shown: Shown) -> None:
    artifacts.show_refused_images("set.zip is damaged: fetch or pack it again")
    assert shown == {}


def test_the_class_with_the_lowest_recall_stands_first(trained_copy: Path, shown: Shown) -> None:
    table = pd.DataFrame({"class": ["field", "forest", "water"], "recall": [0.9, 1 / 3, 1.0]})
    table.to_csv("artifacts/per_class.csv", index=False)
    artifacts.show_classes(Path())
    rows, description = shown["classes"]
    assert [(row["class"], row["recall"]) for row in rows] == [("forest", 0.333), ("field", 0.9), ("water", 1.0)]
    assert description == scored(json.loads(METRICS.read_text()))


def test_the_table_of_the_gate_holds_every_check(shown: Shown) -> None:
    artifacts.show_verdict(found := blessing(("latency_ms",)))
    rows, description = shown["gate"]
    assert [row["verdict"] for row in rows] == ["passed", "failed", "passed"]
    assert rows[1] == {
        "check": "latency_ms", "verdict": "failed", "value": 0.5, "threshold": 0.8, "why": "latency_ms is so and so",
    }  # fmt: skip
    assert description == verdict_in_words(found)


# The page


@pytest.fixture
def version(trained_copy: Path) -> ModelVersion:
    """The model, registered."""
    return register(RegisterParams(model="landuse"))


@pytest.fixture
def page(version: ModelVersion, shown: Shown) -> Callable[..., str]:
    """A function from a blessing to the page of a retraining whose model is registered."""

    def content(found: dict[str, Any], reason: str = "new-data", before: str | None = "f" * 32) -> str:
        found |= {"version": str(version.version)}
        assert show_summary.fn(reason, before, OUTCOMES, found) == verdict_in_words(found)
        return shown["retraining"][0]

    return content


def test_the_page_answers_what_people_ask(page: Callable[..., str], version: ModelVersion) -> None:
    lines = page(blessing(("accuracy",))).splitlines()
    assert lines[0] == f"# landuse version {version.version} stays challenger"
    answers = dict(line.strip("| ").split(" | ") for line in lines if line.startswith("| **"))
    assert tiny.DATA_MD5 in answers["**What data**"] and "from tiny.zip" in answers["**What data**"]
    assert answers["**What changed**"] == f"the images; the data set was `{'f' * 32}` before"
    assert answers["**What ran**"] == "validate, extract, train; unchanged: split"
    assert answers["**How good**"] == scored(json.loads(METRICS.read_text()))
    assert answers["**Promoted**"] == "no"
    assert lines[-1] == "**Why**: accuracy is so and so (promote.accuracy)"
    assert version.run_id in answers["**Where to look**"] and "make ui" in answers["**Where to look**"]


def test_the_page_is_that_of_the_version_that_was_judged_whatever_was_trained_since(
    page: Callable[..., str], version: ModelVersion
) -> None:
    good = scored(json.loads(METRICS.read_text()))
    METRICS.write_text(METRICS.read_text().replace('"images": ', '"images": 9'))
    REGISTRATION.write_text("{}")
    assert good in (content := page(blessing())) and version.run_id in content


def test_the_first_champion_of_a_project_has_a_page_too(page: Callable[..., str], version: ModelVersion) -> None:
    content = page(blessing(champion=None), before=None)
    assert f"# landuse version {version.version} is the champion\n" in content
    assert "the data set was none before" in content and "| **Promoted** | yes |" in content


def test_what_would_break_the_table_of_the_page_does_not(page: Callable[..., str]) -> None:
    content = page(blessing(("accuracy",), promoted=True, forced=True, reason="a | b\nc"))
    assert all(line.count("|") == 3 for line in content.splitlines() if line.startswith("| **"))
    assert "forced because a / b c;" in content


def test_where_the_store_is_a_server_the_page_links_to_its_pages(
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


# Who is told


def test_nobody_is_told_where_no_block_is_named_or_the_params_are_wrong(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.write_params(place, {})
    notifications.tell("a subject", "a body")
    Path("params.yaml").write_text("train: [")
    notifications.tell("a subject", "a body")
    assert caplog.messages == []
