"""Recovery from a killed command at the start of the next one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from landuse import ingest
from landuse.cli import app
from landuse.core import process
from landuse.core.paths import DVC_RWLOCK, SERVICES, SWAP
from landuse.recovery import STAGE, recover_interrupted
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
def truncated_rwlock(project: Path) -> Path:
    """Return the rwlock of a `dvc repro` killed while writing it: an empty file, which blocks every DVC command."""
    subprocess.run([sys.executable, "-c", KILLED])
    assert DVC_RWLOCK.read_bytes() == b""
    return DVC_RWLOCK


def test_the_next_verb_removes_the_rwlock_that_a_killed_dvc_left_empty(truncated_rwlock: Path) -> None:
    with pytest.raises(SystemExit):
        app(["info", "--help"])
    assert not truncated_rwlock.exists()


def test_make_status_removes_it_too(truncated_rwlock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pipelines", "status"])
    monkeypatch.setattr(pipelines, "status", lambda: None)
    pipelines.main()
    assert not truncated_rwlock.exists()


def test_a_flow_removes_it_too(truncated_rwlock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "get_run_logger", lambda: commands.logging.getLogger("run"))
    with commands.flow_lock():
        assert not truncated_rwlock.exists()


def test_a_stage_run_by_dvc_recovers_nothing(truncated_rwlock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAGE, "validate")
    recover_interrupted()
    assert truncated_rwlock.exists()


def test_a_running_ingest_is_not_disturbed(truncated_rwlock: Path) -> None:
    with process.exclusive_lock(ingest.LOCK, ingest.BUSY):
        SWAP.touch()
        recover_interrupted()
    assert truncated_rwlock.exists() and SWAP.exists()


def test_if_nothing_was_killed_dvc_is_not_even_imported(project: Path) -> None:
    DVC_RWLOCK.parent.mkdir()
    DVC_RWLOCK.write_text(json.dumps({"read": {}, "write": {}}))
    script = "import sys; from landuse import recovery; recovery.recover_interrupted(); print('dvc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and DVC_RWLOCK.exists() and not SERVICES.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_an_unreadable_rwlock_does_not_raise(truncated_rwlock: Path) -> None:
    truncated_rwlock.chmod(0)
    recover_interrupted()
