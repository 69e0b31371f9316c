"""A stage that is interrupted while DVC writes dvc.lock leaves the file intact."""

from pathlib import Path

import pytest

from pipelines.steps.commands import CommandFailed, flow_lock
from pipelines.steps.lockfile import protect_lockfile

COMPLETE = "stages:\n  split:\n    cmd: landuse split\n    outs: [splits]\n"
NEWER = COMPLETE + "  train:\n    cmd: landuse train\n"
CMD = "stages:\n  split:\n    cmd: landuse split\n"
TRUNCATED = ["", "sta", "stages:\n", CMD, COMPLETE[:-1], CMD.replace("split", "train"), "\t: ["]


@pytest.fixture
def lock(work_dir: Path) -> Path:
    """A complete dvc.lock in the working folder."""
    path = Path("dvc.lock")
    path.write_text(COMPLETE)
    return path


def test_a_finished_stage_keeps_the_new_lock_file(lock: Path) -> None:
    with protect_lockfile(Path()):
        lock.write_text(NEWER)
    with flow_lock():
        assert lock.read_text() == NEWER


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), CommandFailed("killed", -9)], ids=["the flow", "its command"])
def test_an_interrupted_stage_restores_the_old_lock_file(lock: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)), protect_lockfile(Path()):
        lock.write_text(TRUNCATED[1])
        raise stop
    assert lock.read_text() == COMPLETE


def test_a_failed_stage_keeps_a_complete_lock_file(lock: Path) -> None:
    with pytest.raises(CommandFailed), protect_lockfile(Path()):
        lock.write_text(NEWER)
        raise CommandFailed("busy", 255)
    with flow_lock():
        assert lock.read_text() == NEWER


@pytest.mark.parametrize("truncated", TRUNCATED)
def test_the_next_flow_repairs_the_lock_file_of_a_killed_one(lock: Path, truncated: str) -> None:
    stopped = protect_lockfile(Path())
    stopped.__enter__()
    lock.write_text(truncated)
    with flow_lock():
        assert lock.read_text() == COMPLETE


def test_the_next_flow_restores_a_missing_lock_file(lock: Path) -> None:
    stopped = protect_lockfile(Path())
    stopped.__enter__()
    lock.unlink()
    with flow_lock():
        assert lock.read_text() == COMPLETE


def test_stages_run_by_hand_after_a_kill_are_kept(lock: Path) -> None:
    stopped = protect_lockfile(Path())
    stopped.__enter__()
    lock.write_text(NEWER)
    with flow_lock():
        pass
    with flow_lock():
        assert lock.read_text() == NEWER


def test_a_project_without_a_lock_file_gets_none(work_dir: Path) -> None:
    with protect_lockfile(Path()):
        pass
    assert not Path("dvc.lock").exists()
