"""Fixtures: a predictor with the model of the finished project, and a server for it."""

from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
from running import serve_in_thread

from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.predictor import Predictor


@pytest.fixture(scope="session")
def predictor(finished: Path) -> Predictor:
    return Predictor(load(str(finished / "artifacts/model")), Metrics(), None, str(finished / "data"))


@pytest.fixture
def served_copy(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writable params of the project with a champion, in a folder of their own."""
    (tmp_path / "data").symlink_to(served / "data")
    copy(served / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def url(predictor: Predictor) -> Iterator[str]:
    """The URL of a server in this process, with data/ as its root."""
    with serve_in_thread(predictor) as address:
        yield address
