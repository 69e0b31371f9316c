"""A server that answers with the model of the finished project."""

from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
from running import in_this_process

from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.predictor import Answers


@pytest.fixture(scope="session")
def answers(finished: Path) -> Answers:
    return Answers(load(str(finished / "artifacts/model")), Metrics(), None, str(finished / "data"))


@pytest.fixture
def served_copy(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The params of the project with a champion in a folder of their own, to change at will."""
    (tmp_path / "data").symlink_to(served / "data")
    copy(served / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def place(answers: Answers) -> Iterator[str]:
    """The address of a server in this process, with data/ as its root."""
    with in_this_process(answers) as address:
        yield address
