"""Info describes the folder, and says what to do if the registry has lost its version."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from records import set_facts

from landuse.core.errors import LanduseError
from landuse.core.paths import REGISTRATION
from landuse.info import describe_metrics, info
from landuse.params import RegisterParams
from landuse.project.lineage import data_record
from landuse.register import register
from landuse.registry import set_alias
from landuse.tracking import MODEL_TAG

ROOT = Path(__file__).parents[1]
REMEDY = "dvc repro --single-item --force register"


@pytest.fixture(autouse=True)
def versioned(trained_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a finished project whose images are tracked by DVC."""
    subprocess.run(["git", "init", "--quiet"], check=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(trained_copy.parent / "dvc-site-cache"))
    Path(".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", ".dvc")
    with Repo() as repo:
        repo.add("data")
    return trained_copy


def facts() -> dict[str, str]:
    return {line[:9].strip(): line[10:] for line in info().splitlines()}


def test_info_names_data_code_packages_training_score_and_model(trained_copy: Path) -> None:
    version = register(RegisterParams(model="shown"))
    described = facts()
    assert list(described) == ["data", "batches", "code", "packages", "trained", "scored", "model"]
    assert described["batches"] == "1: tiny.zip"
    assert re.fullmatch(r"[0-9a-f]{32}\.dir \(real, from tiny\.zip\)", described["data"])
    assert all(name in described["packages"] for name in ("keras", "mlflow", "dvc", "great-expectations"))
    tags = json.loads(Path("artifacts/run.json").read_text())["tags"]
    assert f"weights {tags['weights']}, {tags['device']}" in described["trained"]
    assert not described["trained"].endswith("with changes")
    assert "test images, macro F1" in described["scored"]
    assert described["model"].startswith(f"shown version {version.version} (challenger), run {version.run_id}")


def test_the_batches_of_the_data_are_described_by_their_number_and_the_last(versioned: Path) -> None:
    record = yaml.safe_load(Path("data.dvc").read_text())
    record["meta"]["batches"] = [
        {"source": "tiny.zip", "images": 36},
        {"source": "tiles.zip", "images": -1200, "date": "2026-11-29T18:00:00Z"},
    ]
    Path("data.dvc").write_text(yaml.safe_dump(record))
    assert facts()["batches"] == "2, the last one: tiles.zip, -1,200 images on 2026-11-29"


def test_the_change_since_the_champions_data_is_told(trained_copy: Path) -> None:
    version = register(RegisterParams(model="landuse-sample"))
    assert "changed" not in facts(), "there is no champion yet"
    set_alias(version.name, "champion", str(version.version))
    now = data_record()["md5"]
    set_facts(version.name, str(version.version), **{"data.md5": now})
    assert facts()["changed"] == "since the champion's data: no images changed"
    Path("data/field/00.png").unlink()
    with Repo() as repo:
        repo.add("data")
    assert facts()["changed"] == "since the champion's data: −1 image (field −1)"
    set_facts(version.name, str(version.version), **{"data.md5": "0" * 32 + ".dir"})
    assert "not known (version 0000" in facts()["changed"] and "dvc fetch --all-commits" in facts()["changed"]


def test_without_an_answer_of_the_registry_the_rest_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    described = facts()
    assert described["changed"].startswith("since the champion's data: not known now (MLflow at http://127.0.0.1:9: ")
    assert described["batches"] == "1: tiny.zip"


def test_a_model_trained_with_uncommitted_code_is_described_as_such(trained_copy: Path) -> None:
    record = json.loads(Path("artifacts/run.json").read_text())
    for commit, words in (("none", "code in no commit"), ("f" * 40, "code ffffffffffff with changes")):
        record["tags"] |= {"git.commit": commit, "git.dirty": "true"}
        Path("artifacts/run.json").write_text(json.dumps(record))
        assert facts()["trained"].endswith(words)


@pytest.mark.parametrize(
    ("line", "file"), [("trained", "run.json"), ("scored", "metrics.json"), ("model", "registration.json")]
)
def test_a_missing_output_is_described_with_how_to_make_it(trained_copy: Path, line: str, file: str) -> None:
    Path("artifacts", file).unlink(missing_ok=True)
    assert facts()[line] == "not there yet: run dvc repro"


def test_edited_and_missing_images_are_described_as_such(versioned: Path) -> None:
    next(Path("data").rglob("*.*g")).unlink()
    assert "; data/ was edited since: " in facts()["data"]
    shutil.rmtree("data")
    assert "; data/ is missing: dvc pull data.dvc " in facts()["data"]
    Path("data").mkdir()
    with Repo() as repo, repo.lock:
        assert "; DVC cannot tell now " in facts()["data"]


def test_a_version_that_the_registry_lost_is_an_error_with_the_remedy(trained_copy: Path) -> None:
    register(RegisterParams(model="lost"))
    MlflowClient().delete_registered_model("lost")
    with pytest.raises(LanduseError, match=REMEDY) as refusal:
        info()
    assert "version 1 of lost is not in the registry at sqlite:///" in str(refusal.value)


def test_info_creates_no_registry(trained_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    registration = {"model": "landuse", "version": "1", MODEL_TAG: "0" * 64}
    REGISTRATION.write_text(json.dumps(registration))
    with pytest.raises(LanduseError, match="there is no registry at sqlite:///none.db yet: dvc repro makes it"):
        info()
    assert not Path("none.db").exists()


def test_another_model_under_the_same_number_is_refused(trained_copy: Path) -> None:
    register(RegisterParams(model="swapped"))
    set_facts("swapped", "1", model_sha256="0" * 64)
    with pytest.raises(LanduseError, match=REMEDY):
        info()


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "registration.json"])
def test_a_damaged_file_is_named_with_how_to_restore_it(trained_copy: Path, file: str) -> None:
    Path("artifacts", file).write_text("{")
    with pytest.raises(LanduseError, match=rf"artifacts/{file}.*dvc"):
        info()


def test_metrics_are_described_on_one_line() -> None:
    metrics = {"images": 420, "subset": "test", "accuracy": 0.97142, "macro_f1": 0.97101}
    assert describe_metrics(metrics) == "97.1% of 420 test images, macro F1 0.971"
