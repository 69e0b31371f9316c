"""The stages of a network, run by DVC in a copy of the project, so that the project itself stays as it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landuse.core.errors import LanduseError
from landuse.core.paths import PARAMS, SPLITS, STUDY_COPY, absolute_tracking_uri
from landuse.project.worktree import copied_project, run_stages
from landuse.study.networks import Network


@contextmanager
def study_copy() -> Iterator["StudyCopy"]:
    """Yield a copy of the project, as it is now, in which the networks of a study are trained one after the other."""
    with copied_project(STUDY_COPY) as folder:
        yield StudyCopy(folder)


class StudyCopy:
    """A copy of the project; the first network makes the split, and the others are given the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.split: bytes | None = None

    def train(self, network: Network) -> None:
        """Train and evaluate a network, or fetch its results from DVC's run cache. Raises LanduseError if it fails."""
        (self.folder / PARAMS).unlink()  # the user may have made a link of it
        (self.folder / PARAMS).write_text(network.params_text(), encoding="utf-8")
        if self.split is None:
            self.run(network, "evaluate")
            self.split = (self.folder / SPLITS).read_bytes()
        else:
            (self.folder / SPLITS).unlink()  # DVC may have made a link into its cache
            (self.folder / SPLITS).write_bytes(self.split)
            self.run(network, "--single-item", "extract", "train", "evaluate")

    def run(self, network: Network, *arguments: str) -> None:
        """Run `dvc repro` with the project's MLflow store. Raises LanduseError if a stage fails."""
        environment = os.environ | {"MLFLOW_TRACKING_URI": absolute_tracking_uri()}
        if not run_stages(self.folder, environment, *arguments):
            raise LanduseError(f"{network.name}: a stage failed, as said above; the same command goes on from there")
