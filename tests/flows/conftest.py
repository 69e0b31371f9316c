"""What the tests of the flows share: an empty project, its own commands, and what a run logs, without a server."""

import logging
from pathlib import Path

import pytest
from processes import ROOT

from landuse.paths import INBOX, SERVICES
from pipelines import commands


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """An empty folder to work in, with the folders of the flows; what a run logs is in caplog."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("run"))
    caplog.set_level(logging.INFO)
    SERVICES.mkdir()
    INBOX.mkdir()
    return tmp_path
