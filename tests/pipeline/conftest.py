"""Tests of the whole pipeline read a run of it, or change a copy of it."""

from pathlib import Path

import pytest
from workspace import Workspace, copy_project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture
def work(whole_run: Workspace, tmp_path: Path) -> Workspace:
    """A writable copy of the finished project."""
    return copy_project(whole_run, tmp_path / "project")
