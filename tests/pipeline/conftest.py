"""The whole pipeline, run once for real; tests read that run, or change a copy of it."""

import subprocess
from pathlib import Path
from shutil import copy2, copytree
from typing import Any

import pytest
from workspace import SIDE, Workspace, write_weights

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


def clone(folder: Path) -> None:
    """The last commit and, over it, the files as they are now."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, folder / name)


def make_small(params: dict[str, Any], weights: Path) -> None:
    """The sample preset, with weights of its own and little to train."""
    params["extract"] |= {"alpha": 0.35, "image_size": SIDE, "weights": str(weights), "views": 2}
    params["train"] |= {"unfreeze_from": "block_16", "epochs": 6, "learning_rate": 0.01, "patience": 6}
    params["evaluate"]["latency_runs"] = 3


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A clone in which `landuse ingest` and `dvc repro` ran to the end, committed. Only to be read."""
    folder = tmp_path_factory.mktemp("pipeline")
    work = Workspace(folder / "project", folder / "own.weights.h5")
    write_weights(work.weights, alpha=0.35)
    clone(work.folder)
    (work.folder / "params.yaml").write_bytes((ROOT / "presets" / "sample.yaml").read_bytes())
    work.change(lambda params: make_small(params, work.weights))
    work.commit()
    work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    work.commit()
    return work


@pytest.fixture
def work(whole_run: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished project, to be changed; the weights file is that of the original."""
    copytree(whole_run.folder, tmp_path / "project")
    return Workspace(tmp_path / "project", whole_run.weights)
