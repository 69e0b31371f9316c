"""DVC's list of which process reads and writes what, after a process was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from workspace import small_project

from landuse.project.dvc_repo import release_the_lost, repository

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
    """The file that DVC keeps its list in."""
    (project / ".dvc" / "tmp").mkdir()
    return project / ".dvc" / "tmp" / "rwlock"


def release() -> None:
    """As every ingest does, and a flow that DVC keeps waiting."""
    with repository() as repo:
        release_the_lost(repo)


def test_where_there_is_no_list_or_nobody_in_it_nothing_happens(holders: Path) -> None:
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


@pytest.mark.parametrize("found", [{"write": {"/a": MINE}}, {"read": {"/a": [MINE]}, "write": {}}])
def test_a_process_that_began_after_the_list_was_written_is_not_the_one_in_it(holders: Path, found: dict) -> None:
    holders.write_text(json.dumps(found))
    release()
    assert holders.exists(), "this process was there when it was written"
    os.utime(holders, (0, 0))
    release()
    assert not holders.exists()


def test_a_process_at_work_keeps_what_it_holds_whatever_the_clock_was_set_to(holders: Path) -> None:
    command = " ".join(psutil.Process().cmdline()[1:])
    holders.write_text(json.dumps({"write": {"/a": MINE | {"cmd": command}}}))
    os.utime(holders, (0, 0))
    release()
    assert holders.exists()


def test_a_stage_at_work_keeps_what_it_holds_and_one_that_was_killed_does_not(holders: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STAGE], stdout=subprocess.PIPE) as stage:
        stage.stdout.readline()
        release()
        assert json.loads(holders.read_text())["read"]
        stage.kill()
    release()
    assert not holders.exists()


@pytest.mark.slow
def test_dvc_keeps_its_state_where_no_other_user_can_write(tmp_path: Path) -> None:
    work = small_project(tmp_path)
    (work.folder / ".dvc" / "tmp").mkdir(mode=0o755, exist_ok=True)  # as DVC would have made it
    work.ok("landuse", "ingest", DVC_SITE_CACHE_DIR="")
    assert list((work.folder / ".dvc" / "tmp" / "site" / "repo").iterdir())
    assert (work.folder / ".dvc" / "tmp").stat().st_mode & 0o077 == 0
