"""Whatever command comes next heals what one that was killed left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from landuse import ingest
from landuse.cli import app
from landuse.core import process
from landuse.core.paths import HOLDERS, SERVICES, SWAP
from landuse.recovery import STAGE, recover_killed
from pipelines import __main__ as pipelines
from pipelines.steps import commands

KILLED = """
import builtins, os, signal
from dvc.repo import Repo
from dvc.rwlock import json, rwlock
repo = Repo()
json.dump = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with rwlock(repo.tmp_dir, repo.fs, "dvc repro", [repo.root_dir + "/data"], [], False):
    pass
"""


@pytest.fixture
def cut_short(project: Path) -> Path:
    """The list of a `dvc repro` that was killed while it wrote it: an empty file, which stops every DVC command."""
    subprocess.run([sys.executable, "-c", KILLED])
    assert HOLDERS.read_bytes() == b""
    return HOLDERS


def test_the_next_verb_removes_the_list_that_a_killed_dvc_left_empty(cut_short: Path) -> None:
    with pytest.raises(SystemExit):
        app(["info", "--help"])
    assert not cut_short.exists()


def test_so_does_make_status(cut_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pipelines", "status"])
    monkeypatch.setattr(pipelines, "status", lambda: None)
    pipelines.main()
    assert not cut_short.exists()


def test_so_does_a_flow(cut_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "get_run_logger", lambda: commands.logging.getLogger("run"))
    with commands.alone():
        assert not cut_short.exists()


def test_a_stage_of_dvc_heals_nothing_under_it(cut_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAGE, "validate")
    recover_killed()
    assert cut_short.exists()


def test_what_another_ingest_is_at_work_on_is_left_to_it(cut_short: Path) -> None:
    with process.alone(ingest.LOCK, ingest.BUSY):
        SWAP.touch()
        recover_killed()
    assert cut_short.exists() and SWAP.exists()


def test_where_nothing_was_killed_dvc_is_not_even_loaded(project: Path) -> None:
    HOLDERS.parent.mkdir()
    HOLDERS.write_text(json.dumps({"read": {}, "write": {}}))
    script = "import sys; from landuse.recovery import recover_killed; recover_killed(); print('dvc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and HOLDERS.exists() and not SERVICES.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_list_that_may_not_be_read_stops_nothing(cut_short: Path) -> None:
    cut_short.chmod(0)
    recover_killed()
