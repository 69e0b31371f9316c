"""Rebuilding a version gives the same result, or a report of what differs."""

import json
from pathlib import Path

import h5py
import pytest
from mlflow import MlflowClient
from workspace import Workspace

from landuse.tracking.names import RECORD, facts_of, record_tag

NAME = "landuse-sample"


def artifact(work: Workspace, name: str) -> Path:
    return work.folder / "artifacts" / name


def verdicts(printed: str) -> dict[str, bool]:
    """Parse the table that verify prints into whether each row is the same."""
    rows = printed.partition("then                 now")[2].splitlines()[1:]
    return {row[:20].strip(): row.endswith("yes") for row in rows if row.endswith((" yes", " NO"))}


def traces(work: Workspace) -> tuple[int, set[Path], str]:
    """Return what verify must not change: runs in the store, files in DVC's cache, git worktrees and status."""
    client = MlflowClient(work.store)
    runs = client.search_runs([client.get_experiment_by_name("landuse").experiment_id])
    cache = set((work.folder / ".dvc" / "cache").rglob("*"))
    return len(runs), cache, work.ok("git", "worktree", "list") + work.ok("git", "status", "--porcelain")


def test_the_same_commit_data_and_params_reproduce_every_output(work: Workspace) -> None:
    names = ("splits.csv", "model/model.tflite", "model/model.keras", "history.csv", "predictions.csv")
    before = {name: artifact(work, name).read_bytes() for name in names}
    metrics = json.loads(artifact(work, "metrics.json").read_text())
    assert "Running stage 'train'" in work.ok("dvc", "repro", "--force", "--no-run-cache", "evaluate")
    assert artifact(work, "splits.csv").read_bytes() == before["splits.csv"]
    again = json.loads(artifact(work, "metrics.json").read_text())
    for name in ("subset", "depthwise"):
        assert again.pop(name) == metrics.pop(name)
    assert again == pytest.approx(metrics, abs=1e-6, rel=0)
    assert [name for name in names if artifact(work, name).read_bytes() != before[name]] == []


def test_verifying_an_unchanged_project_succeeds_and_leaves_no_trace(whole_run: Workspace, tmp_path: Path) -> None:
    before = traces(whole_run)
    printed = whole_run.ok("landuse", "verify", "1", TMPDIR=str(tmp_path))
    assert [line for line in printed.splitlines() if line.startswith("> ")][-1] == "> landuse evaluate"
    rows = verdicts(printed)
    expected = {"commit", "data", "params", "weights", "packages", "split", "accuracy", "tag test.accuracy", "labels"}
    assert expected <= set(rows) and all(rows.values())
    assert printed.endswith(f"{NAME} version 1 came out the same\n")
    assert traces(whole_run) == before and list(tmp_path.iterdir()) == []


def test_a_version_is_rebuilt_with_its_own_params_not_those_of_its_commit(work: Workspace) -> None:
    work.ok("dvc", "exp", "run", "--set-param", "train.learning_rate=0.02", "--set-param", "split.seed=2")
    work.ok("git", "checkout", "--quiet", "--force", "HEAD")
    assert verdicts(work.ok("landuse", "verify", "2"))["params"]


def test_changed_weights_and_a_tampered_metric_are_reported(work: Workspace) -> None:
    client = MlflowClient(work.store, work.store)
    tags = client.get_model_version(NAME, "1").tags
    record = record_tag(facts_of(tags) | {"test.macro_f1": "0.9999"})[RECORD]
    client.set_model_version_tag(NAME, "1", RECORD, record)
    client.log_metric(client.get_model_version(NAME, "1").run_id, "tflite/dead_kernels", 0.5)
    blend_weights(work.weights)
    done = work.run("landuse", "verify", "1")
    rows = verdicts(done.stdout)
    assert done.returncode == 3 and f"{NAME} version 1 came out differently: " in done.stderr
    assert done.stderr.rstrip().endswith("; so did what went in: weights")
    same = {"commit", "data", "params", "device", "processor", "packages", "images"}
    assert {name for name, is_same in rows.items() if is_same} >= same
    assert not any(rows[name] for name in ("weights", "dead_kernels", "tag test.macro_f1", "probabilities"))


def blend_weights(path: Path) -> None:
    """Change every weight of a file slightly."""
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, item: scale(item) if isinstance(item, h5py.Dataset) else None)


def scale(item: h5py.Dataset) -> None:
    item[...] = item[...] * 1.01


def test_missing_data_is_reported_in_one_line(work: Workspace) -> None:
    md5 = json.loads(artifact(work, "run.json").read_text())["tags"]["data.md5"]
    (work.folder / ".dvc" / "cache").rename(work.folder / "elsewhere")
    message = work.refused("landuse", "verify", "1")
    assert f"{NAME} version 1 cannot be verified: its data {md5} (from sample) is neither in DVC's cache nor" in message
