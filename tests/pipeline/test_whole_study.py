"""A study on a real project: two networks in a copy, below one MLflow run, cached, stopped and gone on with."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from waiting import wait_for
from workspace import Workspace

from landuse.tracking.names import facts_of

NAME = "landuse-sample"
V1 = {"backbone": "mobilenet", "weights": "none", "unfreeze_from": "all"}
STAGES = "Running stage"


def compare(work: Workspace, *networks: dict[str, Any]) -> None:
    """Set the networks of the study, and few epochs, since one of them is trained from the images."""

    def change(params: dict[str, Any]) -> None:
        params["study"] = {"networks": [{}, *networks]}

    work.change(change)


def runs(work: Workspace) -> tuple[list[Run], list[Run]]:
    """Return the parent runs of studies, and the runs below the first of them."""
    client = MlflowClient(work.store)
    everything = client.search_runs([client.get_experiment_by_name("landuse").experiment_id])
    parents = [run for run in everything if run.info.run_name.endswith("-study")]
    below = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    return parents, below


def state(work: Workspace) -> tuple[str, bytes, set[Path]]:
    """Return what a study must not change: git's worktrees and status, the lock file, the artifacts."""
    artifacts = {path for path in (work.folder / "artifacts").rglob("*") if not path.name.startswith("study.")}
    git = work.ok("git", "worktree", "list") + work.ok("git", "status", "--porcelain")
    return git, (work.folder / "dvc.lock").read_bytes(), artifacts


def rows(work: Workspace) -> pd.DataFrame:
    return pd.read_csv(work.folder / "artifacts" / "study.csv")


def test_two_networks_are_compared_cached_registered_and_verified(work: Workspace) -> None:
    compare(work, V1)
    before = state(work)
    printed = work.ok("landuse", "study")
    assert "artifacts/study.html compares 2 networks on the same 80 images" in printed
    assert printed.count(STAGES) == 3, "the first network is the project's own, in the cache; the split is given"
    assert state(work) == before and (work.folder / "artifacts" / "study.html").stat().st_size < 2_000_000
    first = rows(work)
    assert first["backbone"].tolist() == ["mobilenet_v2", "mobilenet"] and (first["images"] == 80).all()

    parents, below = runs(work)
    assert len(parents) == 1 and {run.info.run_id for run in below} == {*first["run"]}
    files = {item.path for item in MlflowClient(work.store).list_artifacts(parents[0].info.run_id)}
    assert files == {"study.html", "study.csv"}
    splits = {
        Path(MlflowClient(work.store).download_artifacts(run.info.run_id, "splits.csv")).read_bytes() for run in below
    }
    assert len(splits) == 1 and {run.data.metrics["tflite/int8_accuracy"] for run in below} == {*first["int8_accuracy"]}

    work.change(lambda params: params["train"].update(seed=1))  # no change: only the file is written again
    printed = work.ok("landuse", "study", "--register")
    assert printed.count(STAGES) == printed.count(f"{STAGES} 'register'") == 2 and len(runs(work)[0]) == 1
    kernels = [column for column in first if "kernels" in column]
    assert rows(work)[kernels].equals(first[kernels])
    versions = MlflowClient(work.store, work.store).search_model_versions(f"name='{NAME}'")
    own = next(version for version in versions if version.run_id == first["run"][1])
    assert facts_of(own.tags)["study.split"] == "mobilenet_v2" and len(versions) == 2
    assert "came out the same" in work.ok("landuse", "verify", str(own.version))


def test_a_study_that_was_stopped_goes_on_where_it_was(work: Workspace) -> None:
    compare(work, {"unfreeze_from": "head"}, V1)
    before, log = state(work), work.folder.parent / "log"
    with log.open("w") as file:
        study = subprocess.Popen(
            ["landuse", "study"], cwd=work.folder, env=work.env(), stdout=file, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
        )  # fmt: skip
        wait_for(lambda: "Running stage 'train'" in log.read_text().partition("3 of 3: mobilenet")[2], 300)
        study.send_signal(signal.SIGINT)
        assert study.wait() == 130
    end = log.read_text()
    assert "2 of 3 networks are done: the same command goes on from there" in end and end.endswith("landuse: stopped\n")
    assert state(work) == before and not (work.folder / "artifacts" / "study.html").exists()
    printed = work.ok("landuse", "study")
    assert [line for line in printed.splitlines() if STAGES in line] == [f"{STAGES} 'train':", f"{STAGES} 'evaluate':"]
    assert len(runs(work)[0]) == 1 and len(rows(work)) == 3 and state(work) == before


def test_weights_of_another_backbone_are_refused_and_of_another_width_end_the_study(work: Workspace) -> None:
    compare(work, {"backbone": "mobilenet", "unfreeze_from": "head"})
    name = work.weights.name
    misfit = f"study.networks.1.weights = {name}: holds weights of mobilenet_v2, and extract.backbone = mobilenet"
    assert misfit in work.refused("landuse", "study")
    compare(work, {"alpha": 0.5, "unfreeze_from": "head"})
    before = state(work)
    done = work.run("landuse", "study")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "does not fit mobilenet_v2 with extract.alpha = 0.5" in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("landuse: mobilenet_v2 0.5: a stage failed, as said above")
    assert state(work) == before


def test_a_result_whose_run_is_not_in_the_store_is_recorded_again(work: Workspace) -> None:
    compare(work, {"unfreeze_from": "head"})
    work.ok("landuse", "study")
    for name in ("mlflow.db", "mlruns"):
        (work.folder / name).rename(work.folder / f"{name}-before")
    printed = work.ok("landuse", "study")
    assert [line for line in printed.splitlines() if STAGES in line] == [f"{STAGES} 'evaluate':"] * 2
    assert {run.info.run_id for run in runs(work)[1]} == {*rows(work)["run"]}
    assert json.loads((work.folder / "artifacts" / "metrics.json").read_text())["accuracy"] == rows(work)["accuracy"][0]
