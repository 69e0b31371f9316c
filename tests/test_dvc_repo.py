"""DVC's list of which process reads and writes what, and its locks, after a process was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from workspace import Workspace, copy_project

from landuse.project.dvc_repo import release_stale_locks, repository

STAGE = """
import time
from dvc.repo import Repo
from dvc.rwlock import rwlock
repo = Repo()
with rwlock(repo.tmp_dir, repo.fs, "dvc repro", [repo.root_dir + "/data"], [], False):
    print("in", flush=True)
    time.sleep(60)
"""
MINE = {"pid": os.getpid(), "cmd": "dvc repro"}


@pytest.fixture
def holders(project: Path) -> Path:
    """The file that contains DVC's list."""
    (project / ".dvc" / "tmp").mkdir()
    return project / ".dvc" / "tmp" / "rwlock"


def release() -> None:
    """Release stale locks, as every ingest does, and a flow while DVC makes it wait."""
    with repository() as repo:
        release_stale_locks(repo)


def test_a_missing_or_empty_list_is_left_alone(holders: Path) -> None:
    release()
    assert not holders.exists()
    holders.write_text("{}")
    release()
    assert holders.read_text() == "{}"


@pytest.mark.parametrize("damaged", ["", '{"write": {"/a', "[]", '{"read": {"/a": [{}]}}', '{"write": 3}'])
def test_a_damaged_list_is_removed(holders: Path, damaged: str) -> None:
    holders.write_text(damaged)
    release()
    assert not holders.exists()


@pytest.mark.parametrize("content", [{"write": {"/a": MINE}}, {"read": {"/a": [MINE]}, "write": {}}])
def test_a_process_that_started_after_the_list_was_written_holds_no_lock(holders: Path, content: dict) -> None:
    holders.write_text(json.dumps(content))
    release()
    assert holders.exists(), "this process was running when the list was written"
    os.utime(holders, (0, 0))
    release()
    assert not holders.exists()


def test_a_running_process_keeps_its_lock_even_if_the_clock_was_changed(holders: Path) -> None:
    command = " ".join(psutil.Process().cmdline()[1:])
    holders.write_text(json.dumps({"write": {"/a": MINE | {"cmd": command}}}))
    os.utime(holders, (0, 0))
    release()
    assert holders.exists()


def test_a_running_stage_keeps_its_lock_and_a_killed_one_loses_it(holders: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STAGE], stdout=subprocess.PIPE) as stage:
        stage.stdout.readline()
        release()
        assert json.loads(holders.read_text())["read"]
        stage.kill()
    release()
    assert not holders.exists()


@pytest.mark.slow
def test_dvc_keeps_its_state_in_a_folder_that_only_its_user_can_access(tmp_path: Path, untouched: Workspace) -> None:
    work = copy_project(untouched, tmp_path / "project")
    (work.folder / ".dvc" / "tmp").mkdir(mode=0o755, exist_ok=True)  # as DVC would create it
    work.ok("landuse", "ingest", DVC_SITE_CACHE_DIR="")
    assert list((work.folder / ".dvc" / "tmp" / "site" / "repo").iterdir())
    assert (work.folder / ".dvc" / "tmp").stat().st_mode & 0o077 == 0
