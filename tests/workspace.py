"""A project in its own folder, driven through the real commands."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copy2
from typing import Any

import numpy as np
import yaml
from shared import copy_with_store

from landuse import sample

ROOT = Path(__file__).parents[1]
SIDE = 96
WEIGHTS = "own.weights.h5"
LATER = datetime.now(UTC) + timedelta(days=30)
NOT_YET = f"0 3 {LATER.day} {LATER.month} *"  # a schedule that is not due during the tests, and yet planned by Prefect
LENIENT_GATE = {
    "min_images": 1, "min_accuracy": 0.0, "min_macro_f1": 0.0, "min_class_recall": 0.0, "max_calibration_error": 1.0,
    "margin": 1.0, "significance": 0.0, "max_class_fall": 1.0, "min_slice_accuracy": 0.0,
    "max_disturbed_fall": 1.0, "max_latency_ms": 10_000, "max_coverage_fall": 1.0, "max_shrinkage": 1.0,
}  # fmt: skip
TIMEOUT_SECONDS = 900  # longer than any command takes, in case one hangs
IDENTITY = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class Workspace:
    """A clone of the project that runs its own source. `weights` is the file that its params name."""

    folder: Path
    weights: Path

    @property
    def store(self) -> str:
        """The URI of its MLflow store."""
        return f"sqlite:///{self.folder}/mlflow.db"

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of a user of this project only, with bytecode caching on as usual."""
        dropped = ("MLFLOW_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = f"{Path(sys.executable).parent}:{inherited['PATH']}"
        site = str(self.folder.parent / "dvc-site-cache")
        project = {"PATH": path, "PYTHONPATH": str(self.folder / "src"), "DVC_SITE_CACHE_DIR": site, "COLUMNS": "200"}
        return inherited | IDENTITY | project | more

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whether it succeeds or not; `more` is added to the environment."""
        return subprocess.run(
            command, cwd=self.folder, env=self.env(**more), umask=0o022, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS,
        )  # fmt: skip

    def ok(self, *command: str, **more: str) -> str:
        """Run a command that must succeed; returns its output."""
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, *command: str, **more: str) -> str:
        """Run a `landuse` command that must be refused; returns its one-line message."""
        done = self.run(*command, **more)
        assert done.returncode in (1, 3, 75, 78), f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        assert done.stderr.startswith("landuse: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def stages_run(self, *command: str) -> list[str]:
        """Run a DVC command; returns the stages it ran, in order."""
        return re.findall(r"^Running stage '(\w+)'", self.ok(*command), re.MULTILINE)

    def stale(self) -> dict[str, Any]:
        """Return what DVC reports as changed, by stage."""
        return yaml.safe_load(self.ok("dvc", "status", "--json"))

    def change(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Edit params.yaml."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace text in a file, which must contain it."""
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def commit(self) -> str:
        """Commit all changed and new files; returns the commit."""
        self.ok("git", "add", "--all")
        self.ok("git", "commit", "--quiet", "--allow-empty", "--message", "a step")
        return self.ok("git", "rev-parse", "HEAD").strip()


def write_weights(path: Path, alpha: float) -> None:
    """Write random weights with BatchNorm statistics of the sample, so that images differ in their features."""
    import keras

    keras.utils.set_random_seed(3)
    backbone = keras.applications.MobileNetV2((SIDE, SIDE, 3), alpha=alpha, include_top=False, weights=None)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    images = [sample.draw(label, 0).resize((SIDE, SIDE)) for label in sample.CLASSES]
    backbone(np.stack([np.asarray(image) for image in images]) / np.float32(127.5) - 1, training=True)
    backbone.save_weights(path)


def small_project(folder: Path) -> Workspace:
    """Create a committed clone of the current project below a folder: the sample, with little to train."""
    work = Workspace(folder / "project", folder / "project" / "weights" / WEIGHTS)
    clone(work.folder)
    write_weights(work.weights, alpha=0.35)
    (work.folder / "params.yaml").write_bytes((ROOT / "presets" / "sample.yaml").read_bytes())
    work.change(lambda params: make_small(params, WEIGHTS))
    work.commit()
    return work


def copy_project(work: Workspace, folder: Path) -> Workspace:
    """Copy a project, with the weights in it, to a new folder, with its store's paths rewritten."""
    return Workspace(copy_with_store(work.folder, folder), folder / work.weights.relative_to(work.folder))


def clone(folder: Path) -> None:
    """Clone the last commit, then copy the current files over it."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, folder / name)


def make_small(params: dict[str, Any], weights: str) -> None:
    """Reduce the sample preset to little training, with the given weights."""
    params["extract"] |= {"alpha": 0.35, "image_size": SIDE, "weights": weights, "views": 2}
    params["train"] |= {"unfreeze_from": "block_16", "epochs": 6, "learning_rate": 0.01, "patience": 6}
    params["evaluate"]["latency_runs"] = 3
