"""DVC reruns what a change affects, and nothing else."""

import csv
import hashlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from workspace import ROOT, Workspace

from landuse.core.files import read_record, read_table

AFFECTED_STAGES = {"validate", "extract", "train", "evaluate", "register"}


def test_after_a_run_nothing_is_stale_and_only_the_lock_changed(whole_run: Workspace) -> None:
    assert whole_run.stale() == {}
    changed = whole_run.ok("git", "diff", "--name-only", "HEAD~1", "HEAD").split()
    assert set(changed) <= {"dvc.lock", "data.dvc"}
    assert whole_run.ok("git", "status", "--porcelain") == ""


def test_a_second_repro_runs_nothing(whole_run: Workspace) -> None:
    assert whole_run.stages_run("dvc", "repro") == []


def test_an_experiment_reruns_the_affected_stages_and_can_be_compared(work: Workspace) -> None:
    run = ("dvc", "exp", "run", "--name", "faster", "--set-param", "train.learning_rate=0.02")
    assert work.stages_run(*run) == ["train", "evaluate", "register"]
    table = list(csv.DictReader(io.StringIO(work.ok("dvc", "exp", "show", "--csv"))))
    faster = next(row for row in table if row["Experiment"] == "faster")
    assert float(faster["train.learning_rate"]) == 0.02 and 0 <= float(faster["accuracy"]) <= 1
    [command] = re.findall(r"^dvc exp show .*$", (ROOT / "docs/how-to/try-values.md").read_text("utf-8"), re.MULTILINE)
    columns = set(next(csv.reader(io.StringIO(work.ok(*shlex.split(command), "--csv")))))
    assert {"accuracy", "train.learning_rate"} <= columns and not {name for name in columns if "/" in name}
    assert "artifacts/metrics.json" in work.ok("dvc", "metrics", "diff", "--all", "HEAD")
    assert "train.learning_rate" in work.ok("dvc", "params", "diff", "HEAD")
    work.ok("dvc", "plots", "diff", "HEAD")
    page = (work.folder / "dvc_plots" / "index.html").read_text()
    assert all(text in page for text in ("loss by epoch", "confusion matrix", "recall by class", '"rev": "HEAD"'))
    assert work.ok("git", "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]


def test_an_experiment_in_a_temporary_copy_uses_the_same_store_and_registry(work: Workspace) -> None:
    work.ok("git", "add", "--force", str(work.weights))  # such a copy has only what git tracks
    work.commit()
    work.ok("dvc", "exp", "run", "--temp", "--set-param", "train.learning_rate=0.02")
    assert work.stale() == {}
    client = MlflowClient(work.store)
    newest = max(client.search_model_versions(), key=lambda version: int(version.version))
    assert client.get_run(newest.run_id).data.params["train.learning_rate"] == "0.02"
    work.ok("landuse", "export", "exported", "--model", f"models:/{newest.name}/{newest.version}")


def test_a_new_split_seed_reruns_everything_after_the_extraction(work: Workspace) -> None:
    work.change(lambda params: params["split"].update(seed=2))
    commit = work.commit()
    assert work.stages_run("dvc", "repro") == ["split", "train", "evaluate", "register"]
    assert work.stale() == {}
    record = (work.folder / "artifacts" / "run.json").read_text()
    assert f'"git.commit": "{commit}"' in record
    assert '"git.dirty": "false"' in record, "a lock file updated by DVC is not a code change"


def test_a_change_of_shared_code_makes_the_stages_that_use_it_stale(work: Workspace) -> None:
    with (work.folder / "src" / "landuse" / "ml" / "images.py").open("a") as file:
        file.write("# another line\n")
    assert set(work.stale()) == AFFECTED_STAGES


def test_an_edited_expectation_makes_validation_stale(work: Workspace) -> None:
    path = work.folder / "gx" / "expectations" / "images.json"
    path.write_text(path.read_text() + "\n")
    assert work.stale() == {"validate": [{"changed deps": {"gx": "modified"}}]}


def test_bytecode_files_make_nothing_stale(work: Workspace) -> None:
    folder = work.folder / "src" / "landuse" / "train" / "__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / "other.pyc").touch()
    assert work.stale() == {}


def test_a_changed_weights_file_makes_extraction_stale(work: Workspace) -> None:
    work.weights.write_bytes(work.weights.read_bytes() + b"\0")
    assert work.stale() == {"extract": [{"changed deps": {f"weights/{work.weights.name}": "modified"}}]}


@pytest.mark.parametrize(
    ("section", "change"),
    [("extract", {"views": 3}), ("extract", {"image_size": 64}), ("train", {"unfreeze_from": "block_15"})],
)
def test_features_of_other_views_sizes_or_cuts_are_not_reused(
    work: Workspace, section: str, change: dict[str, Any]
) -> None:
    work.change(lambda params: params[section].update(change))
    assert "changed deps" in work.stale()["extract"][0]


def test_truncated_features_are_extracted_again(work: Workspace) -> None:
    path = next((work.folder / "artifacts" / "features" / "activations").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert work.stale()["extract"] == [{"changed outs": {"artifacts/features": "modified"}}]
    work.ok("dvc", "repro")
    assert path.read_bytes() == content and work.stale() == {}


def test_deleted_outputs_are_restored_from_the_cache(work: Workspace) -> None:
    subprocess.run(["rm", "-r", "artifacts/model", "artifacts/features"], cwd=work.folder, check=True)
    work.ok("dvc", "checkout")
    assert work.stale() == {}


def test_stages_run_on_a_cache_of_symlinks_without_writing_to_it(work: Workspace) -> None:
    work.ok("dvc", "config", "cache.type", "symlink")
    work.ok("dvc", "checkout", "--relink")
    assert (work.folder / "artifacts" / "model" / "model.json").is_symlink()
    work.change(lambda params: params["train"].update(learning_rate=0.02))
    assert work.stages_run("dvc", "repro") == ["train", "evaluate", "register"]
    work.change(lambda params: params["evaluate"].update(calibration_bins=5))
    work.ok("landuse", "evaluate")
    work.ok("landuse", "export", "exported", "--model", "models:/landuse-sample@challenger")
    for path in (work.folder / ".dvc" / "cache" / "files" / "md5").glob("*/*"):
        name = path.parent.name + path.name.removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, path


def test_dvc_gc_removes_uncommitted_outputs_which_can_be_reproduced(work: Workspace) -> None:
    cache, params = work.folder / ".dvc" / "cache" / "files", (work.folder / "params.yaml").read_bytes()
    committed = set(cache.rglob("*"))
    work.change(lambda params: params["train"].update(learning_rate=0.02))
    tried_params = (work.folder / "params.yaml").read_bytes()
    work.ok("dvc", "repro")
    (work.folder / "params.yaml").write_bytes(params)
    work.ok("git", "checkout", "dvc.lock")
    work.ok("dvc", "checkout")
    work.ok("dvc", "gc", "--workspace", "--all-commits", "--force")
    remaining = {path for path in cache.rglob("*") if path.is_file()}
    assert remaining == {path for path in committed if path.is_file()}
    assert work.stages_run("dvc", "repro") == []
    (work.folder / "params.yaml").write_bytes(tried_params)
    assert work.stages_run("dvc", "repro") == ["train", "evaluate", "register"]


def test_a_concurrent_repro_names_the_running_one_and_harms_nothing(work: Workspace) -> None:
    first = subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", "validate"],
        cwd=work.folder, env=work.env(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with first:
        next(line for line in first.stdout if line.startswith("> landuse validate"))
        second = work.run("dvc", "repro", "validate")
        first.stdout.read()
    assert second.returncode == 255 and "busy" in second.stderr and f"PID {first.pid}" in second.stderr, second.stderr
    assert "Traceback" not in second.stderr
    assert first.returncode == 0
    assert work.stale() == {}


def test_params_edited_during_training_are_not_recorded_as_those_used(work: Workspace) -> None:
    work.change(lambda params: params["train"].update(learning_rate=0.02))
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=work.folder, env=work.env(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        next(line for line in first.stdout if line.startswith("epoch"))
        work.change(lambda params: params["train"].update(learning_rate=0.03))
        _, errors = first.communicate()
    assert first.returncode == 255
    assert "landuse: train.learning_rate was 0.02 when train began, and is 0.03 now" in errors, errors
    assert list(work.stale()) == ["train", "evaluate", "register"]
    assert work.stages_run("dvc", "repro") == ["train", "evaluate", "register"]
    history = read_table(work.folder / "artifacts" / "history.csv")
    assert history["learning_rate"].max() == pytest.approx(0.03, rel=0.3)
    assert read_record(work.folder / "artifacts" / "run.json")["params"]["train.learning_rate"] == 0.03


def test_duplicates_in_the_sample_form_one_group(whole_run: Workspace) -> None:
    lines = (whole_run.folder / "artifacts" / "splits.csv").read_text().splitlines()
    rows = {row["path"]: row for row in csv.DictReader(lines)}
    assert rows["tanks/tanks00.png"]["group"] == rows["tanks/tanks01.png"]["group"]


@pytest.mark.parametrize("module", ["landuse.cli", "landuse.ml.classifier"])
def test_importing_creates_no_files(module: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
