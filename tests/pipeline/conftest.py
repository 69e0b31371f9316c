"""The whole pipeline, run once for real; tests read that run or change a copy of it."""

from pathlib import Path

import pytest
from workspace import Workspace, copy_project, small_project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A committed clone in which `landuse ingest` and `dvc repro` have completed. Read-only."""
    work = small_project(tmp_path_factory.mktemp("pipeline"))
    work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    work.commit()
    return work


@pytest.fixture
def work(whole_run: Workspace, tmp_path: Path) -> Workspace:
    """A writable copy of the finished project; it shares the weights file with the original."""
    return copy_project(whole_run, tmp_path / "project")
